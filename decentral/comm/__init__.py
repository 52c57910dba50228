"""How workers reach each other: one interface, three worlds, one ledger.

``mpi4py`` is imported only when MPIComm is asked for, so this package works where no MPI is installed.
"""

from typing import TYPE_CHECKING, Any

from decentral.comm.communicator import Communicator
from decentral.comm.ledger import Ledger
from decentral.comm.local import LocalComm
from decentral.comm.mixer import Mixer

if TYPE_CHECKING:
    from decentral.comm.distributed.world import TorchComm
    from decentral.comm.mpi import MPIComm

__all__ = ["Communicator", "Ledger", "LocalComm", "MPIComm", "Mixer", "TorchComm"]


def __getattr__(name: str) -> Any:
    if name == "MPIComm":
        from decentral.comm.mpi import MPIComm

        return MPIComm
    if name == "TorchComm":
        from decentral.comm.distributed.world import TorchComm

        return TorchComm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
