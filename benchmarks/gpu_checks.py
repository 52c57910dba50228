"""What must hold on a GPU, each a function that raises where it does not: AssertionError, or whatever goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

import topologies
from benchmarks.gpu_cases import MLP, RING, cases
from benchmarks.gpu_drop_in import stepped
from benchmarks.gpu_runs import Table, distance, merged, trained
from decentral.algorithms import DSGD, DecentLaM
from decentral.comm import LocalComm
from decentral.comm.launch import cuda_aware

TOLERANCE = 1e-9
"""Of float64 after two or three rounds, relative: sums of another order."""
DRAW = ("dropout", "problem lstmp", "problem recommender")
"""Cases that draw on the device, whose generator is another there."""
Check = Callable[[], str]


class NotRunError(Exception):
    """A check that this machine has not what it takes for; why."""


def checks(pretend: bool, limit_s: Callable[[], float]) -> Iterator[tuple[str, Check]]:
    """(words, check); a check gives words of what it found. ``limit_s``: seconds that there are for a sub-process."""
    yield "ranks that share the card", partial(ranks, pretend, limit_s, False)
    yield "ranks, CUDA buffers over MPI", partial(ranks, pretend, limit_s, True)
    yield "torch.distributed with one rank", partial(_torch_world, pretend)
    yield "resumed", _resumed
    yield "chunks", _chunks
    yield "drop-in", _drop_in
    yield "compiled", partial(_compiled, pretend)
    for words, table in cases():
        yield words, partial(_as_the_cpu, words, table)


def _as_the_cpu(words: str, table: Table) -> str:
    table = merged(table, {"train": {"dtype": "float64"}})
    found = trained(table, "cuda").rows
    drawn = words in DRAW
    expected = trained(table, "cuda" if drawn else "cpu").rows
    apart = distance(found, expected)
    assert apart <= TOLERANCE, f"records are {apart:.1e} apart"
    return f"{apart:.1e}, of two runs" if drawn else f"{apart:.1e}"


def ranks(pretend: bool, limit_s: Callable[[], float], direct: bool) -> str:
    """Two ranks have the bits of one process; ``direct``: they hand CUDA buffers to MPI."""
    if direct and (pretend or not cuda_aware()):
        raise NotRunError("DECENTRAL_CUDA_AWARE is not 1: this MPI is not said to take CUDA buffers")
    launcher = shutil.which(
        "mpirun", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    )
    if launcher is None or importlib.util.find_spec("mpi4py") is None:
        raise NotRunError("there is no MPI here")
    program = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_ranks", "cuda"]
    program += ["--pretend"] if pretend else []
    environment = {**os.environ, "DECENTRAL_CUDA_AWARE": str(int(direct)), "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launch = [launcher, "--oversubscribe", "-n", "2"]
    alone, shared = (_records([*before, *program], environment, limit_s()) for before in ([], launch))
    other = [words for words in alone if alone[words] != shared[words]]
    assert not other, f"other bits on two ranks: {', '.join(other)}"
    return f"equal bits of {len(alone)} runs, {'direct' if direct else 'staged'}"


def _records(command: list[str], environment: dict[str, str], limit_s: float) -> dict[str, object]:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert done.returncode == 0, done.stderr[-300:]
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _torch_world(pretend: bool) -> str:
    if pretend:
        raise NotRunError("NCCL cannot be pretended")
    if importlib.util.find_spec("decentral.comm.distributed") is None:
        raise NotRunError("this version has no communicator of torch.distributed")
    from decentral.comm.distributed.world import TorchComm

    comm = TorchComm(RING_OF_4)
    same_bits(comm, "cuda")
    return "the bits of one process" + (", by NCCL" if comm.mpi.cuda is not None else "; NCCL was not used")


RING_OF_4 = topologies.mixing_matrix(topologies.ring(4), "metropolis")


def same_bits(comm: Any, device: str) -> None:
    """Mixes and exact means of ``comm``, which hosts all of RING_OF_4, are those of one process."""
    x, expected = torch.randn(4, 1001, dtype=torch.float64).to(device), LocalComm(RING_OF_4)
    for t in range(3):
        for ours, theirs in zip(
            (comm.at(t).mix(x), comm.at(t).mean(x)),
            (expected.at(t).mix(x), expected.at(t).mean(x)),
            strict=True,
        ):
            assert torch.equal(ours, theirs), "other bits than one process"


def _resumed() -> str:
    table = merged(
        RING, MLP, {"algorithm": {"name": "dmsgd"}, "optimizer": {"name": "adam"}, "faults": {"loss": 0.2}},
        {"train": {"rounds": 4, "checkpoint_every": 2, "record_every": 1, "dtype": "float64"}},
    )  # fmt: skip
    whole = trained(table, "cuda")
    assert trained(table, "cuda", whole.kept).rows == whole.rows[-2:], "other bits than without a break"
    apart = distance(trained(table, "cpu", whole.kept).rows, whole.rows[-2:])
    assert apart <= TOLERANCE, f"on the CPU it goes on {apart:.1e} apart"
    return "the same bits"


def _chunks() -> str:
    table = merged(
        RING, MLP, {"topology": {"workers": 10}, "train": {"dtype": "float64", "oracle": "batched"}}
    )
    whole, cut = (trained(merged(table, {"train": {"chunk": chunk}}), "cuda").rows for chunk in (10, 4))
    apart = distance(whole, cut)
    assert apart <= TOLERANCE, f"chunks of 4 are {apart:.1e} apart from all at once"
    return "the same bits" if apart == 0 else f"{apart:.1e}"


def _drop_in() -> str:
    for method in (DSGD(), DecentLaM(0.0)):
        here, there = (stepped(method, device, LocalComm(np.ones((1, 1)))) for device in ("cpu", "cuda"))
        assert torch.allclose(torch.tensor(here), torch.tensor(there), TOLERANCE, 1e-12), (
            f"{method}: other models"
        )
    return "as on the CPU"


def _compiled(pretend: bool) -> str:
    if pretend:
        raise NotRunError("torch.compile cannot be pretended")
    table = merged(RING, MLP, {"algorithm": {"name": "decentlam"}, "train": {"dtype": "float64"}})
    plain, fused = (trained(merged(table, {"train": {"compile": on}}), "cuda").rows for on in (False, True))
    apart = distance(plain, fused)
    assert apart <= TOLERANCE, f"{apart:.1e} apart from the round that is not compiled"
    return f"{apart:.1e}"
