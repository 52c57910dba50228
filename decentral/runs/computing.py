"""How long a worker computes on the simulated clock of the described cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from decentral.errors import UserError
from decentral.network.compute import COMPUTE_TIMES, ComputeTime
from decentral.problems.objective import Place
from decentral.runs.sections.network import Flops, Network, PerSample


def compute_time(network: Network, problem: Any, place: Place) -> ComputeTime:
    """Seconds of a worker's gradient: those of ``[network.compute]``, or by the FLOPs of the first one at ``place``.

    That should be worker 0 alone, on a CPU, by the loop, so that machines and numbers of ranks count alike. Raises
    UserError for seconds of a sample where batches are "full", and so of different sizes.
    """
    if isinstance(network.compute, PerSample):
        if place.batch_size == "full":
            raise UserError(
                'network.compute.name = "per-sample" needs batches of one size, and train.batch_size = "full"; '
                'set a number, or use "flops"'
            )
        return COMPUTE_TIMES["constant"](compute_s=network.compute.sample_s * place.batch_size)
    if not isinstance(network.compute, Flops):
        return network.compute
    flops = gradient_flops(problem, place)
    return COMPUTE_TIMES["constant"](compute_s=flops / network.compute.flops_per_s)


def gradient_flops(problem: Any, place: Place) -> float:
    """As torch's counter sees them; or, where it sees none, 2 d."""
    objective = problem.build(replace(place, adversarial=None))
    x = objective.start().unsqueeze(0).clone()
    return flops_of(lambda: list(objective.gradient(x, 0)), 2.0 * objective.d)


def flops_of(work: Callable[[], object], otherwise: float) -> float:
    """FLOPs of ``work`` as torch's counter sees them: matrix products and convolutions; or, where it sees none, that.

    So too where it cannot look: into a model that asks for gradients itself.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes time to import

    try:
        with FlopCounterMode(display=False) as counter:
            work()
    except RuntimeError:
        return otherwise
    return float(counter.get_total_flops() or otherwise)
