"""The simulated clock of each worker, round by round: a max-plus recursion over its in-neighbours.

Worker i begins round t at T_i(t), computes C_i(t) seconds, and sends one message to each of its receivers. D_ij(t) is
the time from when j begins to send in round t until its message has arrived at i, by the links and the card of j
(``decentral.network.cluster``: with one port, messages to ascending receivers one after the other). D_ii(t) is the
largest of D_ki(t), over all k that i sends to: its own messages have arrived; 0 if it sends none. N_i(t) are the j
that send to i.

- adapt then combine (ATC), compute and then send:
  T_i(t + 1) = max over j in N_i(t) and j = i of  T_j(t) + C_j(t) + D_ij(t)
- adapt while combining (AWC, ``overlap``), send from the beginning, while computing:
  T_i(t + 1) = max( T_i(t) + C_i(t),  max over j in N_i(t) and j = i of  T_j(t) + D_ij(t) )
- all-reduce, a barrier and then the collective's S seconds:
  T_i(t + 1) = S + max over all j of  T_j(t) + C_j(t),  and with overlap
  T_i(t + 1) = max( T_i(t) + C_i(t),  S + max over all j of T_j(t) )

Nobody waits for a whole round, yet waits travel: with random C the time a round is more than the mean of a maximum over
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.errors import UserError
from decentral.network.cluster import Cluster, Messages, messages
from decentral.network.compute import ComputeTime
from topologies import Schedule


@dataclass(frozen=True)
class AllReduce:
    """Rounds that end with an all-reduce: its seconds S, or what gives them for the bytes of a worker's vector."""

    seconds: float | Callable[[float], float]

    def time_s(self, message_bytes: float) -> float:
        """S. Raises UserError if it is negative or not finite."""
        found = self.seconds(message_bytes) if callable(self.seconds) else self.seconds
        if not 0 <= found < float("inf"):
            raise UserError(f"an all-reduce of {found} s must be finite and not negative")
        return float(found)


class Clocks:
    """The clocks of n workers, from 0; see the module for the recursion.

    ``rounds``: a schedule, a mixing matrix (n, n; row i receives), or :class:`AllReduce`. ``message_bytes``: of each
    message. ``overlap``: AWC instead of ATC. ``time_s``, ``compute_s``, ``wait_s``: (n,) each worker's clock, the
    seconds of it in which it computed, and the others, in which it sent or waited. ``round``: how many are over.

    Raises UserError, before any round, if cluster, compute model and rounds do not fit (rounds that never repeat: at
    the round whose link is missing). A round costs O(n + edges), and a schedule's messages are worked out once.
    """

    def __init__(
        self,
        rounds: Schedule | AllReduce | Any,
        cluster: Cluster,
        compute: ComputeTime,
        message_bytes: float,
        overlap: bool = False,
        seed: int = 0,
    ) -> None:
        compute.check(cluster.n)
        self.cluster, self.compute, self.message_bytes = cluster, compute, message_bytes
        self.overlap, self.seed = overlap, seed
        self.time_s, self.compute_s, self.wait_s = (np.zeros(cluster.n) for _ in range(3))
        self.round = 0
        self._all_reduce_s: float | None = None
        self._changing: Schedule | None = None
        self._turns: list[Messages] = []
        if isinstance(rounds, AllReduce):
            self._all_reduce_s = rounds.time_s(message_bytes)
        elif isinstance(rounds, Schedule):
            self._turns = [self._messages(rounds.matrix(t)) for t in range(rounds.period or 1)]
            self._changing = rounds if rounds.period is None else None
        else:
            self._turns = [self._messages(rounds)]

    def run(self, rounds: int) -> NDArray[np.float64]:
        """(n,) the clocks after so many rounds more."""
        for _ in range(rounds):
            self.advance(self.round)
        return self.time_s

    def advance(self, t: int) -> NDArray[np.float64]:
        """(n,) the clocks after round t, which begins where they are."""
        compute_s = self.compute.draw(t, range(self.cluster.n), self.seed)
        computed_s = self.time_s + compute_s
        start_s = self.time_s if self.overlap else computed_s
        if self._all_reduce_s is not None:
            arrived_s = np.full(self.cluster.n, start_s.max() + self._all_reduce_s)
        else:
            arrived_s = self._of_round(t).arrived_s(start_s)
        end_s: NDArray[np.float64] = np.maximum(computed_s, arrived_s)
        self.compute_s += compute_s
        self.wait_s += end_s - computed_s
        self.time_s, self.round = end_s, t + 1
        return end_s

    def _of_round(self, t: int) -> Messages:
        if self._changing is not None:
            return self._messages(self._changing.matrix(t))
        return self._turns[t % len(self._turns)]

    def _messages(self, w: Any) -> Messages:
        return messages(w, self.cluster, self.message_bytes)
