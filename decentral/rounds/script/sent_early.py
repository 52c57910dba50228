"""The first message of a script's round, sent as soon as the round before is done, while the gradient is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.comm import Communicator
from decentral.errors import UserError
from decentral.rounds.script.parameter_row import ParameterRow

if TYPE_CHECKING:
    from decentral.comm.mixer import Pending


class SentEarly:
    """``posted``: what is under way, a message for each block of ``row``; ``mpi_bytes``: what MPI has carried of it.

    ``sends``: whether the method's first message is x itself, and may be sent early.
    """

    def __init__(self, row: ParameterRow, comm: Communicator, sends: bool) -> None:
        self.row, self.comm, self.sends = row, comm, sends
        self.posted: list[Pending] = []
        self.mpi_bytes = 0
        self._versions = row.versions()
        if comm.departures is not None:
            comm.departures.under_way.append(self.posted)

    def send(self, t: int) -> None:
        """Send x for round t, if there was one before it."""
        if self.sends and t:
            self._versions = self.row.versions()
            ledger, comm = self.comm.ledger, self.comm.at(t)
            before = ledger.mpi_bytes
            self.posted += [comm.post(self.row.x[:, block.columns]) for block in self.row.blocks]
            self.mpi_bytes = ledger.mpi_bytes - before

    def settle(self) -> None:
        """Receive what is under way, and forget it."""
        for pending in self.posted:
            self.comm.finish(pending)
        self.posted.clear()
        self.mpi_bytes = 0

    def check(self) -> None:
        """Raise UserError if parameters are not what is being sent."""
        if self.posted and self._versions != self.row.versions():
            raise UserError(
                "parameters were written to between two steps, while they were being sent to the neighbours; make "
                "Decentralized with overlap=False, or write to them before the first step"
            )
