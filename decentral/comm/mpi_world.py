"""The ranks of an MPI job as a :class:`decentral.comm.world.World`."""

from __future__ import annotations

from decentral.comm.launch import check_launch
from decentral.comm.mpi import MPI, MPIComm
from decentral.comm.ranks_world import RanksWorld


class MPIWorld(RanksWorld):
    """The ranks of ``mpi``, by default all of this job."""

    comm, nowhere = MPIComm, MPI.PROC_NULL

    def __init__(self, mpi: MPI.Comm | None = None) -> None:
        super().__init__(MPI.COMM_WORLD if mpi is None else mpi)
        check_launch(self.ranks)

    def host_names(self) -> list[str]:
        """See :class:`World`."""
        return self.agree(MPI.Get_processor_name())
