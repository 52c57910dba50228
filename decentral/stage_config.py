"""A layer-parallel run as one typed, frozen value; the TOML table has ``[stages]`` and ``[program]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from decentral.config import Train, file_name
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.problems import PROBLEMS
from decentral.schedule import SCHEDULES, Schedule
from decentral.tables import fields_of, from_table, named, section

SECTIONS = ("problem", "stages", "program", "optimizer", "train", "schedule", "network")
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
class Network:
    """The links of the virtual clock; ``[network]`` in TOML. A message takes latency_s + bytes / bandwidth_bytes_s."""

    latency_s: float = 0.0
    bandwidth_bytes_s: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < float("inf"):
            raise UserError(f"network.latency_s = {self.latency_s} must be finite and not negative")
        if not self.bandwidth_bytes_s > 0:
            raise UserError(f"network.bandwidth_bytes_s = {self.bandwidth_bytes_s} must be positive")


@dataclass(frozen=True)
class StageConfig:
    """Everything that a layer-parallel run depends on."""

    name: str
    seed: int
    problem: Any
    stages: Stages
    program: Any
    optimizer: Any
    train: Train
    schedule: Schedule
    network: Network
    table: Mapping[str, Any]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> StageConfig:
        """From a resolved table: one seed, no sweep."""
        from decentral.programs import PROGRAMS  # here: they import torch

        parts = {key: section(table, key) for key in SECTIONS}
        parts["schedule"].setdefault("name", "constant")
        parts["optimizer"].setdefault("name", "sgd")
        for key in _ROUNDS_ONLY:
            if key in parts["train"]:
                raise UserError(f"train.{key} has no meaning with [stages]; remove the key")
        problem = named(parts["problem"], "problem", PROBLEMS)
        if not hasattr(problem, "model"):
            raise UserError(
                f"problem.name = {table['problem']['name']!r} has no layers to cut into stages; use mlp, for example"
            )
        return cls(
            name=file_name(table["name"]),
            seed=table["seeds"][0],
            problem=problem,
            stages=from_table(Stages, parts["stages"], "stages"),
            program=named(parts["program"], "program", PROGRAMS),
            optimizer=named(parts["optimizer"], "optimizer", OPTIMIZERS),
            train=from_table(Train, parts["train"], "train"),
            schedule=named(parts["schedule"], "schedule", SCHEDULES),
            network=from_table(Network, parts["network"], "network"),
            table=table,
        )

    def resolved(self) -> dict[str, Any]:
        """The table with every default written out: running it again repeats this run."""
        names = {
            key: self.table.get(key, {}).get("name", default)
            for key, default in (
                ("problem", ""), ("program", ""), ("optimizer", "sgd"), ("schedule", "constant"),
            )
        }  # fmt: skip
        train = {k: v for k, v in fields_of(self.train).items() if k not in _ROUNDS_ONLY}
        written: dict[str, Any] = {
            "name": self.name,
            "seeds": [self.seed],
            "stages": fields_of(self.stages),
            "train": train,
            "network": fields_of(self.network),
        }
        for key, name in names.items():
            written[key] = {"name": name, **fields_of(getattr(self, key))}
        return written

    @property
    def workers(self) -> int:
        """Workers that the data are dealt to: the first stage sees all."""
        return 1

    def prepare(self) -> None:
        """On each rank: read the data and build the model once, so that every mistake is found first."""
        self.problem.prepare(1, self.seed)
