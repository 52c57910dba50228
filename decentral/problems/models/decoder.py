"""The best path through a left-to-right chain of states, and its gradient: dynamic programming over frames.

    delta_s(t) = max(delta_s(t-1) + log stay, delta_{s-1}(t-1) + log move) + e_s(t),      delta_{-1}(t) + log move = 0

for states s = 0 .. S-1: a path may begin in state 0 at any frame, goes through all states in order, each for a frame
or more, and delta_{S-1}(t) is the best of those that end at frame t. At ``temperature`` tau > 0 the max is soft,
max(a, b) -> tau log(exp(a / tau) + exp(b / tau)), so that delta is at least the hard one and tends to it as tau -> 0.
The gradient with respect to e is 1 on the best path and 0 elsewhere, or the state's posterior (Mensch and Blondel 2018,
arXiv 1802.03676); log stay and log move are constants.

All paths of a chain make the same moves, so a move's cost leaves the recursion: with e' = e + log stay the max is over
delta'_s(t-1) and delta'_{s-1}(t-1), and all costs are one constant (:meth:`Chain.constant`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

Array = np.ndarray[Any, Any]

UNREACHED = -1e30
"""delta of a state that no path has come to: finite, so that differences of two such are 0 and not NaN."""


class Decoded(NamedTuple):
    """Of the paths that end at each frame: the best score (B, T), and how many frames it has (B, T), in expectation.

    Scores of frames before state S-1 can be reached are -1e30 or so. Durations have no gradient.
    """

    score: Tensor
    duration: Tensor


@dataclass(frozen=True)
class Chain:
    """``states`` S, the probability of staying in one for the next frame (all alike), the ``temperature`` (0: max)."""

    states: int
    stay: float
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.states < 1 or not 0 < self.stay < 1 or not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"a chain of {self.states} states, stay = {self.stay}, temperature = {self.temperature}: it needs a "
                "state, a probability between 0 and 1, and a temperature of at least 0"
            )

    @property
    def constant(self) -> float:
        """What a path's moves cost beyond log stay a frame: (S - 1) log move - S log stay."""
        return (self.states - 1) * math.log1p(-self.stay) - self.states * math.log(self.stay)

    def __call__(self, emissions: Tensor) -> Decoded:
        """Decode ``emissions`` (B, T, S): a number for each frame and state, such as log likelihood ratios."""
        costed = emissions + math.log(self.stay)
        score, duration, _ = Recursion.apply(costed, self.temperature)  # type: ignore[no-untyped-call]
        return Decoded(score + self.constant, duration)


class Recursion(Function):
    """delta'_{S-1} (B, T), durations (B, T), and the weights (T, S, B) of coming from the state before.

    On the CPU, and in numpy, wherever the emissions are: a frame is a few operations on some thousand numbers, which
    are there in the time in which torch, or a GPU, is told of them.
    """

    @staticmethod
    def forward(emissions: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """All states and examples of a frame at once."""
        score, duration, weights = decode(_frames_first(emissions), temperature)
        return tuple(torch.from_numpy(part).to(emissions.device) for part in (score.T, duration.T, weights))  # type: ignore[return-value]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """The weights are all that the way back needs."""
        del inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(output[2])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        """See :class:`Occupancy`."""
        return Occupancy.apply(ctx.saved_tensors[0], g), None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, emissions: Tensor, temperature: float) -> Any:
        """More examples."""
        folded = emissions.movedim(in_dims[0], 0).flatten(0, 1)
        outputs = Recursion.apply(folded, temperature)  # type: ignore[no-untyped-call]
        score, duration = (part.unflatten(0, (info.batch_size, -1)) for part in outputs[:2])
        return (score, duration, outputs[2].unflatten(2, (info.batch_size, -1))), (0, 0, 2)


