"""What becomes of the messages of each round, and what is mixed instead of W x.

With the messages of all rounds drawn, a round is still linear in what the workers send, x(t) and, where messages come
late, x(t - 1), x(t - 2), ...: the mixing is a matrix for each age. Nothing here knows where a worker lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from topologies import Schedule
from topologies.streams import stream

LOST, UNSENT = -1, -2


class Messages(NamedTuple):
    """Those of a round, one an edge of its W: from ``senders`` to ``receivers`` (m,), with ``weights`` (m,).

    ``delays`` (m,): rounds that each is late, 0 in time, LOST, or UNSENT where an end is absent. ``own`` (n,): the
    diagonal of W.
    """

    senders: NDArray[np.int64]
    receivers: NDArray[np.int64]
    weights: NDArray[np.float64]
    delays: NDArray[np.int64]
    own: NDArray[np.float64]

    @property
    def edges(self) -> NDArray[np.int64]:
        """(m,) a number for each edge, the same in all rounds."""
        return self.receivers * len(self.own) + self.senders


@dataclass(frozen=True)
class Fates:
    """The messages of every round of ``schedule``, drawn from the stream (``seed``, "faults", t).

    Each is lost with probability ``loss``, else late with probability ``late``, by 1 to ``late_rounds`` rounds,
    uniform; all that an edge carries in a round has one fate. ``symmetric``: so has what the reverse edge carries. A
    message that is lost at one ``loss`` is lost at every higher one. Workers ``absent`` neither send nor are sent to in
    rounds ``leave`` to ``back`` - 1 (None: to the end).
    """

    schedule: Schedule
    seed: int
    loss: float = 0.0
    late: float = 0.0
    late_rounds: int = 1
    symmetric: bool = False
    absent: Sequence[int] = ()
    leave: int = 0
    back: int | None = None
    _drawn: dict[int, Messages] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def ages(self) -> int:
        """The oldest vector that a round may mix, in rounds; 0 where nothing is late."""
        return self.late_rounds if self.late else 0

    def away(self, t: int) -> Sequence[int]:
        """The workers that are absent in round t."""
        return self.absent if self.leave <= t and (self.back is None or t < self.back) else ()

    def sent(self, t: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Senders and receivers (m,) of what is sent in round t, and whether it comes in that round."""
        found = self.messages(t)
        sent = found.delays != UNSENT
        return found.senders[sent], found.receivers[sent], found.delays[sent] == 0

    def messages(self, t: int) -> Messages:
        """Those of round t."""
        if t not in self._drawn:
            for old in [s for s in self._drawn if not t - self.ages <= s <= t]:
                del self._drawn[old]
            self._drawn[t] = self._draw(t)
        return self._drawn[t]

    def _draw(self, t: int) -> Messages:
        w = self.schedule.matrix(t)
        own, entries = w.diagonal(), w.tocoo()
        order = np.lexsort((entries.col, entries.row))
        order = order[(entries.row != entries.col)[order] & (entries.data != 0)[order]]
        receivers, senders = (index[order].astype(np.int64) for index in (entries.row, entries.col))
        links = np.arange(len(order))
        if self.symmetric:
            pairs = np.minimum(receivers, senders) * len(own) + np.maximum(receivers, senders)
            links = np.unique(pairs, return_inverse=True)[1]
        m, draws = int(links.max(initial=-1)) + 1, stream(self.seed, "faults", t)
        lost, late = draws.random(m) < self.loss, draws.random(m) < self.late
        delays = np.where(lost, LOST, late * draws.integers(1, self.late_rounds + 1, m))[links]
        away = self.away(t)
        delays[np.isin(senders, away) | np.isin(receivers, away)] = UNSENT
        return Messages(senders, receivers, entries.data[order], delays, own)

    def stale(self, t: int) -> list[sparse.csr_array]:
        """V(0), V(1), ...: round t mixes sum_k V(k) x(t - k), and rows sum to what those of W sum to.

            (mixed)_i = W_ii x_i(t) + sum_j W_ij x_j(t - a_ij)

        a_ij is the age of the newest message of j that i has by round t, and at most ``ages``. Where there is none i
        takes its own x_i(t) instead; so without lateness a message that is lost costs the receiver a neighbour, for one
        round. A message older than the newest is not used.
        """
        now = self.messages(t)
        age = np.where(now.delays == 0, 0, LOST)
        for k in range(1, min(self.ages, t) + 1):
            then = self.messages(t - k)
            come = then.edges[(then.delays >= 0) & (then.delays <= k)]
            age[(age < 0) & np.isin(now.edges, come)] = k
        age[now.delays == UNSENT] = UNSENT
        return self._by_age(now, age, now.receivers)

    def pushed(self, t: int) -> list[sparse.csr_array]:
        """P(0), P(1), ...: of x(t), P(k) x(t) arrives in round t + k, and columns sum to what those of W sum to.

        A share that is lost or cannot be sent stays with its sender, who is told by the missing acknowledgement; one
        that is late is under way, and is added when it comes.
        """
        now = self.messages(t)
        return self._by_age(now, now.delays, now.senders)

    def _by_age(
        self, now: Messages, age: NDArray[np.int64], keepers: NDArray[np.int64]
    ) -> list[sparse.csr_array]:
        """A matrix for each age; the weight of an edge whose age is below 0 goes to its keeper's diagonal."""
        n, none = len(now.own), age < 0
        itself, found = np.arange(n), []
        for k in range(self.ages + 1):
            of_age = age == k
            weights, rows, columns = now.weights[of_age], now.receivers[of_age], now.senders[of_age]
            if k == 0:
                own = now.own + np.bincount(keepers[none], now.weights[none], n)
                weights = np.concatenate([own, weights])
                rows, columns = np.concatenate([itself, rows]), np.concatenate([itself, columns])
            found.append(sparse.csr_array((weights, (rows, columns)), shape=(n, n)))
        return found
