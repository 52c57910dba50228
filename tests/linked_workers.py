"""Workers of tests whose links compress, and the same senders with their compressors called by hand."""

import numpy as np
import torch
from test_compression import layers

import topologies
from decentral.comm import LocalComm
from decentral.comm.compression import (
    QSGD,
    LowRank,
    RandomK,
    Sign,
    TopK,
)
from decentral.comm.links import Links
from topologies.streams import stream

LAYOUT = layers((6, 5), (6,), (4, 3, 2), (4,))


LOSSY = [TopK(0.2), RandomK(0.3), QSGD(7, 16), Sign(), LowRank(1)]


UNBIASED = [QSGD(7, 16), RandomK(0.3, unbiased=True)]


SEED = 4


def linked(mixing, compressor, layout=LAYOUT):
    """All workers, on links that compress."""
    comm = LocalComm(mixing)
    comm.layout = layout
    comm.links = Links(compressor, layout, SEED, comm.rows)
    return comm


def go(method, comm, g, lrs, start=None):
    """x, and the states after each round."""
    x = torch.zeros(g.shape[1:], dtype=g.dtype) if start is None else start.clone()
    state, seen = method.init(x, comm), []
    for t, g_t in enumerate(g):
        x, state = method.step(x, state, g_t.clone(), comm.at(t), lrs if isinstance(lrs, float) else lrs[t])
        seen.append(x.clone())
    return x, seen


class Senders:
    """n senders of one vector a round, their compressors called by hand; receivers decode the packets."""

    def __init__(self, compressor, n, layout=LAYOUT, call=0):
        self.compressor, self.layout, self.call = compressor, layout, call
        self.states = [compressor.init(torch.zeros(layout.d, dtype=torch.float64), layout) for _ in range(n)]
        self.sizes = np.zeros(n, dtype=np.int64)

    def send(self, rows, t):
        """What any receiver makes of rows (n, d)."""
        received = []
        for i, row in enumerate(rows):
            given = torch.from_numpy(np.array(row))
            packet, _, self.states[i] = self.compressor.encode(
                given, self.states[i], self.layout, self.draw(i, t)
            )
            self.sizes[i] += len(packet)
            received.append(self.compressor.decode(packet, self.layout, given.dtype, self.draw(i, t)).numpy())
        return np.stack(received)

    def draw(self, worker, t):
        return stream(SEED, "compression", worker, self.call, t)


def lazy(graph):
    return topologies.mixing_matrix(graph, "lazy")


RING, UNEVEN = lazy(topologies.ring(6)), lazy(topologies.erdos_renyi(7, p=0.5, seed=3))


LRS = [0.1 * (1 + t % 3) for t in range(30)]


def layered(mixing, layout=LAYOUT):
    comm = LocalComm(mixing)
    comm.layout = layout
    return comm
