"""``[adversarial]``: what it does not go with. Its keys: :class:`decentral.problems.adversarial.Adversarial`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decentral.errors import UserError
from decentral.problems.capabilities import Perturbable
from decentral.runs.kind import name_of
from decentral.runs.sections.names import PROBLEMS

if TYPE_CHECKING:
    from decentral.problems.adversarial import Adversarial
    from decentral.runs.sections.faults import Faults
    from decentral.runs.sections.train import Train


def refuse_adversarial(settings: Adversarial, problem: Any, train: Train, faults: Faults | None) -> None:
    """Raise UserError for a problem without inputs to move, gradients that are batched, or what attackers cannot do."""
    if not isinstance(problem, Perturbable):
        raise UserError(
            f"[adversarial] moves inputs that are numbers, and those of problem.name = "
            f"{name_of(problem, PROBLEMS)!r} are not, or there are none; remove the section, or take mlp, cnn, "
            "resnet, vgg or module"
        )
    if getattr(problem, "optimum", False):
        raise UserError(
            "problem.optimum = true is of samples alone, and [adversarial] adds examples; set it to false, or remove "
            "the section"
        )
    if train.oracle == "batched":
        raise UserError(
            '[adversarial] computes gradients one worker after the other, and train.oracle = "batched" asks for all '
            'at once; set it to "auto" or "loop"'
        )
    if not settings.attackers:
        return
    if train.compile:
        raise UserError(
            "adversarial.attackers = true does not go with train.compile = true; set one of them to false"
        )
    if faults is not None and faults.absent_workers:
        raise UserError(
            "adversarial.attackers = true makes the next examples of a worker that faults.absent_workers takes away; "
            "set it to false, or keep all workers"
        )


def worker_ranks(settings: Adversarial | None, workers: int, ranks: int) -> int:
    """How many of the ranks host workers: half of them where the others attack. Raises UserError for other numbers."""
    if ranks == 1 or settings is None or not settings.attackers:
        return ranks
    if ranks % 2 or workers % (ranks // 2):
        fits = [str(2 * r) for r in range(1, workers + 1) if workers % r == 0]
        raise UserError(
            f"adversarial.attackers = true gives each rank of workers one beside it, and {ranks} ranks do not go with "
            f"{workers} workers; launch {' or '.join(fits[-3:])} ranks, or set it to false"
        )
    return ranks // 2
