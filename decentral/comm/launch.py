"""Who started this process: alone, or one of a job of MPI or torch.distributed. Reads the environment only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from decentral.blocks import MOST_BLOCK_BYTES
from decentral.errors import UserError, nearest
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
SLURM_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
TORCH = ("WORLD_SIZE", "RANK")
"""The size and the rank of torch.distributed: of torchrun, and of others that do not join processes by MPI."""
ELASTIC = "TORCHELASTIC_RUN_ID"
"""Only torchrun sets it."""
FOREIGN = (TORCH, ("HOROVOD_SIZE", "HOROVOD_RANK"))
TRANSPORT = "DECENTRAL_TRANSPORT"


def transport() -> Literal["mpi", "torch"]:
    """What carries messages between ranks: torch.distributed under torchrun, else what DECENTRAL_TRANSPORT says, MPI.

    Raises UserError where that is neither, or not what torchrun's ranks can have.
    """
    asked = os.environ.get(TRANSPORT, "")
    if asked not in ("", "mpi", "torch"):
        raise UserError(f"{TRANSPORT}={shown(asked)} carries no messages; {nearest(asked, ('mpi', 'torch'))}")
    if by_torchrun() and asked == "mpi":
        raise UserError(
            f"{TRANSPORT}=mpi but {ELASTIC}={shown(os.environ.get(ELASTIC))}: torchrun does not join processes by MPI; "
            f"unset {TRANSPORT}, or start with mpirun -n {launched_ranks()}"
        )
    return "torch" if asked == "torch" or by_torchrun() else "mpi"


def by_torchrun() -> bool:
    """Whether RANK and WORLD_SIZE tell of this process: torchrun's do, or where torch is asked for."""
    told = all(told_number(key) is not None for key in TORCH)
    if ELASTIC in os.environ:
        return told
    return told and os.environ.get(TRANSPORT) == "torch" and not other_launcher()


def by_srun() -> bool:
    """Whether this is a task of Slurm's srun, and no rank of a launcher of MPI that srun helped to other hosts."""
    mpirun = any(
        told_number(key) is not None for key in SIZES if key != "PMI_SIZE"
    )  # which srun sets as well
    return not mpirun and all(told_number(key) is not None for key in SLURM_STEP)


def other_launcher() -> tuple[str, int] | None:
    """Of launchers but torchrun: the variable that tells of the most ranks, and how many; None if there is none."""
    keys = [key for key in SIZES if told_number(key) is not None]
    for size, rank in (SLURM_STEP, ("FLUX_JOB_SIZE", "FLUX_TASK_RANK")):
        if (
            rank in os.environ and told_number(size) is not None
        ):  # else it tells of an allocation, and no step in it
            keys.append(size)
    sizes = [(key, told_number(key) or 0) for key in keys]
    return max(sizes, key=lambda each: each[1], default=None)


_HEADER_BYTES = 4096
"""More than MPI's own words about a message."""


def launched_ranks() -> int:
    """How many ranks the launcher says that it started; 1 if there is no launcher, or it does not say."""
    if by_torchrun():
        return _first(TORCH[0], default=1)
    _, ranks = other_launcher() or ("", 1)
    return max(ranks, 1)


def launched() -> bool:
    """Whether this process may be one of several: MPI can say how many where the launcher does not."""
    if by_torchrun():
        return launched_ranks() > 1
    told = any(told_number(key) is not None for key in SIZES)
    return launched_ranks() > 1 or (not told and any(told_number(key) is not None for key in RANKS))


def launched_rank() -> int:
    """This process's number among those that the launcher started; 0 if there is no launcher."""
    if by_torchrun():
        return _first(TORCH[1], default=0)
    return _first(*RANKS, SLURM_STEP[1], *(rank for _, rank in FOREIGN), default=0)


def is_first() -> bool:
    """Whether this process is the first, also of those that several launchers one in another have started."""
    return launched_rank() == _first(*RANKS, SLURM_STEP[1], default=0) == 0


def local_rank() -> int:
    """This rank's number on its host as the launcher tells it, for choosing its GPU; 0 if it does not."""
    return told_local_rank() or 0


def told_local_rank() -> int | None:
    """The same; None if the launcher does not tell it."""
    number = _first("LOCAL_RANK", default=-1) if by_torchrun() else _first(*LOCAL_RANKS, default=-1)
    return None if number < 0 else number


def launched_local_ranks() -> int:
    """How many ranks of the job are on this host; 1 if the launcher does not tell it."""
    if by_torchrun():
        return _first("LOCAL_WORLD_SIZE", default=1)
    return _tasks_here() if by_srun() else _first(*_LOCAL_SIZES, default=1)


def _tasks_here() -> int:
    """Of a step of Slurm's, which tells all nodes' numbers in their order, such as 2(x3),1."""
    told = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    numbers = [int(tasks) for tasks, nodes in told for _ in range(int(nodes or 1))]
    node = told_number("SLURM_NODEID") or 0
    return numbers[node] if node < len(numbers) else 1


def check_launch(size: int) -> None:
    """Refuse N lonely processes: one MPI's mpirun with another MPI's library, or srun without MPI."""
    ranks = launched_ranks()
    if ranks > 1 and size == 1:
        by_slurm = max((told_number(key) or 1 for key in SIZES), default=1) == 1
        remedy = (
            "with --mpi TYPE (see `srun --mpi=list`) or --transport torch"
            if by_slurm
            else "or see `decentral doctor`"
        )
        raise UserError(
            f"the launcher started {ranks} processes but the MPI library sees 1 rank: this launcher belongs to "
            f"another MPI than mpi4py uses; start with ./mpi_launch.sh -n {ranks}, {remedy}"
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

    torch.set_num_threads(told_number("OMP_NUM_THREADS") or 1)


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
    """Whether messages go by MPI, which takes CUDA buffers, as the user vouches (DECENTRAL_CUDA_AWARE=1)."""
    return os.environ.get("DECENTRAL_CUDA_AWARE") == "1" and transport() == "mpi"


def told_number(key: str) -> int | None:
    """The whole number that a variable holds; None if it holds none."""
    value = os.environ.get(key, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _first(*keys: str, default: int) -> int:
    return next((found for key in keys if (found := told_number(key)) is not None), default)
