"""A model of the network and of compute times, and the simulated clocks of rounds of workers; imports no torch."""

from decentral.network.all_reduce import all_gather_s, all_reduce_s
from decentral.network.clocks import Clocks, Phase, Together
from decentral.network.cluster import Cluster, Link, round_s
from decentral.network.compute import COMPUTE_TIMES, ComputeTime
from decentral.network.gossip import Gossip

__all__ = [
    "COMPUTE_TIMES", "Clocks", "Cluster", "ComputeTime", "Gossip", "Link", "Phase", "Together", "all_gather_s",
    "all_reduce_s", "round_s",
]  # fmt: skip
