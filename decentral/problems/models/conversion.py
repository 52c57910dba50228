"""A module in the numbers and on the device of a run; what cannot be trained there is refused."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from decentral.errors import UserError
from topologies.wording import shown


def converted(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``module`` there, real numbers in ``dtype`` and complex ones in as many bits a part; integers stay.

    ``nn.Module.to`` would drop imaginary parts.
    """
    module._apply(lambda t: t.to(device, _type_of(t, dtype)))  # type: ignore[no-untyped-call]
    return module


def _type_of(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return torch.complex128 if dtype == torch.float64 else torch.complex64
    return dtype if tensor.is_floating_point() else tensor.dtype


def check_trainable(module: nn.Module, what: str) -> None:
    """Raise UserError, which begins with ``what``, for parameters and buffers that no row of a worker can hold."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise UserError(
            f"{what}: {shown(lazy[0])} has no shape yet; let the factory run one batch through the model"
        )
    if meta := [name for name, tensor in tensors if tensor.is_meta]:
        raise UserError(
            f"{what}: {shown(meta[0])} is on the meta device and has no values; make it on the CPU"
        )
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad and p.numel()]
    if not trained:
        raise UserError(
            f"{what} has no parameter that requires a gradient, so there is nothing to train; leave some requires_grad"
        )
    for name, p in trained:
        if p.is_complex():
            raise UserError(
                f"{what}: {shown(name)} is {p.dtype}, and trained parameters are real; keep its real and imaginary "
                "part, and join them by torch.complex"
            )
        if p.layout is not torch.strided:
            raise UserError(f"{what}: {shown(name)} is a sparse tensor; give a dense parameter")
    _check_memory(trained, module, what)


def _check_memory(trained: list[tuple[str, nn.Parameter]], module: nn.Module, what: str) -> None:
    for name, p in trained:
        if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
            raise UserError(
                f"{what}: {shown(name)} is expanded, many of its entries are one number; give the parameter before "
                "expand(), or clone() it"
            )
    spans = sorted((*_bytes_of(p), name) for name, p in trained if p.is_contiguous())
    for (_, end, one), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise UserError(
                f"{what}: {shown(one)} and {shown(other)} share memory; to tie them, use one Parameter in both places"
            )
    of = {p.untyped_storage().data_ptr(): name for name, p in trained}
    for name, buffer in module.named_buffers():
        dense = buffer.layout is torch.strided and buffer.numel()
        if dense and (key := buffer.untyped_storage().data_ptr()) in of:
            raise UserError(
                f"{what}: buffer {shown(name)} shares memory with parameter {shown(of[key])}; clone() it"
            )


def _bytes_of(p: Tensor) -> tuple[int, int]:
    return p.data_ptr(), p.data_ptr() + p.numel() * p.itemsize
