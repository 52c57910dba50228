"""A model's tensors as all ranks have them: rank 0's at the start, and buffers' means over the workers for a while.

Buffers are of any kind: repeated by ``expand``, sparse, complex, of integers. What is sent and written to is the memory
that has their numbers, once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from decentral.comm import Communicator
from decentral.errors import AgreedError
from decentral.rounds.script.telling import tell

_COMPRESSED = {
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_bsr: (Tensor.crow_indices, Tensor.col_indices),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices),
    torch.sparse_bsc: (Tensor.ccol_indices, Tensor.row_indices),
}
KNOWN = {torch.strided, torch.sparse_coo, *_COMPRESSED}
"""The layouts of tensors whose parts are found."""


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The memory of a tensor as dense tensors, no element twice: itself; of a sparse one indices, then values."""
    whole = tensor.detach()
    if whole.layout is torch.sparse_coo:
        return [whole._indices(), whole._values()]
    if whole.layout in _COMPRESSED:
        return [*(part(whole) for part in _COMPRESSED[whole.layout]), whole.values()]
    for axis in reversed(range(whole.ndim)):
        if whole.stride(axis) == 0 and whole.shape[axis]:
            whole = whole.select(axis, 0)
    return [whole]


@torch.no_grad()
def share_root(comm: Communicator, tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, alike on all ranks in shape and type, with rank 0's; each once."""
    for tensor in {id(t): t for t in tensors}.values():
        for part in parts_of(tensor):
            if part.numel():
                whole = part.resolve_conj().resolve_neg().contiguous()
                comm.share_root(whole)
                if whole.data_ptr() != part.data_ptr():
                    _write(part, whole)


@contextmanager
def averaged_buffers(comm: Communicator, buffers: Iterable[Tensor]) -> Iterator[None]:
    """Within it buffers of real and complex numbers are their means over the workers; afterwards as they were.

    Raises AgreedError if entries of a sparse one are elsewhere on another rank.
    """
    chosen = [b for b in buffers if (b.is_floating_point() or b.is_complex()) and b.numel()]
    with torch.no_grad():
        values = []
        for buffer in chosen:
            *indices, numbers = parts_of(buffer)
            _check_indices(comm, indices)
            values.append(numbers)
        means = [_mean(comm, numbers) for numbers in values]
        kept = [numbers.clone() for numbers in values]
        for numbers, mean in zip(values, means, strict=True):
            _write(numbers, mean)
    try:
        yield
    finally:
        with torch.no_grad():
            for numbers, before in zip(values, kept, strict=True):
                _write(numbers, before)


def _check_indices(comm: Communicator, indices: list[Tensor]) -> None:
    if not indices:
        return
    mine = "".join(f"{zlib.crc32(part.contiguous().cpu().numpy().tobytes())} " for part in indices)
    if len(set(tell(comm, mine))) > 1:
        raise AgreedError(
            "a sparse buffer has its entries elsewhere on another rank, so there is no mean of its values; keep it "
            "dense, or alike on all ranks"
        )


def _mean(comm: Communicator, numbers: Tensor) -> Tensor:
    """The mean over the workers, in float64."""
    whole = torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers
    mean = comm.observe_mean(whole.double().reshape(1, -1)).view(whole.shape)
    return torch.view_as_complex(mean) if numbers.is_complex() else mean


def _write(part: Tensor, source: Tensor) -> None:
    with torch.inference_mode(part.is_inference()):
        part.copy_(source)
