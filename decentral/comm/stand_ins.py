"""Mixers that are no world: one that does something before or after another, and one that only does arithmetic."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from decentral.comm.mixer import Mixer

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Pending
    from decentral.comm.plan import MixingPlan


class Around(Mixer):
    """``comm``, for who changes a part of it: ``at``, and what of the rest is to be otherwise."""

    def __init__(self, comm: Mixer) -> None:
        self.comm = comm

    @abstractmethod
    def at(self, t: int, opening: bool = True) -> Mixer:
        """See :class:`Mixer`."""

    def start(self, x: Tensor) -> Pending:
        """See :class:`Mixer`."""
        return self.comm.start(x)

    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """See :class:`Mixer`."""
        return self.comm.finish(pending, out)

    def mean(self, x: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        return self.comm.mean(x)

    def exchange(self, y: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        return self.comm.exchange(y)

    @property
    def along(self) -> Mixer:
        """See :class:`Mixer`."""
        return self.comm.along

    @property
    def whole(self) -> bool:
        """See :class:`Mixer`."""
        return self.comm.whole

    @property
    def plan(self) -> MixingPlan:
        """See :class:`Mixer`."""
        return self.comm.plan

    def bill_gossip(self, x: Tensor) -> None:
        """See :class:`Mixer`."""
        self.comm.bill_gossip(x)

    def bill_all_reduce(self, x: Tensor) -> None:
        """See :class:`Mixer`."""
        self.comm.bill_all_reduce(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)  # n, h, rows, t, ranks, layout


class Averaged(Around):
    """``comm`` for a method that is handed the mean of all gradients: to average them again changes nothing."""

    def at(self, t: int, opening: bool = True) -> Mixer:
        """See :class:`Mixer`."""
        return Averaged(self.comm.at(t, opening))

    def mean(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class AtOnce(Mixer):
    """Sends nothing: mixing is arithmetic, which is done when it is begun. It owes ``mix`` and ``mean``."""

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """W x, or what stands for it: x (h, d) to a new (h, d)."""

    def mix_(self, x: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        return self.mix(x)

    def start(self, x: Tensor) -> Pending:
        """See :class:`Mixer`."""
        return None, self.mix(x), None

    def finish(self, pending: Pending, out: Tensor | None = None) -> Tensor:
        """See :class:`Mixer`."""
        return pending[1]
