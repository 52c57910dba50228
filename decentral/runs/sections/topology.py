"""``[topology]``: the graph of the workers, or a schedule of graphs, and its mixing matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import topologies
from decentral.algorithms.traits import Described
from decentral.errors import UserError
from decentral.problems.capabilities import Dealt
from decentral.rounds.mixing import mixing_for, rule_for
from decentral.tables import from_table, pop_name
from topologies import named
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx


_MANY = 5_000  # workers from which a graph takes longer than reading the data


@dataclass(frozen=True)
class Topology:
    """A graph or schedule by name, its size, and the rule of its weights; ``[topology]`` in TOML.

    ``parameters`` are the further keys, checked against the constructor's signature. The name "file" takes
    ``path``, any graph file that networkx reads, and finds ``workers`` in it; "files" takes ``paths``, a graph for
    each round in turn, over and over. A schedule of another name has its own weights. ``method``: one that
    has default weights of its own, or makes its own matrices of the graph.
    """

    name: str
    workers: int
    weights: str | None
    parameters: Mapping[str, Any]
    method: Described | None = None

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], algorithm: Described | None = None, problem: object = None
    ) -> Topology:
        """Checked against the tables of :mod:`topologies`, and the samples that the problem has for workers."""
        table, method = dict(table), algorithm
        name = pop_name(table, "topology", named.constructors() | named.READERS)
        try:
            weights = rule_for(method, name, table.pop("weights", None))
        except UserError as error:
            raise UserError(f"topology.{error}") from None
        workers = table.pop("workers", None)
        if workers is None and name == "file":
            return cls(name, _read(table).number_of_nodes(), weights, table, method)
        if workers is None and name == "files":
            return cls(name, _read_schedule(table, weights).n, weights, table, method)
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise UserError(f"topology.workers = {shown(workers)} should be an integer of at least 1")
        if workers > _MANY and isinstance(problem, Dealt) and workers > (most := problem.most_workers()):
            raise UserError(
                f"topology.workers = {shown(workers)} but there are {most:,} training samples, and each worker must "
                "own one at the least; use fewer workers"
            )
        topology = cls(name, workers, weights, table, method)
        topology.build()
        return topology

    def build(self) -> nx.Graph | topologies.Schedule:
        """The networkx graph, or the Schedule. Raises UserError on impossible parameters."""
        if self.name == "file":
            graph = _read(self.parameters)
            if len(graph) != self.workers:
                raise UserError(
                    f"topology.workers = {self.workers} but {self.parameters['path']} has {len(graph)} "
                    "nodes; set the key to that number, or remove it"
                )
            return graph
        if self.name == "files":
            schedule = _read_schedule(self.parameters, self.weights)
            if schedule.n != self.workers:
                raise UserError(
                    f"topology.workers = {self.workers} but {self.parameters['paths'][0]} has {schedule.n} "
                    "nodes; set the key to that number, or remove it"
                )
            return schedule
        make = named.constructors()[self.name]
        return from_table(make, self.parameters, "topology", self.name, n=self.workers)

    def of_files(self) -> str:
        """What its files hold, in words; "" where it is of none."""
        built = self.build() if self.name in named.READERS else None
        if isinstance(built, topologies.Schedule):
            return f"{len(self.parameters['paths'])} graphs of {built.n} nodes each were read from topology.paths"
        if built is None:
            return ""
        kind = "directed edges" if built.is_directed() else "edges"
        return f"{self.parameters['path']} has {len(built)} nodes and {built.number_of_edges()} {kind}"

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        weights = {"weights": self.weights} if self.weights else {}
        return {"name": self.name, "workers": self.workers, **weights, **self.parameters}

    def mixing(self) -> topologies.Schedule:
        """The checked mixing matrix, as a Schedule."""
        built = self.build()
        try:
            return mixing_for(self.method, self.name, built, self.weights)
        except UserError as error:
            raise UserError(f"topology.{error}") from None
        except ValueError as error:
            raise UserError(f"[topology] {error}") from error


def _read(parameters: Mapping[str, Any]) -> nx.Graph:
    return from_table(topologies.read_graph, parameters, "topology", "file")


def _read_schedule(parameters: Mapping[str, Any], weights: str | None) -> topologies.Schedule:
    return from_table(topologies.from_files, parameters, "topology", "files", weights=weights)
