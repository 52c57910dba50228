"""Which nodes, cards and addresses a lab has for a cluster: a node is a host, and each worker has a card on it.

That is what the clock goes by: every worker has a card of its own, also where several share a host.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from itertools import permutations
from math import inf

from decentral.errors import UserError
from decentral.network.cluster import Cluster

NETWORK = IPv4Network("10.0.0.0/16")
"""All cards; behind it the lab has no way to anywhere."""
OUTSIDE = "lab"
"""The name of what is on no node: it starts programs on nodes, and its card has no bucket."""
MOST_CARDS = 1000
"""Ports of a bridge of Linux are 1024."""
MEMORY_BYTES_S = 1e9
"""What messages inside a node go at least at: they are copies in memory, which nothing can slow down."""


@dataclass(frozen=True)
class Node:
    """A node: its name, which is its host name, and its workers, whose cards are eth0, eth1, ..."""

    name: str
    workers: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The nodes of ``cluster``, a rank of a program for each of its workers.

    Raises UserError for what cannot be emulated: too many cards, links inside a host that are slower than memory.
    """

    cluster: Cluster

    def __post_init__(self) -> None:
        if self.cluster.n > MOST_CARDS:
            raise UserError(
                f"a lab of {self.cluster.n:,} cards: its bridge has ports for {MOST_CARDS:,}; take fewer nodes "
                "or ranks"
            )
        slowest = min(
            (self._inside(i, j) for node in self.nodes for i, j in permutations(node.workers, 2)), default=inf
        )
        if slowest < MEMORY_BYTES_S:
            raise UserError(
                f"links inside a host of {slowest * 8 / 1e6:g} Mb/s cannot be emulated: messages there are copies in "
                'memory; give hosts.bandwidth_bytes_s at least "8 Gb/s", or each worker a host of its own'
            )

    def _inside(self, i: int, j: int) -> float:
        return float(self.cluster.bandwidth_bytes_s(i, j))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """In the order of their workers."""
        workers: dict[int, list[int]] = {}
        for i, host in enumerate(self.cluster.hosts):
            workers.setdefault(host, []).append(i)
        return tuple(Node(f"node{number}", tuple(some)) for number, some in enumerate(workers.values()))

    @property
    def host_file(self) -> str:
        """What /etc/hosts says; a node's first card has its name."""
        lines = [f"{address(node.workers[0])} {node.name}" for node in self.nodes]
        return "\n".join(["127.0.0.1 localhost", f"{outside()} {OUTSIDE}", *lines, ""])


def address(worker: int) -> IPv4Address:
    """Of a worker's card."""
    return NETWORK[worker + 1]


def outside() -> IPv4Address:
    """Of the card of what is on no node."""
    return NETWORK[-2]
