"""What a method's step does, found by running it on tensors without values.

A step that sums, scales and mixes whole blocks alike is a short list of operations on one row's numbers, and mixing or
the exact mean where rows meet. Anything else that a step does makes it one that cannot be fused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decentral.algorithms.state import tensors_of
from decentral.comm import Mixer
from decentral.comm.stand_ins import AtOnce

Step = Callable[[list[Tensor], Mixer], tuple[Tensor, Any]]


class Node(NamedTuple):
    """One operation: ``kind`` of places in the list of nodes, or of numbers.

    in k: input k. fma a b s: a + s b. mul a b, div a b, scale a s, over a s: a b, a / b, a s, a / s. mix a, mean a:
    over the rows. Letters are places of earlier nodes, but s is that of a number, which is no part of the program.
    """

    kind: str
    of: tuple[int, ...]


class CannotFuseError(Exception):
    """The step does what a program cannot."""


@dataclass(frozen=True)
class Program:
    """``nodes`` in the order of the step; ``writes``: (input that is overwritten, node whose value it gets).

    It does not hold the numbers that change from round to round, such as the learning rate.
    """

    nodes: tuple[Node, ...]
    writes: tuple[tuple[int, int], ...]
    inputs: int

    def sources(self, kind: str) -> list[tuple[int, int]]:
        """(node, the node that it mixes or averages) of each of this kind, "mix" or "mean"."""
        return [(k, node.of[0]) for k, node in enumerate(self.nodes) if node.kind == kind]


class Recorded(NamedTuple):
    """The program, its numbers, the state that the step leaves, and how often it mixes and averages."""

    program: Program
    numbers: list[float]
    state: Any
    mixes: int
    means: int


def recorded(step: Step, like: list[Tensor], comm: Mixer) -> Recorded:
    """Of a step on tensors like ``like``: x, g, and the state's.

    Raises CannotFuseError; or whatever the step raises for tensors without values.
    """
    inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for tensor in like]
    recorder = _Recorder(inputs)
    with torch.no_grad(), recorder:
        mixer = _RecordingComm(recorder, comm)
        x, state = step(inputs, mixer)
    results = [x, *tensors_of(state)]
    targets = [0, *range(2, len(inputs))]
    if len(results) != len(targets) or any(
        r.shape != like[k].shape for k, r in zip(targets, results, strict=True)
    ):
        raise CannotFuseError
    if recorder.of(inputs[1]) != 1:  # others may look at the gradients afterwards
        raise CannotFuseError
    writes = [(k, recorder.of(result)) for k, result in zip(targets, results, strict=True)]
    program = Program(tuple(recorder.nodes), tuple((k, node) for k, node in writes if k != node), len(inputs))
    return Recorded(program, recorder.numbers, state, mixer.mixes, mixer.means)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operations of this thread, which must be on known tensors."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = [Node("in", (k,)) for k in range(len(inputs))]
        self.met = [False] * len(inputs)  # of each node: whether rows have met in it
        self.numbers: list[float] = []
        # the tensors too, so that none is freed and its id given to another
        self.known = {id(tensor): (tensor, k) for k, tensor in enumerate(inputs)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would load its compiler for that, too

    def of(self, tensor: Tensor) -> int:
        try:
            return self.known[id(tensor)][1]
        except KeyError:
            raise CannotFuseError from None

    def add(self, kind: str, *args: int, sources: tuple[int, ...]) -> int:
        met = any(self.met[k] for k in sources)
        if kind in ("mix", "mean"):
            if met:
                raise CannotFuseError  # rows meet twice, one after the other
            met = True
        node = Node(kind, args)
        if node in self.nodes:
            return self.nodes.index(node)
        self.nodes.append(node)
        self.met.append(met)
        return len(self.nodes) - 1

    def hold(self, tensor: Tensor, node: int) -> Tensor:
        self.known[id(tensor)] = (tensor, node)
        return tensor

    def number(self, value: float) -> int:
        self.numbers.append(float(value))
        return len(self.numbers) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "empty":
            return func(*args, **kwargs)
        if name == "empty_like":
            return self.empty(args[0].shape, args[0])
        what = _OPERATIONS.get(name.removesuffix("_"))
        if what is None or not set(kwargs) <= {"alpha", "out"}:
            raise CannotFuseError
        node = what(self, *args, **{key: value for key, value in kwargs.items() if key == "alpha"})
        shape = max(tuple(a.shape) for a in args if isinstance(a, Tensor))  # (1, b) or (h, b)
        target = args[0] if name.endswith("_") else kwargs.get("out")
        if target is None:
            target = self.empty(shape, args[0])
        elif target.shape != shape:
            raise CannotFuseError
        return self.hold(target, node)

    def empty(self, shape: Any, like: Tensor) -> Tensor:
        """A tensor without values; torch's operations that make one would load its compiler, in seconds."""
        return torch.empty(shape, dtype=like.dtype, device="meta")

    def _plus(self, a: Tensor, b: Any, alpha: float = 1.0) -> int:
        if not isinstance(b, Tensor):
            raise CannotFuseError
        left, right = self.of(a), self.of(b)
        return self.add("fma", left, right, self.number(alpha), sources=(left, right))

    def _minus(self, a: Tensor, b: Any, alpha: float = 1.0) -> int:
        return self._plus(a, b, -alpha)

    def _of_two(self, kinds: tuple[str, str], a: Any, b: Any) -> int:
        left = self.of(a)
        if isinstance(b, int | float):
            return self.add(kinds[1], left, self.number(b), sources=(left,))
        right = self.of(b)
        return self.add(kinds[0], left, right, sources=(left, right))

    def _times(self, a: Any, b: Any) -> int:
        return self._of_two(("mul", "scale"), a, b)

    def _over(self, a: Any, b: Any) -> int:
        return self._of_two(("div", "over"), a, b)

    def _same(self, a: Tensor) -> int:
        return self.of(a)

    def _copied(self, a: Tensor, b: Tensor, *_: object) -> int:
        return self.of(b)


_OPERATIONS: dict[str, Callable[..., int]] = {
    "add": _Recorder._plus,
    "sub": _Recorder._minus,
    "mul": _Recorder._times,
    "div": _Recorder._over,
    "clone": _Recorder._same,
    "copy": _Recorder._copied,
}


class _RecordingComm(AtOnce):
    """Writes down where rows meet."""

    def __init__(self, recorder: _Recorder, comm: Mixer) -> None:
        self.recorder, self.exact = recorder, comm.plan.exact
        self.n, self.h, self.rows, self.ranks, self.layout = comm.n, comm.h, comm.rows, 1, comm.layout
        self.comm, self.mixes, self.means = comm, 0, 0

    @property
    def t(self) -> int:  # type: ignore[override]  # asked for when the step asks
        """The round."""
        return self.comm.t

    def mix(self, x: Tensor) -> Tensor:
        """A new tensor (h, b)."""
        self.mixes += 1
        return self._meet("mean" if self.exact else "mix", x, self.h)

    def mean(self, x: Tensor) -> Tensor:
        """A new tensor (1, b)."""
        self.means += 1
        return self._meet("mean", x, 1)

    def _meet(self, kind: str, x: Tensor, rows: int) -> Tensor:
        if x.shape[0] != self.h:
            raise CannotFuseError
        source = self.recorder.of(x)
        result = torch.empty((rows, x.shape[1]), dtype=x.dtype, device="meta")
        return self.recorder.hold(result, self.recorder.add(kind, source, sources=(source,)))
