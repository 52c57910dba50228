"""A worker's round in two passes over memory, before its message and after it, where a rank hosts one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from decentral import algorithms
from decentral.algorithms.state import map_state, tensors_of, with_tensors
from decentral.comm.communicator import Communicator
from decentral.rounds.fused.agreement import kernel_for
from decentral.rounds.fused.kernel import Kernel
from decentral.rounds.fused.program import Node, Program, recorded

if TYPE_CHECKING:
    from decentral.algorithms.traits import Method
    from decentral.comm import Mixer

_LARGE = 1 << 19  # columns of x, from which some hundred rounds gain more than compiling costs
_MOST_KEPT = 64  # rounds with other learning rates
_NODES = {"fma": 2, "mul": 2, "div": 2, "scale": 1, "over": 1}  # how many of what a node is of are nodes


def split(program: Program, others: int) -> tuple[Program, Program]:
    """Of a program with one mixing, (what makes z, which is sent; the rest, when ``others`` rows have come).

    z is the input after the program's own, and what came is after z. The rest has 1 + ``others`` numbers more, the
    weights of W: its mixing is w_0 z, and then each row that came, by fma, as :meth:`MixingPlan.combine` has it.
    """
    ((mix, source),) = program.sources("mix")
    z, numbers = program.inputs, _numbers(program)
    first = Program(
        _placed(program.nodes[:mix], z, 1)[0], ((z, source + 1 if source >= z else source),), z + 1
    )
    sums = [Node("scale", (z, numbers))]
    at = mix + 1 + others  # where the first of them lies
    sums += [Node("fma", (at + j, z + 1 + j, numbers + 1 + j)) for j in range(others)]
    nodes, places = _placed(program.nodes, z, 1 + others, {mix: sums})
    return first, Program(nodes, tuple((k, places[node]) for k, node in program.writes), z + 1 + others)


def _numbers(program: Program) -> int:
    return 1 + max(
        (node.of[-1] for node in program.nodes if node.kind in ("fma", "scale", "over")), default=-1
    )


def _placed(
    nodes: tuple[Node, ...], inputs: int, more: int, instead: dict[int, list[Node]] | None = None
) -> tuple[tuple[Node, ...], list[int]]:
    """The nodes with ``more`` inputs after the first ``inputs``, and others ``instead`` of some; where each lies."""
    found = [Node("in", (k,)) for k in range(inputs + more)]
    places = list(range(inputs))
    for k, node in enumerate(nodes[inputs:], inputs):
        if instead and k in instead:
            found += instead[k]
        else:
            of = _NODES[node.kind]
            found.append(Node(node.kind, (*(places[a] for a in node.of[:of]), *node.of[of:])))
        places.append(len(found) - 1)
    return tuple(found), places


class Halves:
    """A round of this rank's worker on ``tensors``, x and the state's, block by block."""

    def __init__(self, made: _Made, tensors: list[Tensor]) -> None:
        self.made = made
        self.x, *self.others = tensors
        self.state = with_tensors(made.state, self.others)  # what the method will be given next

    def step(self, block: slice, g: Tensor, rounds: Mixer) -> None:
        """The columns ``block`` of x and of the state, with the gradient g (1, b)."""
        before, after, numbers, _ = self.made
        if g.dtype is not self.x.dtype or g.stride(1) != 1:
            g = g.to(self.x.dtype).contiguous()
        given = [self.x[:, block], g, *[s[:, block] for s in self.others]]
        z = torch.empty_like(given[0])
        before.alone([*given, z], numbers)
        _, _, request = rounds.start(z)
        rest: Any = _Rest(lambda came: after.alone([*given, z, *map(torch.atleast_2d, came)], numbers))
        rounds.finish((rest, z, request))


class _Made(NamedTuple):
    """What a round before its message is, and after it; with which numbers; and the state that it leaves."""

    before: Kernel
    after: Kernel
    numbers: Tensor
    state: Any


@dataclass(frozen=True)
class _Rest:
    """In place of a plan, for whoever waits for the rows of a mixing: what is done with them is all the rest."""

    go_on: Callable[[Tensor], None]
    exact = False

    def combine(self, x: Tensor, came: Tensor, out: Tensor | None) -> Tensor:
        """The rest; what it gives is of no use."""
        self.go_on(came)
        return x


class _Watched:
    """What a step may know of a communicator that is in a round, and whether it ``asked`` for the round's number."""

    def __init__(self, comm: Communicator) -> None:
        self.comm, self.asked = comm, False
        self.n, self.h, self.rows, self.plan, self.layout = comm.n, comm.h, comm.rows, comm.plan, comm.layout

    @property
    def t(self) -> int:
        self.asked = True
        return self.comm.t


