"""Workers of tests whose links have faults, and the same workers as dictionaries of messages, one vector at a time."""

import numpy as np
import torch

from decentral.comm import LocalComm
from decentral.comm.faults.fates import Fates
from decentral.comm.faults.links import Faults
from decentral.rounds import absence
from decentral.rounds.advance import advance
from topologies.streams import stream

SEED = 5


def faulty(mixing, x, pushes=False, **settings):
    """A communicator whose links have these faults, for models like x."""
    comm = LocalComm(mixing)
    comm.faults = Faults(Fates(comm.schedule, SEED, **settings), pushes, comm.rows, x)
    return comm


def go(method, comm, g, lr, x=None):
    """x and the state after rounds with the gradients g (T, n, d), as a run goes through them."""
    x = torch.zeros_like(g[0]) if x is None else x.clone()
    state = method.init(x, comm)
    for t, g_t in enumerate(g):
        still = absence.stand(comm.faults.away(t), x, state, {})
        x, state = advance(method, x, state, [(slice(0, x.shape[1]), g_t.clone())], comm, t, lr)
        absence.put_back(still, x, state, {})
    return x, state


class Post:
    """Who gets what when: messages by (sender, receiver, round sent), each with the round in which it arrives.

    The draws of a round are those of its edges by receiver, then sender: lost or not, late or not, how late.
    """

    def __init__(
        self, mixing, loss=0.0, late=0.0, late_rounds=1, symmetric=False, absent=(), leave=0, back=None
    ):
        self.matrix = mixing.matrix if hasattr(mixing, "matrix") else lambda t: mixing
        self.loss, self.late, self.late_rounds, self.symmetric = loss, late, late_rounds, symmetric
        self.absent, self.leave, self.back = absent, leave, back
        self.arrival = {}
        self.lost = self.delayed = 0
        self.sent = None

    def gone(self, i, t):
        return i in self.absent and self.leave <= t and (self.back is None or t < self.back)

    def open_round(self, t):
        """The weights of round t, and the fates of its messages."""
        w = self.matrix(t)
        w = w.toarray() if hasattr(w, "toarray") else w
        n = len(w)
        edges = [(j, i) for i in range(n) for j in range(n) if i != j and w[i, j]]
        keys = edges
        if self.symmetric:
            keys = sorted({(min(e), max(e)) for e in edges})
        draws = stream(SEED, "faults", t)
        lost, late = draws.random(len(keys)), draws.random(len(keys))
        rounds = draws.integers(1, self.late_rounds + 1, len(keys))
        self.sent = np.zeros(n) if self.sent is None else self.sent
        self.lost_now = self.late_now = 0
        for j, i in edges:
            k = keys.index((min(i, j), max(i, j)) if self.symmetric else (j, i))
            if self.gone(i, t) or self.gone(j, t):
                continue
            self.sent[j] += 1
            if lost[k] < self.loss:
                self.arrival[j, i, t] = None
                self.lost_now += 1
            else:
                delay = int(rounds[k]) if late[k] < self.late else 0
                self.late_now += delay > 0
                self.arrival[j, i, t] = t + delay
        self.lost, self.delayed = self.lost + self.lost_now, self.delayed + self.late_now
        return w

    def newest(self, box, j, i, t):
        """What i has of j: the newest message that has come and is young enough, or None."""
        oldest = t - (self.late_rounds if self.late else 0)
        for s in range(t, max(oldest, 0) - 1, -1):
            when = self.arrival.get((j, i, s))
            if when is not None and when <= t:
                return box[j, s]
        return None

    def mix(self, box, w, v, t):
        """Each worker's weighted sum of what it has; ``box``: (sender, round) -> what it sent of this vector."""
        n = len(w)
        for j in range(n):
            box[j, t] = v[j].copy()
        mixed = np.zeros_like(v)
        for i in range(n):
            mixed[i] = w[i, i] * v[i]
            for j in range(n):
                if j != i and w[i, j]:
                    cut = self.gone(i, t) or self.gone(j, t)
                    has = None if cut else self.newest(box, j, i, t)
                    mixed[i] += w[i, j] * (v[i] if has is None else has)
        return mixed

    def push(self, parcels, w, v, t):
        """Each worker's share of itself and what arrives; ``parcels``: [round of arrival, receiver, what]."""
        n = len(w)
        after = np.zeros_like(v)
        for j in range(n):
            left = v[j].copy()
            for i in range(n):
                if i != j and w[i, j]:
                    when = self.arrival.get((j, i, t))
                    if when is not None:
                        parcels.append([when, i, w[i, j] * v[j]])
                        left -= w[i, j] * v[j]
            after[j] = left
        for parcel in list(parcels):
            when, i, share = parcel
            if when <= t and not self.gone(i, t):
                after[i] += share
                parcels.remove(parcel)
        return after
