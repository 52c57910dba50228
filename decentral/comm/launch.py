"""Who started this process: alone, or one of an MPI job. Reads the environment; imports no MPI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from decentral.blocks import MOST_BLOCK_BYTES
from decentral.errors import UserError
from topologies.wording import shown

# what each launcher tells its processes. Those of the MPI library stand before those of the scheduler, whose
# variables are also those of a batch script that calls mpirun
SIZES = (
    "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "PALS_SIZE", "JSM_NAMESPACE_SIZE",
)  # fmt: skip
RANKS = (
    "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK", "PALS_RANKID", "JSM_NAMESPACE_RANK", "ALPS_APP_PE",
    "PMIX_RANK", "FLUX_TASK_RANK",
)  # fmt: skip
LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",  # Open MPI, PRRTE
    "MV2_COMM_WORLD_LOCAL_RANK",  # MVAPICH
    "MPI_LOCALRANKID",  # MPICH and Intel (hydra)
    "PALS_LOCAL_RANKID",  # HPE PALS
    "PMI_LOCAL_RANK",  # Cray PMI
    "PLE_RANK_ON_NODE",  # Fujitsu
    "JSM_NAMESPACE_LOCAL_RANK",  # IBM
    "MPT_LRANK",  # HPE MPT
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
)
"""A rank's number on its host; mpi_launch.sh has the same list."""

_LOCAL_SIZES = (
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "PALS_LOCAL_SIZE",
)
# with a size and a rank these tell of processes that are not joined by MPI
_FOREIGN = (("WORLD_SIZE", "RANK"), ("HOROVOD_SIZE", "HOROVOD_RANK"))

_HEADER_BYTES = 4096
"""More than MPI's own words about a message."""


def launched_ranks() -> int:
    """How many ranks the launcher says that it started; 1 if there is no launcher, or it does not say."""
    sizes = [_number(key) for key in SIZES]
    for rank, size in (("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("FLUX_TASK_RANK", "FLUX_JOB_SIZE")):
        if rank in os.environ:  # else it tells of an allocation, and not of a step in it
            sizes.append(_number(size))
    return max((size for size in sizes if size is not None), default=1)


def launched() -> bool:
    """Whether this process may be one of several: MPI can say how many where the launcher does not."""
    told = any(_number(key) is not None for key in SIZES)
    return launched_ranks() > 1 or (not told and any(_number(key) is not None for key in RANKS))


def launched_rank() -> int:
    """This process's number among those that the launcher started; 0 if there is no launcher."""
    return _first(*RANKS, "SLURM_PROCID", *(rank for _, rank in _FOREIGN), default=0)


def local_rank() -> int:
    """This rank's number on its host as the launcher tells it, for choosing its GPU; 0 if it does not."""
    return told_local_rank() or 0


def told_local_rank() -> int | None:
    """The same; None if the launcher does not tell it."""
    number = _first(*LOCAL_RANKS, default=-1)
    return None if number < 0 else number


def launched_local_ranks() -> int:
    """How many ranks of the job are on this host; 1 if the launcher does not tell it."""
    return _first(*_LOCAL_SIZES, default=1)


def check_launch(size: int) -> None:
    """Refuse N lonely processes: one MPI's mpirun with another MPI's library, or srun without MPI."""
    ranks = launched_ranks()
    if ranks > 1 and size == 1:
        by_slurm = max((_number(key) or 1 for key in SIZES), default=1) == 1
        remedy = "or srun --mpi=TYPE, one of `srun --mpi=list`" if by_slurm else "or see `decentral doctor`"
        raise UserError(
            f"the launcher started {ranks} processes but the MPI library sees 1 rank: this launcher belongs to "
            f"another MPI than mpi4py uses; start with ./mpi_launch.sh -n {ranks}, {remedy}"
        )


def check_launcher() -> None:
    """Refuse processes that were started side by side by what is no launcher of MPI: each would think it is alone."""
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    if launched_ranks() > 1 and not elastic:
        return
    for size, rank in _FOREIGN:
        ranks = _number(size) or 1
        if ranks > 1 and (elastic or _number(rank) is not None):
            who = "torchrun" if elastic else "torchrun, deepspeed or the like"
            raise UserError(
                f"{size}={shown(ranks)}: started by {who}, which does not join processes by MPI; start with "
                f"mpirun -n {shown(ranks)} instead, or unset {size} if this process is alone"
            )


def yield_when_oversubscribed() -> None:
    """Open MPI busy-waits; where ranks outnumber cores it must yield. To be called before MPI starts."""
    if launched_local_ranks() > len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")


def send_without_asking() -> None:
    """Open MPI over TCP asks before a long message, and the answer waits in line; to be called before MPI starts.

    Beyond btl_tcp_eager_limit (64 KiB, unless it is set) a message waits until its receiver says where to put it. That
    word goes by the connection that the receiver's own message fills, so of two ranks which exchange rows one sends
    after the other, in twice the time, whatever the network. Messages of blocks of columns go without.
    """
    os.environ.setdefault("OMPI_MCA_btl_tcp_eager_limit", str(MOST_BLOCK_BYTES + _HEADER_BYTES))


def use_threads() -> None:
    """Compute with OMP_NUM_THREADS threads, or 1: ranks share the cores of their host."""
    import torch  # here: most of what is in this file must not load it

    torch.set_num_threads(_number("OMP_NUM_THREADS") or 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, this thread computes without torch's others."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cuda_aware() -> bool:
    """Whether the user vouches (DECENTRAL_CUDA_AWARE=1) that this MPI takes CUDA buffers."""
    return os.environ.get("DECENTRAL_CUDA_AWARE") == "1"


def _number(key: str) -> int | None:
    value = os.environ.get(key, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _first(*keys: str, default: int) -> int:
    return next((number for key in keys if (number := _number(key)) is not None), default)
