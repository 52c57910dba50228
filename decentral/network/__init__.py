"""A model of the network and of compute times, and the simulated clocks of rounds of workers; imports no torch."""

from decentral.network.clocks import AllReduce, Clocks
from decentral.network.cluster import Cluster, Link, round_s
from decentral.network.compute import COMPUTE_TIMES, ComputeTime

__all__ = ["COMPUTE_TIMES", "AllReduce", "Clocks", "Cluster", "ComputeTime", "Link", "round_s"]
