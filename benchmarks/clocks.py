"""The simulated clocks of very many workers: 1,000 rounds on a torus of 65,536, shifted-exponential compute.

Question: are clocks cheap beside any run that they stand for? Random numbers are included, making the graph is not.
"""

from __future__ import annotations

import time

from benchmarks.timing import Line, at_most, print_lines

N, ROUNDS, TARGET_S = 65_536, 1_000, 60.0


def measure() -> list[Line]:
    import topologies
    from decentral.network import COMPUTE_TIMES, Clocks, Cluster, Gossip

    w = topologies.mixing_matrix(topologies.torus(N))
    compute = COMPUTE_TIMES["shifted-exponential"](mean_s=1.0, shift_s=1.0)
    cluster = Cluster.uniform(N, 50e-6, 1.25e9)
    began = time.perf_counter()
    clocks, gossip = Clocks(cluster, compute), Gossip(topologies.constant(w), cluster)
    for t in range(ROUNDS):
        clocks.advance(t, [gossip.phase(t, 1e8)])
    took = time.perf_counter() - began
    return [at_most("n = 65,536, torus: seconds of 1,000 rounds", took, TARGET_S, 1.0, "{:.1f} s".format)]


if __name__ == "__main__":
    print_lines("clocks", measure())
