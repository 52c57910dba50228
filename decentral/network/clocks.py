"""The simulated clock of each worker, round by round: a max-plus recursion over its in-neighbours.

Worker i begins round t at T_i(t), computes C_i(t) seconds, and sends one message to each of its receivers. D_ij(t) is
the time from when j begins to send in round t until its message has arrived at i, by the links and the card of j
(``decentral.network.cluster``: with one port, messages to ascending receivers one after the other). D_ii(t) is the
largest of D_ki(t), over all k that i sends to: its own messages have arrived; 0 if it sends none. N_i(t) are the j
that send to i.

- adapt then combine (ATC), compute and then send:
  T_i(t + 1) = max over j in N_i(t) and j = i of  T_j(t) + C_j(t) + D_ij(t)
- adapt while combining (AWC), send from the beginning, while computing:
  T_i(t + 1) = max( T_i(t) + C_i(t),  max over j in N_i(t) and j = i of  T_j(t) + D_ij(t) )
- all-reduce, a barrier and then the collective's S seconds:
  T_i(t + 1) = S + max over all j of  T_j(t) + C_j(t),  and while computing
  T_i(t + 1) = max( T_i(t) + C_i(t),  S + max over all j of T_j(t) )

A round may have several such phases, one after the other, of which the first ones may go on while workers compute.
Nobody waits for a whole round, yet waits travel: with random C the time a round is more than the mean of a maximum over
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from decentral.network.cluster import Cluster
from decentral.network.compute import ComputeTime

Span = tuple[str, NDArray[np.float64], NDArray[np.float64]]
"""What workers did, and (n,) from when to when."""


class Phase(Protocol):
    """Something that workers do together in a round: messages along a graph, or an all-reduce."""

    def arrived_s(self, start_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) when it is over for each worker, if each begins at ``start_s`` (n,)."""

    def spans(self, start_s: NDArray[np.float64]) -> list[Span]:
        """What the workers do until then: "send" while their own messages are under way, else "wait"."""


@dataclass(frozen=True)
class Together:
    """A collective of all workers, which begins when the last of them does and takes ``seconds``."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"an all-reduce of {self.seconds} s must be finite and not negative")

    def arrived_s(self, start_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """See :class:`Phase`."""
        return np.full_like(start_s, start_s.max() + self.seconds)

    def spans(self, start_s: NDArray[np.float64]) -> list[Span]:
        """See :class:`Phase`."""
        begun_s = np.full_like(start_s, start_s.max())
        return [("wait", start_s, begun_s), ("send", begun_s, begun_s + self.seconds)]


class Clocks:
    """The clocks of n workers, from 0; see the module for the recursion.

    ``time_s``, ``compute_s``, ``wait_s``: (n,) each worker's clock, the seconds of it in which it computed, and the
    others, in which it sent or waited. ``round``: how many are over. ``spans``: where it is a list, each round adds
    what workers did; not what goes on while they compute. Raises UserError, before any round, if cluster and compute
    model do not fit. A round costs O(n + edges).
    """

    def __init__(self, cluster: Cluster, compute: ComputeTime, seed: int = 0) -> None:
        compute.check(cluster.n)
        self.cluster, self.compute, self.seed = cluster, compute, seed
        self.time_s, self.compute_s, self.wait_s = (np.zeros(cluster.n) for _ in range(3))
        self.round = 0
        self.spans: list[Span] | None = None

    def advance(
        self,
        t: int,
        after: Sequence[Phase],
        during: Sequence[Phase] = (),
        away: Sequence[int] = (),
        gradients: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """(n,) the clocks after round t, which begins where they are.

        ``during``: phases that begin with the round, while workers compute; ``after``: those that begin when both the
        computing and these are over. ``away``: workers that take no part; they are back when the others have ended.
        ``gradients`` (n,): how many each computes, if not one.
        """
        begun_s = self.time_s
        compute_s = self.compute.draw(t, range(self.cluster.n), self.seed)
        if gradients is not None:
            compute_s = compute_s * gradients
        compute_s[list(away)] = 0.0
        arrived_s = begun_s
        for phase in during:
            arrived_s = phase.arrived_s(arrived_s)
        computed_s = begun_s + compute_s
        end_s = np.maximum(computed_s, arrived_s)
        if self.spans is not None:
            self.spans += [("compute", begun_s, computed_s), ("wait", computed_s, end_s)]
        for phase in after:
            if self.spans is not None:
                self.spans += phase.spans(end_s)
            end_s = phase.arrived_s(end_s)
        if away:
            end_s = end_s.copy()
            end_s[list(away)] = np.delete(end_s, list(away)).max()
        self.compute_s += compute_s
        self.wait_s += end_s - computed_s
        self.time_s, self.round = end_s, t + 1
        return end_s
