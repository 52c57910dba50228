"""What a schedule may have to know of its run before it can say a learning rate, and how it is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import NamedTuple, NoReturn

from decentral.optimizers.schedules import Schedule


class Facts(NamedTuple):
    """What a run tells its schedule.

    ``lr``: ``train.lr``. ``batch``: samples of one step's gradient, of all workers together; ``epoch_rounds``: rounds
    of a pass over the data, exactly; both None where there are none, and ``missing`` says why. ``hears``: whether the
    losses of all workers are known in every round.
    """

    rounds: int
    lr: float
    seed: int
    batch: int | None
    epoch_rounds: Fraction | None
    missing: str = ""
    hears: bool = False


class OfRun(ABC):
    """A schedule that goes by facts of its run: :meth:`fitted` gives the one that can be asked."""

    @abstractmethod
    def fitted(self, facts: Facts) -> Schedule:
        """The schedule of that run. Raises ValueError where it does not fit into it."""

    def lr(self, t: int, rounds: int, base: float) -> NoReturn:
        """There is none before the run is known: ValueError."""
        del t, rounds, base
        raise ValueError(f"{type(self).__name__} goes by facts of a run; ask the schedule of fitted(facts)")
