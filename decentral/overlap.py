"""Which messages of a round can travel while the gradient is computed: those that do not depend on it.

Told by running the method's own ``step`` twice from the same models and state, with two different gradients, on a small
communicator that records what it is asked to send. What comes out alike both times is ready before the gradient.
"""

from __future__ import annotations

import dataclasses
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

import topologies
from decentral.algorithms.state import map_state
from decentral.comm import LocalComm

_WIDTH = 3  # columns: methods act alike on every one
_LR = 1e-3
_AT_LEAST = 6  # rounds that are looked at of any method
_AT_MOST = 2_000  # and of one that acts every k-th round; its k is one of its settings


def early_messages(method: Any, n: int = 4) -> tuple[bool, ...]:
    """For each message that a round sends, in order: whether it is ready before the round's gradient.

    ``n``: workers of the path on which it is tried, a graph that has what every method needs; at least 2. A message is
    a vector to the neighbours (``mix``, ``mix_``, ``mix_sent``, ``start``), one along each edge (``exchange``), or an
    all-reduce (``mean``); numbers that ride ``along`` in its packet are none. Where rounds differ (a method that
    averages every k-th round), there are as many as in the longest of them, and one is early only if it is in every
    round that has it. All rounds up to twice the largest whole number among the method's settings are run, but at
    most 2,000.

        early_messages(DSGD())               (False,)        W (x - lr g)
        early_messages(DSGD("awc"))          (True,)         W x - lr g
        early_messages(MomentumTracking())   (True, False)   W x, then W v with the gradient in v
    """
    found: list[bool] = []
    for sent, sent_otherwise, _ in _rounds(method, n):
        alike = [
            a is not None and b is not None and torch.equal(a, b)
            for a, b in zip_longest(sent, sent_otherwise)
        ]
        found = [a and b for a, b in zip_longest(found, alike, fillvalue=True)]
    return tuple(found)


def sends_model_first(method: Any, n: int = 4) -> bool:
    """Whether the first message of every round is the models as the last round left them: it may leave at once."""
    return all(
        bool(sent) and bool(otherwise) and torch.equal(sent[0], x) and torch.equal(otherwise[0], x)
        for sent, otherwise, x in _rounds(method, n)
    )


def _rounds(method: Any, n: int) -> list[tuple[list[Tensor], list[Tensor], Tensor]]:
    """Of each round that is tried: what it sends with one gradient and with another, and the models before it."""
    comm = RecordingComm(topologies.mixing_matrix(topologies.path(n)))
    draw = torch.Generator().manual_seed(0)

    def random() -> Tensor:
        return torch.randn(n, _WIDTH, generator=draw, dtype=torch.float64)

    x = random()
    state, found = method.init(x.clone(), comm), []
    for t in range(_rounds_to_try(method)):
        g, other = random(), random()
        comm.sent.clear()
        method.step(x.clone(), map_state(Tensor.clone, state), other, comm.at(t), _LR)
        otherwise, before = list(comm.sent), x.clone()
        comm.sent.clear()
        x, state = method.step(x, state, g, comm.at(t), _LR)
        found.append((list(comm.sent), otherwise, before))
    return found


def _rounds_to_try(method: Any) -> int:
    settings = (
        [getattr(method, f.name) for f in dataclasses.fields(method)]
        if dataclasses.is_dataclass(method)
        else []
    )
    longest = max((value for value in settings if type(value) is int), default=0)
    return min(max(_AT_LEAST, 2 * longest), _AT_MOST)


class RecordingComm(LocalComm):
    """A LocalComm that keeps a copy of each message in ``sent``."""

    def __init__(self, mixing: Any) -> None:
        super().__init__(mixing)
        self.sent: list[Tensor] = []

    def bill_gossip(self, x: Tensor) -> None:
        """Called with each vector and each set of edges' vectors that is sent."""
        self._keep(x)

    def bill_all_reduce(self, x: Tensor) -> None:
        """Called with each vector that is averaged."""
        self._keep(x)

    def _keep(self, x: Tensor) -> None:
        if not self.rider:
            self.sent.append(x.clone())
