"""``[adversarial]``: what it does not go with. Its keys: :class:`decentral.problems.adversarial.Adversarial`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.problems.capabilities import Perturbable
from decentral.runs.kind import name_of
from decentral.runs.sections.names import PROBLEMS

if TYPE_CHECKING:
    from decentral.problems.adversarial import Adversarial
    from decentral.runs.rounds.config import RoundsRun


def refuse_adversarial(run: RoundsRun, settings: Adversarial) -> None:
    """Raise UserError for a problem without inputs to move, gradients that are batched, or what attackers cannot do."""
    if not isinstance(run.problem, Perturbable):
        raise UserError(
            f"[adversarial] moves inputs that are numbers, and those of problem.name = "
            f"{name_of(run.problem, PROBLEMS)!r} are not, or there are none; remove the section, or take mlp, cnn, "
            "resnet, vgg or module"
        )
    if run.train.oracle == "batched":
        raise UserError(
            '[adversarial] computes gradients one worker after the other, and train.oracle = "batched" asks for all '
            'at once; set it to "auto" or "loop"'
        )
    if not settings.attackers:
        return
    if run.train.compile:
        raise UserError(
            "adversarial.attackers = true does not go with train.compile = true; set one of them to false"
        )
    if run.faults is not None and run.faults.absent_workers:
        raise UserError(
            "adversarial.attackers = true makes the next examples of a worker that faults.absent_workers takes away; "
            "set it to false, or keep all workers"
        )


def worker_ranks(run: RoundsRun, ranks: int) -> int:
    """How many of the ranks host workers: half of them where the others attack. Raises UserError for an odd number."""
    if ranks == 1 or run.adversarial is None or not run.adversarial.attackers:
        return ranks
    if ranks % 2 or run.workers % (ranks // 2):
        fits = [str(2 * r) for r in range(1, run.workers + 1) if run.workers % r == 0]
        raise UserError(
            f"adversarial.attackers = true gives each rank of workers one beside it, and {ranks} ranks do not go with "
            f"{run.workers} workers; launch {' or '.join(fits[-3:])} ranks, or set it to false"
        )
    return ranks // 2
