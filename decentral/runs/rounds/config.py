"""One run as one typed, frozen value; a TOML table is its written form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decentral.algorithms import ALGORITHMS
from decentral.algorithms.asynchronous import ASYNCHRONOUS
from decentral.errors import UserError
from decentral.optimizers.schedules import SCHEDULES, Schedule
from decentral.problems import PROBLEMS
from decentral.runs.sections.compression import Compression
from decentral.runs.sections.faults import Faults
from decentral.runs.sections.network import Network
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.tables import fields_of, from_table, named, section

SECTIONS: tuple[str, ...] = (
    "problem", "topology", "algorithm", "compression", "network", "faults", "train", "schedule",
)  # fmt: skip


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
        """The module that trains it."""
        if self.table["algorithm"]["name"] in ASYNCHRONOUS:
            return "decentral.runs.asynchronous.training"
        return "decentral.runs.rounds.training"

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


def file_name(name: Any) -> str:
    """The experiment's name, if it can name a folder."""
    if not isinstance(name, str) or not name.strip(". ") or "/" in name or not name.isprintable():
        raise UserError(f'name = {name!r} should be a text that can name a folder, as in name = "quickstart"')
    return name
