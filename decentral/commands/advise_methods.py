"""What ``decentral advise`` ranks: each method, what a round of it sends, and where it rests."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.algorithms import ALGORITHMS
from decentral.algorithms.rest import Rest, rest_of
from decentral.algorithms.traits import Method, traits_of
from decentral.tables import schema

if TYPE_CHECKING:
    from decentral.rounds.trials.messages import Messages


@dataclass(frozen=True)
class Candidate:
    """A method by its name, with ``settings`` that are not default; ``sends``: vectors a round in the mean."""

    name: str
    settings: Mapping[str, Any]
    method: Method[Any]
    sends: Messages

    @property
    def label(self) -> str:
        """Its name and what is not default."""
        return " ".join([self.name, *map(str, self.settings.values())])

    def seconds(self, compute_s: float, gossip_s: float, all_reduce_s: float) -> float:
        """Of a round, see :mod:`decentral.commands.advise`."""
        sends = self.sends
        return max(compute_s, sends.early * gossip_s) + sends.late * gossip_s + sends.averages * all_reduce_s

    def bias(self, gap: float, period: int) -> float | None:
        """See :func:`bias_factor`."""
        return bias_factor(rest_of(self.method), gap, period)


def candidates() -> list[Candidate]:
    """Every method with its default settings, and combining while it adapts where it has a variant "awc".

    Those that gossip alone first. Not here: methods whose bytes depend on a compressor or a budget, which send
    differences or parts of matrices, or make mixing matrices of their own.
    """
    from decentral.rounds.trials.messages import messages_a_round  # here: it imports torch

    found = []
    for name, make in ALGORITHMS.items():
        for settings in _forms(make):
            method = make(**settings)
            traits = traits_of(method)
            if traits.sends != "differences" and not traits.whole and traits.weights is not None:
                found.append(Candidate(name, settings, method, messages_a_round(method)))
    return sorted((one for one in found if any(one.sends)), key=lambda one: one.sends.averages > 0)


def _forms(make: Callable[..., Method[Any]]) -> Iterator[dict[str, Any]]:
    yield {}
    kind, default = schema(make, {}).get("variant", (None, None))
    if default != "awc" and "awc" in typing.get_args(kind):
        yield {"variant": "awc"}


def bias_factor(rest: Rest | None, gap: float, period: int) -> float | None:
    """The squared disagreement at rest is at most (lr b)^2 times this, to first order in lr; None if unknown.

    b^2 = (1/n) sum |grad f_i(x*)|^2. At rest x_i - mean = -rate sum_k (W_t ... W_{t-k+1} - 11'/n) grad f(x*), over k >=
    1 (atc) or k >= 0 (awc), rate = lr times / over. Norms are at most 1, and rho = 1 - gap at k = period, so the sum of
    norms is at most (period - 1 + rho) / (1 - rho), or period / (1 - rho), at the end of a period; a static symmetric W
    reaches it.
    """
    if rest is not None and rest.bias == "none":
        return 0.0
    if rest is None or rest.remixed or (period > 1 and not rest.changing) or gap <= 0:
        return None
    most = (period - gap if rest.bias == "atc" else period) / gap
    return float(most**2 * (rest.times**2 / rest.over**2))
