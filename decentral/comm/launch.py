"""Who started this process: alone, or one of an MPI job. Reads the environment; imports no MPI."""

from __future__ import annotations

import os

from decentral.errors import UserError

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
