"""``problem.actor_ranks``: which ranks host workers then, and what it does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decentral.errors import UserError
from decentral.problems.capabilities import Acted

if TYPE_CHECKING:
    from decentral.optimizers.rule import Rule
    from decentral.runs.sections.faults import Faults
    from decentral.runs.sections.phases import Phases
    from decentral.runs.sections.train import Train


def refuse_actors(
    problem: Any, train: Train, faults: Faults | None, phases: Phases | None, rule: Rule | None
) -> None:
    """Raise UserError where actors on other ranks would have to do rounds again, or not at all."""
    if not isinstance(problem, Acted) or not problem.actor_ranks:
        return
    for other, there in (
        ("train.compile = true", train.compile),
        ("faults.absent_workers", faults is not None and bool(faults.absent_workers)),
        ("[phases]", phases is not None),
        ("an [optimizer] that evaluates the loss", rule is not None and rule.evaluates),
    ):
        if there:
            raise UserError(
                f"problem.actor_ranks = {problem.actor_ranks} does not go with {other}; set it to 0, or do without"
            )


def hosting_ranks(problem: Any, workers: int, ranks: int) -> int:
    """How many of the ranks host workers: one of 1 + ``actor_ranks``. Raises UserError for other numbers."""
    beside = problem.actor_ranks if isinstance(problem, Acted) and ranks > 1 else 0
    if not beside:
        return ranks
    hosting, left = divmod(ranks, 1 + beside)
    if left or workers % max(1, hosting):
        fits = [str(r * (1 + beside)) for r in range(1, workers + 1) if workers % r == 0]
        raise UserError(
            f"problem.actor_ranks = {beside} gives each rank of workers so many beside it, and {ranks} ranks do not go "
            f"with {workers} workers; launch {' or '.join(fits[-3:])} ranks, or set it to 0"
        )
    return hosting
