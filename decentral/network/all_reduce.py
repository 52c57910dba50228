"""What an all-reduce costs on a cluster: at the pace of its slowest links, hierarchical ones with hosts apart."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from decentral.errors import UserError, nearest
from decentral.network.cluster import Cluster, Link
from decentral.network.collectives import COLLECTIVES
from topologies.wording import shown

BY_HOSTS = ("hierarchical", "direct")
"""Those that take another time where hosts have several workers each than on equal links."""


def all_reduce_s(name: str, cluster: Cluster, message_bytes: float) -> float:
    """Seconds of the all-reduce ``name`` (see ``COLLECTIVES``) of a vector of ``message_bytes`` over all workers.

    Raises UserError if the name is not known, if two workers may have no link, or, of "hierarchical", if hosts are
    not equal groups of consecutive workers, or of one.
    """
    if name not in COLLECTIVES:
        raise UserError(f"all_reduce = {shown(name)} is not known; {nearest(name, COLLECTIVES)}")
    link, more = slowest_link(cluster), dict[str, Any]()
    if name in BY_HOSTS:
        size = host_size(cluster)
        if size == 1 and name == "hierarchical":
            raise UserError(
                "all_reduce = 'hierarchical' needs hosts of as many workers each, and of several; "
                "say [hosts], or use 'ring'"
            )
        inside = cluster.inside or link
        more = {
            "host_size": size,
            "inside_latency_s": inside.latency_s,
            "inside_bandwidth_bytes_s": inside.bandwidth_bytes_s,
        }
    return COLLECTIVES[name](cluster.n, message_bytes, link.latency_s, link.bandwidth_bytes_s, **more)


def all_gather_s(cluster: Cluster, packet_bytes: float) -> float:
    """(n - 1) (alpha + M / B): every worker's packet goes once round a ring; M, the longest, sets the pace."""
    link = slowest_link(cluster)
    return (cluster.n - 1) * (link.latency_s + packet_bytes / link.bandwidth_bytes_s)


@lru_cache(maxsize=16)
def host_size(cluster: Cluster) -> int:
    """Workers of a host; 1 where hosts are of unequal sizes, or are not of consecutive workers."""
    size = cluster.hosts.count(cluster.hosts[0])
    equal = cluster.n % size == 0 and all(
        len(set(cluster.hosts[i : i + size])) == 1 for i in range(0, cluster.n, size)
    )
    return size if equal and len(set(cluster.hosts)) == cluster.n // size else 1


@lru_cache(maxsize=16)
def slowest_link(cluster: Cluster) -> Link:
    """The latency and the bandwidth of the worst links. Raises UserError if two workers may have no link."""
    links = [link for link in (cluster.between, cluster.inside) if link is not None]
    if len(set(cluster.hosts)) == 1 and cluster.inside is not None:
        links = [cluster.inside]
    elif cluster.between is None:
        raise UserError(
            "an all-reduce needs a link between any two workers, and the cluster has only those of its graph; "
            "add [links] to the cluster file"
        )
    latencies, rates = [link.latency_s for link in links], [link.bandwidth_bytes_s for link in links]
    if cluster.edges is not None:
        latencies += cluster.edges.latency_s.tolist()
        rates += cluster.edges.bandwidth_bytes_s.tolist()
    return Link(max(latencies), min(rates))
