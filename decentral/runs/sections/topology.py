"""``[topology]``: the graph of the workers, or a schedule of graphs, and its mixing matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import topologies
from decentral.errors import UserError
from decentral.tables import from_table, pop_name

if TYPE_CHECKING:
    import networkx as nx


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
    method: Any = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any], algorithm: Any = None) -> Topology:
        """Checked against the tables of :mod:`topologies`."""
        table, method = dict(table), algorithm
        built_in = {**topologies.TOPOLOGIES, **topologies.SCHEDULES}
        name = pop_name(table, "topology", {**built_in, "file": None, "files": None})
        weights = table.pop("weights", None)
        if weights is not None and name in topologies.SCHEDULES:
            raise UserError(f"topology.weights = {weights!r}: {name} has weights of its own; remove the key")
        if weights is not None and hasattr(method, "schedule"):
            raise UserError(
                f"topology.weights = {weights!r}: {type(method).__name__} makes its own weights; remove the key"
            )
        if not isinstance(weights, str | None):
            raise UserError(f"topology.weights = {weights!r} should be a rule's name or a matrix file's path")
        if weights is None and name not in topologies.SCHEDULES:
            weights = getattr(method, "weights", "metropolis")
            if name == "files":  # a schedule is what it makes, whatever the method would make of a graph
                weights = weights or "metropolis"
        workers = table.pop("workers", None)
        if workers is None and name == "file":
            return cls(name, _read(table).number_of_nodes(), weights, table, method)
        if workers is None and name == "files":
            return cls(name, _read_schedule(table, weights).n, weights, table, method)
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise UserError(f"topology.workers = {workers!r} should be an integer of at least 1")
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
        constructors = {**topologies.TOPOLOGIES, **topologies.SCHEDULES}
        return from_table(constructors[self.name], self.parameters, "topology", self.name, n=self.workers)

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        weights = {"weights": self.weights} if self.weights else {}
        return {"name": self.name, "workers": self.workers, **weights, **self.parameters}

    def mixing(self) -> topologies.Schedule:
        """The checked mixing matrix, as a Schedule."""
        graph, of_method = self.build(), getattr(self.method, "schedule", None)
        if isinstance(graph, topologies.Schedule):
            if of_method:
                raise UserError(
                    f"topology.name = {self.name!r} changes already, and {type(self.method).__name__} makes a "
                    "schedule of a graph; use a graph such as ring, or algorithm.name = dsgd"
                )
            return graph
        try:
            if of_method:
                return of_method(graph)  # type: ignore[no-any-return]
            w = topologies.mixing_matrix(graph, self.weights)
            topologies.check_mixing_matrix(w, graph, sums="either")
        except ValueError as error:
            raise UserError(f"[topology] {error}") from error
        return topologies.constant(w)


def _read(parameters: Mapping[str, Any]) -> nx.Graph:
    return from_table(topologies.read_graph, parameters, "topology", "file")


def _read_schedule(parameters: Mapping[str, Any], weights: str | None) -> topologies.Schedule:
    return from_table(topologies.from_files, parameters, "topology", "files", weights=weights)
