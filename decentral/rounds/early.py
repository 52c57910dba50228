"""A mixer whose first message of the round has been sent before, while the gradient was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.comm.stand_ins import Around

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer, Pending


class EarlyComm(Around):
    """``comm``, but the first mixing in each block of columns takes the answer to a message that is under way.

    ``posted``: what :meth:`Communicator.post` gave for each block, in their order; taken out when its block begins.
    For methods that :func:`decentral.rounds.trials.messages.sends_model_first` knows to send x as it is. The ledger is
    told now, for the message belongs to this round.
    """

    def __init__(self, comm: Mixer, posted: list[Pending]) -> None:
        super().__init__(comm)
        self.posted = posted
        self.pending: Pending | None = None

    def at(self, t: int, opening: bool = True) -> EarlyComm:
        """In round t, for its next block of columns."""
        bound = EarlyComm(self.comm.at(t, opening), self.posted)
        bound.pending = self.posted.pop(0)
        return bound

    def start(self, x: Tensor) -> Pending:
        """See :class:`Mixer`; x has been sent already if this is the first message."""
        if self.pending is None:
            return self.comm.start(x)
        plan, _, request = self.pending
        self.pending = None
        self.comm.bill_gossip(x)
        return plan, x, request
