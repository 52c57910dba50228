"""How many workers' gradients are batched at once, so that what autograd keeps of their passes has room.

A worker takes about 2 K + 4 d numbers while its gradient is made: K that autograd keeps of a pass, measured on one
worker's batch, as many while it goes back, and parameters, gradients and their copies, of d each. Chunks of ``LEAST``
workers and more gave the bits of all at once where that was tried on a CPU; checkpoints keep what was chosen.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Literal

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from decentral.comm.launch import launched_local_ranks
from topologies.room import free_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decentral.comm.layout import Layout
    from decentral.problems.losses import Loss

LEAST = 4
_VECTORS = 8  # of d numbers a worker that a run keeps besides: models, the method's state, what is mixed
_SHARE = 0.8  # of the rest, for gradients
_DEEP = (
    200  # numbers kept for each of a sample's, beyond what a network that is not looked at is taken to keep
)


def chunk_of(
    wish: int | Literal["auto"], module: nn.Module, layout: Layout, buffers: dict[str, Tensor], inputs: Tensor,
    labels: Tensor, loss: Loss, h: int,
) -> int:  # fmt: skip
    """Workers at a time, h at the most; ``inputs`` (B, ...) and ``labels``: a batch of one of the h workers."""
    if wish != "auto":
        return min(wish, h)
    size = next(module.parameters()).element_size()
    rows = h * layout.d * size
    room = _SHARE * (_free_here(inputs.device) - _VECTORS * rows)
    if h <= LEAST or (prod(inputs.shape) * _DEEP * size * h + 4 * rows) < room:
        return h
    one = 2 * kept_bytes(module, buffers, inputs, labels, loss) + 4 * layout.d * size
    pieces = min(h // LEAST, ceil(h / max(LEAST, int(room / one))))
    return ceil(h / max(1, pieces))


def kept_bytes(
    module: nn.Module, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor, loss: Loss
) -> int:
    """Bytes that autograd keeps of one worker's pass over this batch, but for parameters."""
    parameters = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
    own = {name: b[0].clone() for name, b in buffers.items()}
    found: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda x: x):
        graph = loss(functional_call(module, (parameters, own), (inputs,)), labels)
    for p in parameters.values():
        found.pop(p.untyped_storage().data_ptr(), None)
    del graph
    return sum(found.values())


def _free_here(device: torch.device) -> float:
    """Bytes that this rank can have on its device, which ranks of the host share alike."""
    ranks = launched_local_ranks()
    if device.type != "cuda":
        return free_bytes() / ranks
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + cached) / ceil(ranks / torch.cuda.device_count())