class Occupancy(Function):
    """How much of the score's gradient g (B, T) goes through each frame and state, (B, T, S): see :func:`occupied`."""

    @staticmethod
    def forward(weights: Tensor, g: Tensor) -> Tensor:
        """From the last frame to the first."""
        flow = occupied(weights.numpy(force=True), g.numpy(force=True).T)
        return torch.from_numpy(flow.transpose(2, 0, 1)).to(g.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there is no second derivative."""
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Refused."""
        del ctx
        raise NotImplementedError("the decoder has no second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, weights: Tensor, g: Tensor) -> Any:
        """More examples."""
        count = info.batch_size
        weights = _every(weights, in_dims[0], 2, count).flatten(2, 3)
        g = _every(g, in_dims[1], 0, count).flatten(0, 1)
        return Occupancy.apply(weights, g).unflatten(0, (count, -1)), 0  # type: ignore[no-untyped-call]


def decode(e: Array, temperature: float) -> tuple[Array, Array, Array]:
    """delta'_{S-1} (T, B), durations (T, B) and weights (T, S, B) of emissions e' (T, S, B); state -1 is the way in.

    A path's duration is told by the frame at which it begins, weighted as the paths are.
    """
    frames, states, batch = e.shape
    delta = np.zeros((frames + 1, states + 1, batch), e.dtype)
    delta[0, 1:] = UNREACHED
    # views by iteration cost half of what indices do, and a frame's numbers not much more than a view
    for now, stays, moves, cost in zip(delta[1:, 1:], delta[:-1, 1:], delta[:-1, :-1], e, strict=True):
        np.maximum(stays, moves, out=now)
        if temperature:
            further = np.exp(np.abs(moves - stays) / -temperature)
            now += temperature * np.log1p(further)
        np.add(now, cost, out=now)
    ahead = delta[:-1, :-1] - delta[:-1, 1:]
    weights = (1 + np.tanh(ahead / (2 * temperature))) / 2 if temperature else (ahead > 0).astype(e.dtype)
    begin = np.zeros_like(delta)
    begin[:, 0] = np.arange(frames + 1)[:, None]
    shift = np.empty((states, batch), e.dtype)
    for now, stays, moves, weight in zip(
        begin[1:, 1:], begin[:-1, 1:], begin[:-1, :-1], weights, strict=True
    ):
        np.subtract(moves, stays, out=shift)
        np.multiply(shift, weight, out=shift)
        np.add(stays, shift, out=now)
    return delta[1:, -1], begin[1:, 0] - begin[1:, -1], weights


def occupied(weights: Array, g: Array) -> Array:
    """G (T, S, B) of weights w (T, S, B) and the gradients g (T, B) of the scores at each frame.

    G_s(t) = (1 - w_s(t+1)) G_s(t+1) + w_{s+1}(t+1) G_{s+1}(t+1) + [s = S-1] g(t)
    """
    flow = np.empty_like(weights)
    flow[-1, :-1], flow[-1, -1] = 0, g[-1]
    left = np.empty_like(weights[0])
    left_of_next = left[1:]
    frames = zip(flow[:-1], flow[1:], flow[:-1, :-1], weights[1:], strict=True)
    backwards = reversed(list(frames))
    for (now, later, but_last, weight), given in zip(backwards, g[-2::-1], strict=True):
        np.multiply(weight, later, out=left)
        np.subtract(later, left, out=now)
        np.add(but_last, left_of_next, out=but_last)
        now[-1] += given
    return flow


def _frames_first(emissions: Tensor) -> Array:
    """(T, S, B): the numbers that are taken at once lie side by side."""
    return np.ascontiguousarray(emissions.numpy(force=True).transpose(1, 2, 0))


def _every(x: Tensor, mapped: int | None, to: int, count: int) -> Tensor:
    """``x`` with its mapped axis at ``to``; repeated where it has none."""
    if mapped is not None:
        return x.movedim(mapped, to)
    return x.unsqueeze(to).expand(*x.shape[:to], count, *x.shape[to:])
