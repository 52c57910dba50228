"""What is asked of a lab on the command line: how many nodes, with which links; and the cluster that this makes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from decentral.errors import UserError
from decentral.network.cluster import Cluster, Link
from decentral.network.cluster_file import read_cluster
from decentral.network.lab.layout import MOST_CARDS
from decentral.network.units import BYTES_S, SECONDS, quantity
from topologies.wording import shown


@dataclass(frozen=True)
class Asked:
    """Options of ``decentral lab``; ``hosts``: a cluster file, which says all the others do."""

    nodes: int | None = None
    bandwidth: str | None = None
    latency: str | None = None
    hosts: Path | None = None
    ranks_per_node: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("--nodes", self.nodes), ("--ranks-per-node", self.ranks_per_node)):
            if value is not None and not 1 <= value <= MOST_CARDS:
                raise UserError(
                    f"{option} {value} must be from 1 to {MOST_CARDS:,}; give a number in between"
                )
        if self.hosts is not None and (
            more := self.of_links + ["--ranks-per-node"] * bool(self.ranks_per_node)
        ):
            raise UserError(f"{more[0]} beside --hosts {self.hosts}; the file says it: remove one")
        if self.nodes is None and self.ranks_per_node is not None:
            raise UserError(f"--ranks-per-node {self.ranks_per_node} of how many nodes? give --nodes, too")
        _ = self.link

    @property
    def of_links(self) -> list[str]:
        """Those options that describe links, as far as they are given."""
        given = {"--bandwidth": self.bandwidth, "--latency": self.latency}
        return [option for option, value in given.items() if value is not None]

    @property
    def link(self) -> Link:
        """Of all nodes alike: without a limit, and no slower than this machine, where nothing is asked."""
        rate = (
            _quantity(self.bandwidth, "--bandwidth", "200 Mb/s", BYTES_S) if self.bandwidth else float("inf")
        )
        delay = _quantity(self.latency, "--latency", "5 ms", SECONDS) if self.latency else 0.0
        if rate <= 0:
            raise UserError(
                f"--bandwidth {shown(self.bandwidth)} must be positive; leave it out for no limit"
            )
        if delay < 0:
            raise UserError(f"--latency {shown(self.latency)} must not be negative; leave it out for none")
        return Link(delay, rate)

    def cluster(self, ranks: int | None = None) -> Cluster:
        """The cluster; ``ranks``: how many a program has, where it is known. UserError where they do not match."""
        if self.hosts is not None:
            found = read_cluster(self.hosts, ranks)
            if self.nodes not in (None, count := len(set(found.hosts))):
                raise UserError(f"--nodes {self.nodes} but {self.hosts} has {count} hosts; remove --nodes")
            return found
        if self.nodes is None:
            raise UserError("a lab of how many nodes? give --nodes N, or --hosts with a cluster file")
        each, link = self.ranks_per_node or 1, self.link
        inside = Link(0.0, float("inf"))
        hosts = tuple(i // each for i in range(self.nodes * each))
        return Cluster(len(hosts), hosts, "one", link, inside if each > 1 else None)


def _quantity(text: str, option: str, example: str, units: dict[str, Fraction]) -> float:
    try:
        float(text)
    except ValueError:
        return quantity(text, option, units)
    raise UserError(f"{option} {shown(text)} has no unit; write a number and a unit, as in {example!r}")
