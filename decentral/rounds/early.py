"""A communicator whose first message of the round has been sent before, while the gradient was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Communicator


class EarlyComm:
    """``comm``, but the first mixing in each block of columns takes the answer to a message that is under way.

    ``posted``: what :meth:`Communicator.post` gave for each block, in their order; taken out when its block begins.
    For methods that :func:`decentral.rounds.trials.messages.sends_model_first` knows to send x as it is. The ledger is
    told now, for the message belongs to this round.
    """

    def __init__(self, comm: Communicator, posted: list[Any]) -> None:
        self.comm, self.posted = comm, posted
        self.pending: Any = None

    def at(self, t: int, opening: bool = True) -> EarlyComm:
        """In round t, for its next block of columns."""
        bound = EarlyComm(self.comm.at(t, opening), self.posted)
        bound.pending = self.posted.pop(0)
        return bound

    def start(self, x: Tensor) -> Any:
        """As of a Communicator; x has been sent already if this is the first message."""
        if self.pending is None:
            return self.comm.start(x)
        plan, _, request = self.pending
        self.pending = None
        self.comm.bill_gossip(x)
        return plan, x, request

    def mix(self, x: Tensor) -> Tensor:
        """W x."""
        return self.comm.finish(self.start(x))

    def mix_(self, x: Tensor) -> Tensor:
        """W x, giving up x."""
        pending = self.start(x)
        return self.comm.finish(pending, x if pending[0].apart else None)

    def mix_sent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x, W x): nothing is compressed where messages leave early."""
        return x, self.mix(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)
