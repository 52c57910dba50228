"""Launchers' variables that contradict each other, or tell of processes that nothing joins: refused in one line."""

from __future__ import annotations

import os

from decentral.comm.launch import (
    ELASTIC,
    FOREIGN,
    SLURM_STEP,
    TORCH,
    TRANSPORT,
    by_srun,
    by_torchrun,
    other_launcher,
    told_number,
    transport,
)
from decentral.errors import UserError
from topologies.wording import shown


def check_launcher() -> None:
    """Raise UserError where this process would think it is alone, or in another job than it is."""
    _check_ranks()
    if ELASTIC in os.environ:
        _check_torchrun()
    transport()
    if not by_torchrun():
        _check_foreign()


def _check_ranks() -> None:
    """A rank is below the size that the same launcher tells."""
    pairs = [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"), SLURM_STEP, TORCH]
    for size, rank in pairs:
        ranks, mine = told_number(size), told_number(rank)
        if ranks is not None and mine is not None and mine >= max(ranks, 1):
            raise UserError(
                f"{rank}={mine} but {size}={ranks}: ranks are numbered from 0 to {max(ranks - 1, 0)}; "
                f"unset both, or start with ./mpi_launch.sh or torchrun, which set them"
            )


def _check_torchrun() -> None:
    """Torchrun alone, or one for each task of srun: several that do not know each other would share one folder."""
    size, rank = TORCH
    if (told_number(size) or 1) > 1 and told_number(rank) is None:
        raise UserError(
            f"{size}={told_number(size)} but no {rank}: torchrun sets both; unset {ELASTIC} and {size}"
        )
    outer, tasks = other_launcher() or ("", 1)
    groups = told_number("GROUP_WORLD_SIZE") or 1
    if tasks == 1 or (by_srun() and groups == tasks):
        return
    if by_srun():
        told = f"GROUP_WORLD_SIZE={groups}"
        remedy = f"give it --nnodes {tasks} and one --rdzv-endpoint, or use srun alone with {TRANSPORT}=torch"
    else:
        told = f"{ELASTIC} and {size}={told_number(size) or 1}"
        remedy = f"use torchrun alone, or the other launcher with {TRANSPORT}=torch"
    raise UserError(f"{outer}={tasks} but {told}: {tasks} torchruns, each with a job of its own; {remedy}")


def _check_foreign() -> None:
    """RANK and WORLD_SIZE agree with what the launcher says, or stand alone where torch is to join the processes."""
    told = other_launcher()
    for size, rank in FOREIGN:
        ranks = told_number(size) or 1
        if ranks < 2 or told_number(rank) is None:
            continue
        if told is None or told[1] == 1:
            raise UserError(
                f"{size}={shown(ranks)}: started by deepspeed, horovodrun or the like, which does not join processes "
                f"by MPI; start with mpirun -n {shown(ranks)} or torchrun, or unset {size} if this process is alone"
            )
        if ranks != told[1]:
            raise UserError(
                f"{size}={ranks} but {told[0]}={told[1]}: two launchers tell of this process; "
                f"unset {size} and {rank}, or start with one of them"
            )
