"""The global generators that a model may draw from, given a named stream for a while and put back afterwards."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from topologies.streams import stream_key

GENERATORS = ("torch", "numpy", "random")
"""torch's of the CPU and of a GPU that is computed on, numpy's legacy one, Python's own."""


class Generators:
    """Those of the global generators that are called ``names``; torch's with that of ``device``."""

    def __init__(self, names: Collection[str], device: torch.device | None = None) -> None:
        self.names = frozenset(names)
        self.device = device if device is not None and device.type == "cuda" else None

    def seed(self, seed: int, *name: str | int) -> None:
        """All of them begin the stream ``name`` under ``seed``."""
        key = stream_key(seed, *name)
        if "torch" in self.names:
            if self.device is None:
                torch.default_generator.manual_seed(key % 2**63)
            else:
                torch.manual_seed(key % 2**63)
        if "numpy" in self.names:
            np.random.seed([key >> 32 * k & 0xFFFFFFFF for k in range(4)])
        if "random" in self.names:
            random.seed(key)

    def state(self) -> dict[str, Any]:
        """Where they are, by name."""
        found: dict[str, Any] = {}
        if "torch" in self.names:
            found["torch"] = [torch.get_rng_state()]
            if self.device is not None:
                found["torch"].append(torch.cuda.get_rng_state(self.device))
        if "numpy" in self.names:
            found["numpy"] = np.random.get_state(legacy=False)
        if "random" in self.names:
            found["random"] = random.getstate()
        return found

    def moved(self, before: dict[str, Any]) -> frozenset[str]:
        """The names of those that have drawn since ``before``."""
        return frozenset(name for name, now in self.state().items() if not _same(now, before[name]))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Afterwards they are where they were."""
        before = self.state()
        try:
            yield
        finally:
            for name, state in before.items():
                if name == "torch":
                    torch.set_rng_state(state[0])
                    if self.device is not None:
                        torch.cuda.set_rng_state(state[1], self.device)
                elif name == "numpy":
                    np.random.set_state(state)
                else:
                    random.setstate(state)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return all(map(_same, a, b))
    return bool(a == b)
