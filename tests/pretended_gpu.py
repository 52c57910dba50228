"""A GPU for machines without one: tensors say that they are on cuda:0, are computed on the CPU, and mix with no others.

A storage is marked as the GPU's or is not. Below autograd and ``torch.func`` a dispatch mode sees each operation: those
whose tensors are marked mark what they give, and one whose tensors are here and there raises what CUDA's would raise.
What C++ makes on its way, by the options of an argument that is on the CPU there, is *loose*: it goes with both.
Numbers are those of the CPU, bit by bit, also random ones: the GPU's own generator begins a stream like the CPU's.
What it cannot stand for: kernels and their order of sums, streams, NCCL, memory that runs out, ``torch.compile``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pretended_cuda import patches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
_REAL = torch._C.TensorBase.device.__get__  # type: ignore[attr-defined]
_ANYWHERE = ("aten::copy_", "aten::_to_copy", "aten::set_")
_INDEXING = (
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
)
_HOST_SIZES = (
    "aten::_pack_padded_sequence",
    "aten::_pad_packed_sequence",
)  # of lengths, which stay on the CPU
_WAITS = (
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
)


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Inside, in this thread, torch has one GPU."""
    gpu = PretendedGPU()
    with ExitStack() as stack:
        for patch in patches(gpu):
            stack.enter_context(patch)
        stack.enter_context(gpu)
        yield gpu


class PretendedGPU(TorchDispatchMode):
    """``waits``: how often each kind of operation made the CPU wait; ``moved``: tensors that crossed, each way."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.random = torch.Generator().manual_seed(0)
        self.asking = False

    def device_of(self, x: Tensor) -> torch.device:
        """Where ``x`` says that it is; of a tensor of ``torch.func``, the one inside."""
        x = _inside(x)
        real: torch.device = _REAL(x)
        if real.type != "cpu" or x.layout is not torch.strided:
            return real
        return GPU if _mark(x) == "cuda" else real

    def holds(self, x: Any) -> bool:
        """Whether it is a tensor of the GPU's."""
        return isinstance(x, Tensor) and self.device_of(x).type == "cuda"

    def put(self, x: Tensor, where: str = "cuda") -> Tensor:
        """Mark the memory of a fresh tensor as the GPU's, the CPU's, or loose; the tensor."""
        inside = _inside(x)
        inside.untyped_storage().pretended = "" if where == "cpu" else where  # type: ignore[attr-defined]
        return x

    def asked(self, of: Any) -> Any:
        """A function that makes tensors, called from Python: where it says that it makes them is meant."""

        def made(*args: Any, **kwargs: Any) -> Any:
            self.asking = True
            try:
                return of(*args, **kwargs)
            finally:
                self.asking = False

        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation, below autograd."""
        kwargs = dict(kwargs or {})
        tensors = [x for x in _leaves((*args, *kwargs.values())) if isinstance(x, Tensor)]
        name, wish = func._schema.name, kwargs.get("device")
        kwargs.pop("pin_memory", None)
        if name in _WAITS and any(map(self.holds, tensors)):
            self.waits[name] += 1
        where = self._where(func, name, args, kwargs, tensors)
        if wish is not None and torch.device(wish).type == "cuda":
            kwargs["device"] = torch.device("cpu")
        random = torch.Tag.nondeterministic_seeded in func.tags
        result = self._drawn(func, args, kwargs, where) if random else func(*args, **kwargs)
        if where != "cpu":
            for x in _leaves((result,)):
                if isinstance(x, Tensor) and _REAL(x).type == "cpu" and _mark(x) != "cuda":
                    self.put(x, where)
        return result

    def _where(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> str:
        """Where what the operation gives is: "cuda", "cpu" (or elsewhere), or "loose"."""
        wish = kwargs.get("device")
        if wish is not None:
            return "cuda" if torch.device(wish).type == "cuda" else "cpu" if self.asking else "loose"
        if name in _ANYWHERE:
            loose = _mark(args[0]) == "loose"
            return "cuda" if self.holds(args[0]) or (loose and any(map(self.holds, tensors))) else "cpu"
        if self._is_here(func, name, args, kwargs, tensors):
            return "cuda"
        return "loose" if tensors and all(_mark(x) == "loose" for x in tensors) else "cpu"

    def _is_here(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        """Whether the operation is the GPU's. Raises what CUDA's would, where its tensors are not all on one device."""
        marks = [_mark(x) for x in tensors]
        if "cuda" not in marks:
            return False
        if all(marks):
            return True
        written = {id(x) for x in _written(func, args, kwargs)}
        loose = tensors[1:] if name in (*_INDEXING, *_HOST_SIZES) and self.holds(args[0]) else []
        for x in tensors:
            if _mark(x) or (x.dim() == 0 and id(x) not in written) or any(x is y for y in loose):
                continue
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                f"{self.device_of(x)}! ({name})"
            )
        return True

    def _drawn(self, func: Any, args: Any, kwargs: Any, where: str) -> Any:
        """A random operation, from the generator of its device."""
        here = where == "cuda"
        given = [x for x in _leaves((*args, *kwargs.values())) if isinstance(x, torch.Generator)]
        if given and here:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if given or not here:
            return func(*args, **kwargs)
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(self.random.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.random.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)


def _inside(x: Tensor) -> Tensor:
    """The plain tensor in one of ``torch.func``'s."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _leaves(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, list | tuple):
            yield from _leaves(part)
        else:
            yield part


def _mark(x: Tensor) -> str:
    """ "cuda", "loose", or "" of a tensor of the CPU or elsewhere."""
    if x.layout is not torch.strided or _REAL(x).type != "cpu":
        return ""
    return getattr(x.untyped_storage(), "pretended", "")


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    for k, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _leaves((args[k] if k < len(args) else kwargs.get(argument.name),))
