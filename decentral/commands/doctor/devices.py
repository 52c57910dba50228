"""torch, the GPUs that it sees, and whether their buffers go over MPI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from decentral.comm.launch import cuda_aware
from decentral.commands.doctor.asking import Answer
from decentral.commands.doctor.finding import Finding

TORCH = """
import json, torch
devices = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or "",
    "devices": [f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices],
}))
"""

CUDA = """
import torch
from mpi4py import MPI
world = MPI.COMM_WORLD
device = torch.device("cuda", world.rank % torch.cuda.device_count())
for size in (64, 1 << 20):  # one message that is sent at once, one that is negotiated
    x = torch.arange(size, dtype=torch.float32, device=device) + world.rank
    y = torch.zeros_like(x)
    torch.cuda.synchronize(device)
    world.Sendrecv([x, MPI.FLOAT], 1 - world.rank, recvbuf=[y, MPI.FLOAT], source=1 - world.rank)
    assert torch.equal(y - (1 - world.rank), x - world.rank)
print("<direct>")
"""


class TorchSeen(NamedTuple):
    """torch's version, the CUDA that it was built for ('' if none), and its devices."""

    version: str
    cuda: str
    devices: list[str]


def parse(answer: Answer) -> TorchSeen | None:
    """What TORCH printed; None if it failed."""
    return TorchSeen(**json.loads(answer.out.strip().split("\n")[-1])) if answer.code == 0 else None


def find_torch(seen: TorchSeen | None, answer: Answer) -> Finding:
    """Whether torch can be imported."""
    if answer.code is None:
        return Finding("torch", "note", f"import: {answer.complaint}", "ask again; the first import is slow")
    if seen is None:
        return Finding("torch", "broken", answer.complaint, "install the project again: make clean install")
    return Finding("torch", "ok", f"{seen.version}, {f'for CUDA {seen.cuda}' if seen.cuda else 'for CPU'}")


def find_gpus(seen: TorchSeen | None) -> Finding:
    """The GPUs that torch sees, or why it sees none."""
    if seen and seen.devices:
        return Finding("GPUs", "ok", ", ".join(seen.devices))
    if not Path("/dev/nvidiactl").exists():
        return Finding("GPUs", "ok", "none; runs use the CPU")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("GPUs", "note", "hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    remedy = "install a CUDA build of torch that suits the driver (see nvidia-smi)"
    return Finding("GPUs", "note", "an NVIDIA driver is here, but torch sees no device", remedy)


def find_cuda_over_mpi(seen: TorchSeen | None, answer: Answer | None) -> Finding:
    """Whether a GPU's buffer reaches another rank, by the answer to CUDA of two."""
    topic, vouched = "CUDA over MPI", cuda_aware()
    if answer is None or not seen or not seen.devices:
        return Finding(topic, "ok", "not needed: no GPU with MPI here")
    if answer.code is None and not vouched:
        return Finding(topic, "note", f"not known: {answer.complaint}", "ask again; the first start is slow")
    works = answer.code == 0 and answer.out.count("<direct>") == 2
    if works and vouched:
        return Finding(topic, "ok", "CUDA buffers go over MPI directly")
    if works:
        text, remedy = "CUDA buffers can go over MPI directly", "export DECENTRAL_CUDA_AWARE=1"
        return Finding(topic, "note", text, remedy)
    if vouched:
        text = f"DECENTRAL_CUDA_AWARE=1, but a CUDA buffer did not arrive: {answer.complaint}"
        return Finding(topic, "broken", text, "unset DECENTRAL_CUDA_AWARE")
    remedy = "nothing, or build mpi4py with a CUDA-aware MPI for speed"
    return Finding(topic, "note", "not directly: buffers are staged through pinned host memory", remedy)