_kept: dict[Any, _Made | None] = {}  # of the package's methods, in rounds whose number they do not ask for


def halves_of(
    method: Method[Any], x: Tensor, state: Any, comm: Mixer, t: int, lr: float, weight_decay: float
) -> Halves | None:
    """Round t of ``method`` from x (1, d); None where it is done as well or must be done another way."""
    if x.numel() < _LARGE or not isinstance(comm, Communicator) or comm.ranks == 1 or comm.whole:
        return None
    tensors = [x, *tensors_of(state)]
    if not all(_fits(s, x) for s in tensors) or len({s.data_ptr() for s in tensors}) < len(tensors):
        return None
    now = comm.at(t)
    terms = () if now.plan.exact or comm.h > 1 else now.plan.runs[0].terms
    if not terms or terms[0][0] != 0:
        return None
    made = _known(_Asked(method, state, lr, weight_decay, x.dtype, terms), tensors, _Watched(now))
    return None if made is None else Halves(made, tensors)


class _Asked(NamedTuple):
    """A round that is looked for. ``terms``: (row, weight) of W, this worker's own first."""

    method: Method[Any]
    state: Any
    lr: float
    weight_decay: float
    dtype: torch.dtype
    terms: tuple[tuple[int, float], ...]


def _known(asked: _Asked, tensors: list[Tensor], comm: _Watched) -> _Made | None:
    """What was found in an earlier round, or is now."""
    numbers = map_state(lambda _: None, asked.state)  # type: ignore[arg-type, return-value]
    key = (*asked._replace(state=numbers), comm.n, comm.rows)
    ours = type(asked.method).__module__.startswith(f"{algorithms.__name__}.")
    if ours and key in _kept:
        return _kept[key]
    made = _make(asked, tensors, comm)
    if ours and not comm.asked:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[key] = made
    return made


def _make(asked: _Asked, tensors: list[Tensor], comm: _Watched) -> _Made | None:
    def step(inputs: list[Tensor], mixer: Mixer) -> tuple[Tensor, Any]:
        x, g, *rest = inputs
        if asked.weight_decay:
            g = g.add(x, alpha=asked.weight_decay)
        return asked.method.step(x, with_tensors(asked.state, rest), g, mixer, asked.lr)

    try:
        seen = recorded(step, [tensors[0], *tensors], comm)  # type: ignore[arg-type]  # all that it looks at
    except Exception:  # whatever a method does with tensors without values; then it is asked as ever
        return None
    if (seen.mixes, len(seen.program.sources("mix")), seen.means) != (1, 1, 0):
        return None
    before, after = (kernel_for(half, asked.dtype) for half in split(seen.program, len(asked.terms) - 1))
    if before is None or after is None:
        return None
    numbers = torch.tensor([*seen.numbers, *(weight for _, weight in asked.terms)], dtype=asked.dtype)
    return _Made(before, after, numbers, seen.state)


def _fits(s: Tensor, x: Tensor) -> bool:
    return s.shape == x.shape and s.dtype is x.dtype and s.device.type == "cpu" and s.is_contiguous()
