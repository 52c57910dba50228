"""Packets: arrays one after the other as bytes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

Array = NDArray[Any]


def join(*parts: Array) -> Tensor:
    """The bytes of the arrays, uint8 (bytes,). No gaps: each part begins where the last one ends."""
    return torch.from_numpy(
        np.concatenate([np.ascontiguousarray(part).view(np.uint8).ravel() for part in parts])
    )


def take(packet: Tensor, count: int, dtype: DTypeLike) -> tuple[Array, Tensor]:
    """The first ``count`` numbers of a packet, copied, and the rest of it. Raises ValueError if it is too short."""
    n_bytes = count * np.dtype(dtype).itemsize
    if len(packet) < n_bytes:
        raise ValueError(
            f"a packet has {len(packet)} bytes left where {n_bytes} are read; it was cut or is another's"
        )
    return np.frombuffer(packet[:n_bytes].numpy().tobytes(), dtype).copy(), packet[n_bytes:]


def end(packet: Tensor) -> None:
    """Nothing may be left. Raises ValueError."""
    if len(packet):
        raise ValueError(
            f"a packet has {len(packet)} bytes too many; it was made with another layout, dtype or setting"
        )


def numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    """numpy's name of a torch dtype."""
    return torch.empty(0, dtype=dtype).numpy().dtype
