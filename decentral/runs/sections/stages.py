"""A layer-parallel run as one typed, frozen value; the TOML table has ``[stages]`` and ``[program]``.

With ``[topology]`` and ``[algorithm]`` there are several workers, each with all the stages, and stages gossip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decentral.algorithms import ALGORITHMS
from decentral.errors import UserError
from decentral.network.cluster import Link
from decentral.network.units import BYTES_S, SECONDS, quantity
from decentral.optimizers import OPTIMIZERS
from decentral.optimizers.schedules import SCHEDULES, Schedule
from decentral.problems import PROBLEMS
from decentral.problems.capabilities import Layered
from decentral.problems.language_settings import Language
from decentral.runs.rounds.config import file_name
from decentral.runs.sections.topology import Topology
from decentral.runs.sections.train import Train
from decentral.tables import fields_of, from_table, named, section

SECTIONS: tuple[str, ...] = (
    "problem", "stages", "program", "topology", "algorithm", "optimizer", "train", "schedule", "network",
)  # fmt: skip
_ROUNDS_ONLY = ("oracle", "compile", "checkpoint_every")


@dataclass(frozen=True)
class Stages:
    """How many stages, where the network is cut, and what the virtual clock goes by; ``[stages]`` in TOML.

    ``cut``: "even" (by number of layers), "balanced" (by FLOPs), or the layers where stages 1, 2, ... begin.
    ``costs``: "flops", at ``flops_per_s``, is the same on every machine; "measured" times each pass first and writes
    the table down, and the clock goes by the table. ``timeout_s``: after so long without progress over MPI the
    stages are asked who waits for whom. ``heads``: name of a local head or loss -> its parameters, as in
    ``[stages.heads.conv]``.
    """

    count: int = 2
    cut: Literal["even", "balanced"] | list[int] = "even"
    costs: Literal["flops", "measured"] = "flops"
    flops_per_s: float = 1e10
    timeout_s: float = 60.0
    heads: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"stages.count = {self.count} must be at least 1")
        for key in ("flops_per_s", "timeout_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"stages.{key} = {getattr(self, key)} must be positive and finite")
        if isinstance(self.cut, list) and len(self.cut) != self.count - 1:
            raise UserError(
                f"stages.cut = {self.cut} begins {len(self.cut)} stages after the first, but stages.count = "
                f"{self.count}; give {self.count - 1} layers"
            )


@dataclass(frozen=True)
class Links(Link):
    """The links of the virtual clock: a message takes latency_s + bytes / bandwidth_bytes_s."""

    def carry(self, channel: object, size: int) -> tuple[float, float]:
        """Seconds that a message of ``size`` bytes occupies its channel, and seconds more until it arrives."""
        del channel
        return size / self.bandwidth_bytes_s, self.latency_s


def links_of(latency_s: float | str = 0.0, bandwidth_bytes_s: float | str = float("inf")) -> Links:
    """``[network]`` of stages and nodes: numbers, or texts with units such as "50 us" and "10 Gb/s"."""
    seconds = quantity(latency_s, "network.latency_s", SECONDS)
    rate = quantity(bandwidth_bytes_s, "network.bandwidth_bytes_s", BYTES_S)
    try:
        return Links(seconds, rate)
    except UserError as error:
        raise UserError(f"network.{error}") from None


@dataclass(frozen=True)
class StageConfig:
    """Everything that a layer-parallel run depends on.

    ``topology``, ``algorithm``: of the workers, each of which has all stages; None where there is one. ``optimizer``:
    None where the algorithm makes the update.
    """

    training: ClassVar[str] = "decentral.runs.stages.training"

    name: str
    seed: int
    problem: Any
    stages: Stages
    program: Any
    topology: Topology | None
    algorithm: Any
    optimizer: Any
    train: Train
    schedule: Schedule
    network: Links
    table: Mapping[str, Any]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> StageConfig:
        """From a resolved table: one seed, no sweep."""
        from decentral.stages.programs import PROGRAMS  # here: they import torch

        parts = {key: section(table, key) for key in SECTIONS}
        parts["schedule"].setdefault("name", "constant")
        parts["optimizer"].setdefault("name", "sgd")
        gossips = "algorithm" in table
        if gossips is not ("topology" in table):
            there, missing = ("algorithm", "topology") if gossips else ("topology", "algorithm")
            raise UserError(
                f"section [{there}] needs [{missing}] where there is [stages]; add it, or remove both"
            )
        if gossips and "optimizer" in table:
            raise UserError(
                "section [optimizer] has no meaning where [algorithm] makes the update; remove one"
            )
        for key in _ROUNDS_ONLY:
            if key in parts["train"]:
                raise UserError(f"train.{key} has no meaning with [stages]; remove the key")
        problem = named(parts["problem"], "problem", PROBLEMS)
        if not isinstance(problem, Layered):
            raise UserError(
                f"problem.name = {table['problem']['name']!r} has no layers to cut into stages; use mlp, for example"
            )
        if gossips and isinstance(problem, Language) and problem.partition != "contiguous":
            raise UserError(
                f"problem.partition = {problem.partition!r}: workers with stages have stretches of a text; "
                "use contiguous"
            )
        program = named(parts["program"], "program", PROGRAMS)
        if gossips and not getattr(program, "lockstep", True):
            raise UserError(
                f"program.name = {table['program']['name']!r} updates its stages at their own speeds, so they cannot "
                "gossip; use local, or remove [topology] and [algorithm]"
            )
        method = named(parts["algorithm"], "algorithm", ALGORITHMS) if gossips else None
        return cls(
            name=file_name(table["name"]),
            seed=table["seeds"][0],
            problem=problem,
            stages=from_table(Stages, parts["stages"], "stages"),
            program=program,
            topology=Topology.from_table(parts["topology"], method) if gossips else None,
            algorithm=method,
            optimizer=None if gossips else named(parts["optimizer"], "optimizer", OPTIMIZERS),
            train=from_table(Train, parts["train"], "train"),
            schedule=named(parts["schedule"], "schedule", SCHEDULES),
            network=from_table(links_of, parts["network"], "network"),
            table=table,
        )

    def resolved(self) -> dict[str, Any]:
        """The table with every default written out: running it again repeats this run."""
        rule = ("optimizer", "sgd") if self.topology is None else ("algorithm", "")
        names = {
            key: self.table.get(key, {}).get("name", default)
            for key, default in (("problem", ""), ("program", ""), rule, ("schedule", "constant"))
        }
        train = {k: v for k, v in fields_of(self.train).items() if k not in _ROUNDS_ONLY}
        written: dict[str, Any] = {
            "name": self.name,
            "seeds": [self.seed],
            "stages": fields_of(self.stages),
            "train": train,
            "network": fields_of(self.network),
        }
        if self.topology is not None:
            written["topology"] = self.topology.resolved()
        for key, name in names.items():
            written[key] = {"name": name, **fields_of(getattr(self, key))}
        return written

    @property
    def workers(self) -> int:
        """Workers that the data are dealt to."""
        return 1 if self.topology is None else self.topology.workers

    def prepare(self) -> None:
        """On each rank: read the data and build the model once, so that every mistake is found first."""
        self.problem.prepare(self.workers, self.seed)
