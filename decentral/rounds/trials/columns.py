"""Whether a method acts alike on every column of (h, d): a round may be done in blocks of columns, or in stages.

Told by doing rounds of its own ``step`` whole and cut, on a small communicator. Methods may act on thresholds, so
models and gradients are tried in several sizes; and now and then, so the rounds after every k are among those that are
tried, for each whole number k among its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import topologies
from decentral import algorithms
from decentral.algorithms.state import map_state, tensors_of
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.rounds.advance import advance
from decentral.rounds.trials.messages import TRIAL_LR, whole_numbers

_COLUMNS, _MOST_COLUMNS = 1_000, 20_000  # more where a setting counts columns, as the k of a top-k does
_SIZES = ((1.0, 1.0), (1.0, 1e-3), (1.0, 1e4), (1e3, 1.0), (1e-3, 1e3))  # of models, of gradients
_FIRST = 5  # rounds that are tried of any method
PATH = (
    np.array([[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 2]]) / 3
)  # which has what every method needs
_CLOSE = 1e-9  # in float64: the last bits of a function may depend on where in memory a number lies


def looks_across(method: Method[Any]) -> bool:
    """Whether rounds in blocks of columns are not what whole rounds are: models, or the state that they leave.

        looks_across(DmSGD())                                 False
        looks_across(a method that clips g by its norm)       True

    A method whose traits say ``whole`` is not cut, so there is nothing to find. One of this package is what its
    settings say, and is tried once a process.
    """
    if traits_of(method).whole:
        return False
    ours = type(method).__module__.startswith(f"{algorithms.__name__}.")
    return (_differs_ever if ours else _differs)(method, _in_blocks)  # type: ignore[arg-type]  # ours are frozen


def cut_note(method: Method[Any], rule: object = None) -> str:
    """What to say of a method that looks across columns, or of the rule that it is behind if it does not itself."""
    of_rule = rule is not None and not looks_across(method)
    beforehand = "layers = True" if of_rule else "traits = Traits(whole=True)"
    name = type(rule if of_rule else method).__name__
    return (
        f"{name} looks across the columns of a model, so its rounds are done whole, not in blocks; {beforehand} says "
        "so beforehand"
    )


def looks_across_layers(method: Method[Any]) -> bool:
    """Whether two stages, each with a part of the layers and a state of its own, train another model than one does."""
    return _differs(method, _in_stages, parts=True)


class _Round(NamedTuple):
    """A round to do: ``comm`` in round t, models, the state before it, gradients; what stages have of it, if any."""

    comm: LocalComm
    t: int
    x: Tensor
    state: Any
    g: Tensor
    stages: list[_Part]


class _Part:
    """What a stage has of the models: ``columns`` of them, and a state that goes on from round to round."""

    def __init__(self, method: Method[Any], span: Span, comm: LocalComm, x: Tensor) -> None:
        self.columns = span.columns
        self.comm = comm
        self.comm.layout = Layout((span._replace(start=0, stop=span.size),))
        self.state = method.init(x[:, self.columns].clone(), self.comm)


def _differs(method: Method[Any], cut: Callable[..., list[Tensor]], parts: bool = False) -> bool:
    # a method may draw random numbers: those of the run are not to be used up here
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for of in _rounds(method, parts):
            state = map_state(Tensor.clone, of.state)
            after, left = method.step(of.x.clone(), state, of.g.clone(), of.comm.at(of.t), TRIAL_LR)
            try:
                found = cut(method, of)
            except Exception:  # whatever a method does with some of its columns, where it counts on all
                return True
            if not all(_close(a, b) for a, b in zip(found, [after, *tensors_of(left)], strict=False)):
                return True
    return False


_differs_ever = cache(_differs)


def _in_blocks(method: Method[Any], of: _Round) -> list[Tensor]:
    d = of.x.shape[1]
    middle = d // 3
    gradient = [(slice(0, middle), of.g[:, :middle].clone()), (slice(middle, d), of.g[:, middle:].clone())]
    x, state = advance(
        method,
        of.x.clone(),
        map_state(Tensor.clone, of.state),
        gradient,
        of.comm,
        of.t,
        TRIAL_LR,
        width=d // 2,
    )
    return [x, *tensors_of(state)]


def _in_stages(method: Method[Any], of: _Round) -> list[Tensor]:
    found = []
    for part in of.stages:
        x, g = of.x[:, part.columns].clone(), of.g[:, part.columns].clone()
        x, part.state = method.step(x, part.state, g, part.comm.at(of.t), TRIAL_LR)
        found.append(x)
    return [torch.cat(found, dim=1)]


def _rounds(method: Method[Any], parts: bool) -> Iterator[_Round]:
    numbers = [k for k in whole_numbers(method) if k > 0]
    d = min(max(_COLUMNS, 2 * max(numbers, default=0)), _MOST_COLUMNS)
    tried = sorted({*range(_FIRST), *(t for k in numbers for t in (k - 1, 2 * k - 1))})
    spans = (Span("first", 0, d // 4, (d // 4,)), Span("second", d // 4, d, (d - d // 4,)))
    comm = LocalComm(topologies.constant(PATH), check=False)
    comm.layout = Layout(spans)
    for of_models, of_gradients in _SIZES:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(comm.n, d, generator=draw, dtype=torch.float64) * of_models
        state = method.init(x.clone(), comm)
        stages = (
            [_Part(method, span, LocalComm(comm.schedule, check=False), x) for span in spans] if parts else []
        )
        for t in tried:
            g = torch.randn(comm.n, d, generator=draw, dtype=torch.float64) * of_gradients
            yield _Round(comm, t, x, map_state(Tensor.clone, state), g, stages)
            x, state = method.step(x, state, g.clone(), comm.at(t), TRIAL_LR)


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)
