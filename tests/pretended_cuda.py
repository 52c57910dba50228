"""What ``torch`` says and does in Python where a GPU is pretended: :mod:`pretended_gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pretended_gpu import PretendedGPU

MEMORY = 8 * 10**9
_SHAPED = ("zeros", "ones", "empty", "full", "rand", "randn", "randint")
_FACTORIES = (
    *_SHAPED, *(f"{name}_like" for name in _SHAPED), "arange", "eye", "linspace", "logspace", "randperm",
    "empty_strided", "scalar_tensor", "tril_indices", "triu_indices",
)  # fmt: skip
_OF_TENSORS = tuple(f"new_{name}" for name in ("zeros", "ones", "empty", "full", "empty_strided"))


def patches(gpu: PretendedGPU) -> Iterator[Any]:
    """All that is replaced in torch."""
    yield from (mock.patch.object(Tensor, name, new) for name, new in _methods(gpu).items())
    yield from (mock.patch.object(torch, name, new) for name, new in _makers(gpu).items())
    for home, names in ((torch, _FACTORIES), (Tensor, _OF_TENSORS)):
        yield from (mock.patch.object(home, name, gpu.asked(getattr(home, name))) for name in names)
    yield from (mock.patch.object(torch.cuda, name, new) for name, new in _cuda(gpu).items())
    yield from _dlpack(gpu)
    yield mock.patch("torch.serialization.location_tag", _refuse_to_store(gpu))


def _methods(gpu: PretendedGPU) -> dict[str, Any]:
    to, numpy, array = Tensor.to, Tensor.numpy, Tensor.__array__

    def moved(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, kind, blocking, layout = _where_to(gpu, args, kwargs)
        if device is None or device.type == gpu.device_of(x).type or "meta" in (device.type, x.device.type):
            if device is not None and device.type == "meta":
                return to(x, device=device, **kind)
            return to(x, **kind, **layout) if kind or layout else x
        gpu.moved[f"to {device.type}"] += 1
        assert isinstance(blocking, bool)
        found = gpu.put(to(x.clone(), **kind, **layout), device.type)
        if found.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(found):
            found.register_hook(lambda g: moved(g, x.device))  # the gradient goes back to where x is
        return found

    def on_host(of: Any) -> Any:
        def asked(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if gpu.holds(x) and kwargs.get("force"):
                return of(moved(x, "cpu"), *args, **kwargs)
            if gpu.holds(x):
                raise TypeError(
                    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                    "memory first."
                )
            return of(x, *args, **kwargs)

        return asked

    def new_tensor(x: Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        made = torch.tensor(data, dtype=dtype or x.dtype)
        return moved(made, device or x.device)

    return {
        "device": property(gpu.device_of),
        "is_cuda": property(gpu.holds),
        "is_cpu": property(lambda x: gpu.device_of(x).type == "cpu"),
        "get_device": lambda x: 0 if gpu.holds(x) else -1,
        "to": moved,
        "cpu": lambda x, **kwargs: moved(x, "cpu"),
        "cuda": lambda x, device=None, **kwargs: moved(x, "cuda"),
        "numpy": on_host(numpy),
        "__array__": on_host(array),
        "new_tensor": new_tensor,
        "pin_memory": lambda x, device=None: x.clone(),
        "is_pinned": lambda x, device=None: False,
    }


def _where_to(
    gpu: PretendedGPU, args: Any, kwargs: Any
) -> tuple[torch.device | None, dict[str, Any], bool, Any]:
    """What ``Tensor.to`` is asked for: a device, or None; a type and copy; whether it may go on; a layout."""
    device, kind = kwargs.get("device"), {k: kwargs[k] for k in ("dtype", "copy") if kwargs.get(k)}
    flags = []
    for given in args:
        if isinstance(given, Tensor):
            device, kind["dtype"] = gpu.device_of(given), given.dtype
        elif isinstance(given, torch.dtype):
            kind["dtype"] = given
        elif isinstance(given, bool):
            flags.append(given)
        elif given is not None:
            device = given
    if isinstance(kwargs.get("other"), Tensor):
        device, kind["dtype"] = gpu.device_of(kwargs["other"]), kwargs["other"].dtype
    if len(flags) > 1 and flags[1]:
        kind["copy"] = True
    layout = {"memory_format": kwargs["memory_format"]} if kwargs.get("memory_format") else {}
    return (None if device is None else torch.device(device)), kind, bool(flags[:1]), layout


def _makers(gpu: PretendedGPU) -> dict[str, Any]:
    tensor, as_tensor = torch.tensor, torch.as_tensor

    def made(data: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(data, Tensor):
            return data.detach().clone().to(device or data.device, dtype)
        found = tensor(data, dtype=dtype, **kwargs)
        return found if device is None else found.to(device)

    def taken(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return data.to(device or data.device, dtype)
        found = as_tensor(data, dtype=dtype)
        return found if device is None else found.to(device)

    return {"tensor": made, "as_tensor": taken}


def _cuda(gpu: PretendedGPU) -> dict[str, Any]:
    def seed(number: int) -> None:
        gpu.random.manual_seed(number)

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "a pretended GPU",
        "synchronize": lambda device=None: gpu.waits.update(["synchronize"]),
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "manual_seed": seed,
        "manual_seed_all": seed,
        "get_rng_state": lambda device=None: gpu.random.get_state(),
        "set_rng_state": lambda state, device=None: gpu.random.set_state(state),
    }


def _dlpack(gpu: PretendedGPU) -> Iterator[Any]:
    """Memory that goes through DLPack gets a storage of its own there, of the same device."""
    taken, passed = torch._C._from_dlpack, []

    def give(x: Tensor, **kwargs: Any) -> Any:
        passed[:] = [gpu.holds(x)]
        return torch._C._to_dlpack(x)

    def take(capsule: Any) -> Tensor:
        found: Tensor = taken(capsule)
        return gpu.put(found) if passed == [True] else found

    yield mock.patch.object(Tensor, "__dlpack__", give)
    yield mock.patch.object(Tensor, "__dlpack_device__", return_value=(1, 0))
    yield mock.patch("torch._C._from_dlpack", take)


def _refuse_to_store(gpu: PretendedGPU) -> Any:
    def tag(storage: Any) -> str:
        if getattr(getattr(storage, "_untyped_storage", storage), "pretended", "") == "cuda":
            raise RuntimeError(
                "a file would hold tensors of a GPU, which a machine without one could not read"
            )
        return "cpu"

    return tag
