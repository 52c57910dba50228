"""What a method sends in a round, and what of it can travel while the gradient is computed: what does not depend on it.

Told by running the method's own ``step`` twice from the same models and state, with two different gradients, on a small
communicator that records what it is asked to send. What comes out alike both times is ready before the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

import topologies
from decentral.algorithms.state import map_state
from decentral.comm import LocalComm

_WIDTH = 3  # columns: methods act alike on every one
TRIAL_LR = 1e-3
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
    for trial in trials(method, n):
        sent, otherwise = trial.messages(method)
        alike = [
            a is not None and b is not None and torch.equal(a, b) for a, b in zip_longest(sent, otherwise)
        ]
        found = [a and b for a, b in zip_longest(found, alike, fillvalue=True)]
    return tuple(found)


def sends_model_first(method: Any, n: int = 4) -> bool:
    """Whether the first message of every round is the models as the last round left them: it may leave at once."""
    return all(
        bool(sent) and torch.equal(sent[0], trial.x)
        for trial in trials(method, n)
        for sent in trial.messages(method)
    )


def averages_and_gossips(method: Any, schedule: topologies.Schedule) -> tuple[bool, bool]:
    """Whether the method averages exactly, and whether it gossips: by its ledger, after a round of either kind."""
    comm, averages, gossips = LocalComm(schedule), False, False
    x = torch.zeros(schedule.n, 1, dtype=torch.float64)
    state = method.init(x, comm)
    for t in sorted({0, getattr(method, "every", 1) - 1}):
        _, state = method.step(x.clone(), map_state(Tensor.clone, state), x.clone(), comm.at(t), 1.0)
        ledger = comm.ledger.state()
        averages = bool(ledger["reduced_bytes"])
        gossips = bool(comm.ledger.bytes_sent.any()) and ledger["gossip_bytes"].any()  # type: ignore[attr-defined]
    return averages, gossips


@dataclass(frozen=True)
class Trial:
    """One round to try a method in: ``comm`` in that round, models x, the method's state before it, a gradient."""

    comm: RecordingComm
    x: Tensor
    state: Any
    g: Tensor

    def step(self, method: Any, x: Tensor, g: Tensor | None) -> tuple[Tensor, Any]:
        """The models and the state after the round from x with g; nothing given is written to."""
        self.comm.sent.clear()
        after, state = method.step(x.clone(), map_state(Tensor.clone, self.state), g, self.comm, TRIAL_LR)
        return after, state

    def messages(self, method: Any) -> tuple[list[Tensor], list[Tensor]]:
        """What the round sends with the gradient g, and with another."""
        self.step(method, self.x, self.g)
        sent = list(self.comm.sent)
        self.step(method, self.x, self.g.neg() + 1)
        return sent, list(self.comm.sent)


def trials(method: Any, n: int) -> Iterator[Trial]:
    """Successive rounds of ``method`` on a path of n workers, with random models and gradients."""
    comm = RecordingComm(topologies.mixing_matrix(topologies.path(n)))
    draw = torch.Generator().manual_seed(0)

    def random() -> Tensor:
        return torch.randn(n, _WIDTH, generator=draw, dtype=torch.float64)

    x = random()
    state = method.init(x.clone(), comm)
    for t in range(_rounds_to_try(method)):
        trial = Trial(comm.at(t), x, state, random())
        yield trial
        x, state = trial.step(method, x, trial.g)


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
