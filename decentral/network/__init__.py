"""A model of the network and of compute times, and the simulated clocks of rounds of workers; imports no torch."""

from decentral.network.all_reduce import all_gather_s, all_reduce_s
from decentral.network.clocks import Clocks, Phase, Together
from decentral.network.cluster import PORTS, Cluster, EdgeLinks, Link, round_s
from decentral.network.cluster_file import read_cluster
from decentral.network.collectives import COLLECTIVES, mean_bytes_sent
from decentral.network.compute import COMPUTE_TIMES, ComputeTime
from decentral.network.gossip import Gossip

__all__ = [
    "COLLECTIVES", "COMPUTE_TIMES", "PORTS", "Clocks", "Cluster", "ComputeTime", "EdgeLinks", "Gossip", "Link", "Phase",
    "Together", "all_gather_s", "all_reduce_s", "mean_bytes_sent", "read_cluster", "round_s",
]  # fmt: skip
