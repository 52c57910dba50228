"""What a method sends in a round, and what of it can travel while the gradient is computed: what does not depend on it.

Told by running the method's own ``step`` twice from the same models and state, with two different gradients, on a small
communicator that records what it is asked to send. What comes out alike both times is ready before the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

import topologies
from decentral.algorithms.state import map_state
from decentral.algorithms.traits import Method
from decentral.comm import LocalComm
from decentral.comm.schedule import Mixing
from decentral.tables import fields_of

_WIDTH = 3  # columns: methods act alike on every one
TRIAL_LR = 1e-3
_AT_LEAST = 6  # rounds that are looked at of any method
_AT_MOST = 2_000  # and of one that acts every k-th round; its k is one of its settings


def early_messages(method: Method[Any], n: int = 4) -> tuple[bool, ...]:
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
    return _early(_rounds(method, n))


def sends_model_first(method: Method[Any], n: int = 4) -> bool:
    """Whether the first message of every round is the models as the last round left them: it may leave at once."""
    return all(
        bool(sent) and torch.equal(sent[0].x, trial.x)
        for trial in trials(method, n)
        for sent in trial.messages(method)
    )


class Messages(NamedTuple):
    """How many a round sends in the mean: gossip ready before the gradient, gossip that is not, and all-reduces."""

    early: float
    late: float
    averages: float

    @property
    def gossip(self) -> float:
        """Messages to neighbours."""
        return self.early + self.late


def messages_a_round(method: Method[Any], n: int = 4) -> Messages:
    """What a round sends in the mean over the rounds after which it repeats.

    Told as by :func:`early_messages`, from the same rounds.

        messages_a_round(DSGD())              (0, 1, 0)
        messages_a_round(DIGing())            (1, 1, 0)
        messages_a_round(GossipPGA(every=6))  (0, 5/6, 1/6)
    """
    rounds = _rounds(method, n)
    early, kinds = _early(rounds), [[averages for _, averages in a_round] for a_round in rounds]
    period = next(k for k in range(1, len(kinds) + 1) if kinds[k:] == kinds[:-k])
    gossip = [early[i] for kind in kinds[:period] for i, averages in enumerate(kind) if not averages]
    averages = sum(map(sum, kinds[:period]))
    return Messages(sum(gossip) / period, (len(gossip) - sum(gossip)) / period, averages / period)


def _rounds(method: Method[Any], n: int) -> list[list[tuple[bool, bool]]]:
    """Of each message of each round tried: whether another gradient leaves it as it is, whether it is an all-reduce."""
    found = []
    for trial in trials(method, n):
        pairs = zip_longest(*trial.messages(method))
        found.append([(bool(a and b and torch.equal(a.x, b.x)), (a or b).averages) for a, b in pairs])
    return found


def _early(rounds: list[list[tuple[bool, bool]]]) -> tuple[bool, ...]:
    """Of each place in a round: whether what stands there is ready before the gradient in every round that has it."""
    always = (True, False)
    return tuple(all(alike for alike, _ in place) for place in zip_longest(*rounds, fillvalue=always))


@dataclass(frozen=True)
class Trial:
    """One round to try a method in: ``comm`` in that round, models x, the method's state before it, a gradient."""

    comm: Any  # a RecordingComm, or one that is around it
    x: Tensor
    state: Any
    g: Tensor

    def step(self, method: Method[Any], x: Tensor, g: Tensor | None) -> tuple[Tensor, Any]:
        """The models and the state after the round from x with g; nothing given is written to."""
        self.comm.sent.clear()
        given: Any = g  # whether the method can do without is what is tried
        return method.step(x.clone(), map_state(Tensor.clone, self.state), given, self.comm, TRIAL_LR)

    def messages(self, method: Method[Any]) -> tuple[list[Message], list[Message]]:
        """What the round sends with the gradient g, and with another."""
        self.step(method, self.x, self.g)
        sent = list(self.comm.sent)
        self.step(method, self.x, self.g.neg() + 1)
        return sent, list(self.comm.sent)


def trials(method: Method[Any], n: int) -> Iterator[Trial]:
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


def _rounds_to_try(method: Method[Any]) -> int:
    return min(max(_AT_LEAST, 2 * max(whole_numbers(method), default=0)), _AT_MOST)


def whole_numbers(method: object) -> list[int]:
    """The whole numbers among the settings of a method and of what it has in it: one may be a k of every k-th round."""
    settings = fields_of(method) if dataclasses.is_dataclass(method) else getattr(method, "__dict__", {})
    found: list[int] = []
    for value in settings.values():
        if dataclasses.is_dataclass(value):
            found += whole_numbers(value)
        elif isinstance(value, Integral) and not isinstance(value, bool):
            found.append(int(value))
    return found


class Message(NamedTuple):
    """One vector of each worker, or one along each edge, as rows of x; ``averages``: it goes into an all-reduce."""

    x: Tensor
    averages: bool


class RecordingComm(LocalComm):
    """A LocalComm that keeps a copy of each message in ``sent``."""

    def __init__(self, mixing: Mixing) -> None:
        super().__init__(mixing, check=False)
        self.sent: list[Message] = []

    def bill_gossip(self, x: Tensor) -> None:
        """Called with each vector and each set of edges' vectors that is sent."""
        self._keep(x, False)

    def bill_all_reduce(self, x: Tensor) -> None:
        """Called with each vector that is averaged."""
        self._keep(x, True)

    def _keep(self, x: Tensor, averages: bool) -> None:
        if not self.rider:
            self.sent.append(Message(x.clone(), averages))
