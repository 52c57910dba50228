"""Pairwise averaging without locks: who is asked for an average moves halfway, and answers by how far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from decentral.algorithms.descent import descend
from topologies.streams import stream

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.asynchronous.side import Letter, Neighbourhood

ASK, ANSWER = 0, 1


class Exchange:
    """A worker's side of averages with one random neighbour at a time, at the most every ``every`` steps.

    Worker i asks with a copy a of its model. Who is asked, j, sends back d, and both move:

        d = (x_j - a) / 2;    x_j <- x_j - d;    x_i <- x_i + d,  whatever x_i is by then

    If x_i has not changed, both have the average of the two. In any case the sum of all models, and of the d under way,
    stays what it is. Two requests that cross, j's with b, answer each other: x_i <- x_i + (b - a) / 2, and j likewise
    with the opposite sign; else two workers that ask each other at the same moment would swap models for ever.
    Nobody waits for a particular neighbour, so no graph can deadlock.

    ``staleness``: own steps made from asking until d was added; 0: before the next one.
    """

    acknowledges = False

    def __init__(self, x: Tensor, near: Neighbourhood, every: int, name: str) -> None:
        self.x, self.near, self.every, self.name = x, near, every, name
        self.partner: int | None = None  # who is asked
        self.copy = x  # what it was asked with
        self.asked_at = 0
        self.asked = self.answered = 0
        self.staleness: Counter[int] = Counter()

    def model(self) -> Tensor:
        """x."""
        return self.x

    def step(self, g: Tensor | None, lr: float, t: int) -> Iterator[Letter]:
        """x <- x - lr g; then a request, if it is time and none is out."""
        self.x = descend(self.x, g, lr)
        near = self.near
        if self.partner is not None or not near.targets or (t + 1) % self.every:
            return
        draw = stream(near.seed, self.name, near.worker, t).integers(len(near.targets))
        self.partner, self.copy, self.asked_at = near.targets[int(draw)], self.x.clone(), t + 1
        self.asked += 1
        yield self.partner, (ASK, self.copy)

    def receive(self, source: int, said: tuple[Any, ...], t: int) -> Iterator[Letter]:
        """A request is answered, an answer is added."""
        kind, vector = said
        if kind == ANSWER:
            self._add(vector, t)
        elif source == self.partner:  # the two requests have crossed
            self._add((vector - self.copy).div_(2), t)
        else:
            d = (self.x - vector).div_(2)
            self.x.sub_(d)
            yield source, (ANSWER, d)

    def acknowledged(self, target: int) -> None:
        """Nothing is acknowledged: a request is answered."""

    def _add(self, d: Tensor, t: int) -> None:
        self.x.add_(d)
        self.partner = None
        self.answered += 1
        self.staleness[t - self.asked_at] += 1
