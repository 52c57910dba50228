"""What ranks must have alike before a run begins (data, model, the user's code), told apart by digests."""

from __future__ import annotations

import dataclasses
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from decentral.comm.world import World
from decentral.errors import AgreedError
from decentral.runs.agreement import AgreedExit

_KNOWN = ("decentral", "topologies", "torch", "numpy", "builtins", "collections")


class Leaf(NamedTuple):
    """A part of a value: what it is, in words, and a checksum of what is in it."""

    words: str
    checksum: int


class Digests:
    """Of what a rank has prepared, by name. Shared parts, such as a data set, are read once."""

    def __init__(self) -> None:
        self.leaves: dict[str, Leaf] = {}
        self._read: dict[int, tuple[Any, Leaf]] = {}  # id -> it, so that it stays that one's

    def add(self, run: str, value: Any) -> None:
        """The parts of a value that the run has, and the user's code that these are made of."""
        for name, leaf in self._leaves(value, ""):
            self.leaves[f"{name.lstrip('.')}, run {run}"] = leaf

    def add_code(self, run: str, config: Any) -> None:
        """The user's code in the values of a run's sections, such as a method of the user's own."""
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            self.add(run, {"code": code_of(getattr(value, "brought", type(value)))})

    def _leaves(self, value: Any, name: str) -> Iterator[tuple[str, Leaf]]:
        if isinstance(value, nn.Module):
            for key, tensor in value.state_dict(keep_vars=True).items():
                yield f"{name}.{key}", _leaf(tensor)
            for module in value.modules():
                yield from self._leaves(code_of(type(module)), "code")
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from self._leaves(code_of(type(value)), "code")
            for field in dataclasses.fields(value):
                yield from self._leaves(getattr(value, field.name), f"{name}.{field.name}")
        elif isinstance(value, dict):
            for key, each in value.items():
                yield from self._leaves(each, f"{name}.{key}")
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            yield from self._leaves(value._asdict(), name)
        elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            yield from self._leaves(dict(enumerate(value)), name)
        else:
            if id(value) not in self._read:
                self._read[id(value)] = value, _leaf(value)
            yield name, self._read[id(value)][1]


def refuse_different(world: World, leaves: dict[str, Leaf]) -> None:
    """Raise AgreedError on rank 0 where a rank has others than that one; the others end. Every rank calls it."""
    if len(set(world.agree(zlib.crc32(repr(leaves).encode())))) == 1:
        return
    first = world.from_root(lambda: leaves)
    differ = [name for name in {**first, **leaves} if first.get(name) != leaves.get(name)]
    everyone = world.agree(Difference(differ[0], leaves.get(differ[0])) if differ else None)
    if world.rank:
        raise AgreedExit(2)
    rank, found = next((rank, found) for rank, found in enumerate(everyone) if found)
    mine, its = first.get(found.name), found.leaf
    words = [leaf.words if leaf else "nothing" for leaf in (mine, its)]
    if mine and its and words[0] == words[1]:
        words = [f"{mine.words} (checksum {mine.checksum:08x})", f"others ({its.checksum:08x})"]
    raise AgreedError(
        f"ranks differ in {found.name}: rank 0 has {words[0]}, rank {rank} has {words[1]}; give all the same files "
        "and code, and let models depend on the seed alone"
    )


class Difference(NamedTuple):
    """The first part that a rank has otherwise than rank 0; None where it has none of that name."""

    name: str
    leaf: Leaf | None


def code_of(kind: type) -> dict[str, bytes]:
    """The file that a class is written in, by the module's name; nothing for those of this package and of torch."""
    module = kind.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.partition(".")[0] in _KNOWN or not file or not Path(file).is_file():
        return {}
    return {module: Path(file).read_bytes()}


def _leaf(value: Any) -> Leaf:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor):
        words = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
        flat = value.detach().cpu().contiguous().reshape(-1)
        return Leaf(words, zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0)
    if isinstance(value, bytes):
        return Leaf(f"{len(value)} bytes", zlib.crc32(value))
    text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
    many = len(value) if isinstance(value, tuple | list | str) else None
    words = text if len(text) <= 40 else f"{type(value).__name__} of length {many}"
    return Leaf(words, zlib.crc32(text.encode()))
