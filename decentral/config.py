"""One run as one typed, frozen value; a TOML table is its written form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import topologies
from decentral.algorithms import ALGORITHMS
from decentral.asynchronous import ASYNCHRONOUS
from decentral.errors import UserError
from decentral.fault_config import Faults
from decentral.link_config import Compression
from decentral.network_config import Network
from decentral.problems import PROBLEMS
from decentral.schedule import SCHEDULES, Schedule
from decentral.tables import fields_of, from_table, named, pop_name, section

if TYPE_CHECKING:
    import networkx as nx

SECTIONS: tuple[str, ...] = (
    "problem", "topology", "algorithm", "compression", "network", "faults", "train", "schedule",
)  # fmt: skip
_PATHS = (
    "topology.path", "topology.paths", "topology.weights", "problem.data_root", "network.cluster",
    "network.compute.path",
)  # fmt: skip


@dataclass(frozen=True)
class Train:
    """How long, how fast, with which numbers; ``[train]`` in TOML.

    ``batch_size`` is per worker ("full": all its samples). ``record_every`` and ``checkpoint_every`` are
    rounds; "auto" is a 20th and a 5th of the run, and records fewer where they would take more than a 20th of its
    work. ``eval_samples`` bounds the samples of a record.
    ``oracle``: how gradients are computed, batched over workers or one worker after the other.
    ``compile``: rounds go through ``torch.compile``.
    """

    lr: float
    rounds: int
    batch_size: int | Literal["full"] = 32
    weight_decay: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    oracle: Literal["auto", "batched", "loop"] = "auto"
    compile: bool = False
    record_every: int | Literal["auto"] = "auto"
    checkpoint_every: int | Literal["auto", "never"] = "auto"
    eval_samples: int = 1_000

    def __post_init__(self) -> None:
        for key in ("lr", "rounds", "batch_size", "record_every", "checkpoint_every", "eval_samples"):
            value = getattr(self, key)
            if not isinstance(value, str) and not 0 < value < float("inf"):
                raise UserError(f"train.{key} = {value} must be positive and finite")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(
                f"train.weight_decay = {self.weight_decay} must be finite and not negative; 0 is none"
            )

    @property
    def checkpoint_rounds(self) -> int:
        """Rounds from one checkpoint to the next; more than there are if never."""
        if self.checkpoint_every == "never":
            return self.rounds + 1
        return max(1, self.rounds // 5) if self.checkpoint_every == "auto" else self.checkpoint_every


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
    def from_table(cls, table: Mapping[str, Any], method: Any = None) -> Topology:
        """Checked against the tables of :mod:`topologies`."""
        table = dict(table)
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


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on."""

    name: str
    seed: int
    problem: Any
    topology: Topology
    algorithm: Any
    allow_unstable: bool
    compression: Compression | None
    network: Network
    faults: Faults | None
    train: Train
    schedule: Schedule
    table: Mapping[str, Any]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> RunConfig:
        """From a resolved table: one seed, no sweep."""
        sections = {key: section(table, key) for key in SECTIONS}
        algorithm = sections["algorithm"]
        allow_unstable = algorithm.pop("allow_unstable", False)
        if not isinstance(allow_unstable, bool):
            raise UserError(f"algorithm.allow_unstable = {allow_unstable!r} should be true or false")
        sections["schedule"].setdefault("name", "constant")
        problem = named(sections["problem"], "problem", PROBLEMS)
        method = named(algorithm, "algorithm", {**ALGORITHMS, **ASYNCHRONOUS})
        topology = Topology.from_table(sections["topology"], method)
        train = from_table(Train, sections["train"], "train")
        config = cls(
            name=file_name(table["name"]),
            seed=table["seeds"][0],
            problem=problem,
            topology=topology,
            algorithm=method,
            allow_unstable=allow_unstable,
            compression=Compression.from_table(sections["compression"], method),
            network=Network.from_table(sections["network"], topology.workers),
            faults=Faults.from_table(sections["faults"], topology.workers, train.rounds),
            train=train,
            schedule=named(sections["schedule"], "schedule", SCHEDULES),
            table=table,
        )
        if not hasattr(config.problem, "build"):
            raise UserError(
                f"problem.name = {table['problem']['name']!r} is trained as a network of nodes only; add [dataflow]"
            )
        try:
            config.problem.check(config.topology.workers, config.train)
        except ValueError as error:
            raise UserError(str(error)) from error
        return config

    @property
    def training(self) -> str:
        """The module that trains it: the method's own, or rounds."""
        return getattr(self.algorithm, "training", "decentral.training")

    @property
    def workers(self) -> int:
        """Workers that the data are dealt to."""
        return self.topology.workers

    def prepare(self) -> None:
        """On each rank: read the data and build the model once, so that every mistake is found first."""
        self.problem.prepare(self.topology.workers, self.seed)

    def resolved(self) -> dict[str, Any]:
        """The table with every default written out: running it again repeats this run."""
        written: dict[str, Any] = {
            "name": self.name,
            "seeds": [self.seed],
            "problem": {"name": self.table["problem"]["name"], **fields_of(self.problem)},
            "topology": self.topology.resolved(),
            "algorithm": {
                "name": self.table["algorithm"]["name"],
                **fields_of(self.algorithm),
                "allow_unstable": self.allow_unstable,
            },
            **({"compression": self.compression.resolved()} if self.compression else {}),
            "network": self.network.resolved(),
            **({"faults": self.faults.resolved()} if self.faults else {}),
            "train": fields_of(self.train),
            "schedule": {
                "name": self.table.get("schedule", {}).get("name", "constant"),
                **fields_of(self.schedule),
            },
        }
        return written


def graph_of(topology_table: Mapping[str, Any]) -> nx.Graph:
    """The networkx graph of a ``[topology]`` table; of a schedule, the union of its rounds."""
    built = Topology.from_table(topology_table).build()
    if not isinstance(built, topologies.Schedule):
        return built
    return topologies.union(built)


def absolute_paths(value: Any, base: Path, key: str = "") -> Any:
    """The table with its paths made absolute, where they lead somewhere from ``base``, the file's own folder."""
    if isinstance(value, Mapping):
        prefix = "" if key in ("", "sweep", "case") else f"{key}."
        return {k: absolute_paths(v, base, prefix + k) for k, v in value.items()}
    if isinstance(value, list):
        return [absolute_paths(v, base, key) for v in value]
    if (
        key not in _PATHS
        or not isinstance(value, str)
        or (key == "topology.weights" and value in topologies.WEIGHTS)
    ):
        return value
    return str((base / value).resolve()) if value and (base / value).exists() else value


def _read(parameters: Mapping[str, Any]) -> nx.Graph:
    return from_table(topologies.read_graph, parameters, "topology", "file")


def _read_schedule(parameters: Mapping[str, Any], weights: str | None) -> topologies.Schedule:
    return from_table(topologies.from_files, parameters, "topology", "files", weights=weights)


def file_name(name: Any) -> str:
    """The experiment's name, if it can name a folder."""
    if not isinstance(name, str) or not name.strip(". ") or "/" in name or not name.isprintable():
        raise UserError(f'name = {name!r} should be a text that can name a folder, as in name = "quickstart"')
    return name
