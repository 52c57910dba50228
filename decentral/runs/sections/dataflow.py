"""A run of a network of nodes as one typed, frozen value; the TOML table has ``[dataflow]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decentral.dataflow.models import NODE_MODELS
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.optimizers.schedules import SCHEDULES, Schedule
from decentral.problems import PROBLEMS
from decentral.runs.rounds.config import file_name
from decentral.runs.sections.stages import Links, links_of
from decentral.runs.sections.train import Train
from decentral.tables import fields_of, from_table, named, section

SECTIONS: tuple[str, ...] = ("problem", "dataflow", "optimizer", "train", "schedule", "network")
_OF_WORKERS = ("oracle", "compile", "checkpoint_every", "batch_size")


@dataclass(frozen=True)
class Dataflow:
    """How instances go through the network, and when its nodes learn; ``[dataflow]`` in TOML.

    ``runtime``: "messages"; or "synchronous", the baseline: the same modules in plain torch, ``minibatch`` instances a
    step, one after the other through all of the network and back. The other keys are for messages.

    ``max_active_keys``: instances under way at the most. ``min_update_frequency``: gradients that make an update of a
    node, counted in ``unit``: "messages" that came back to it, or "instances" that left the network; ``frequencies``:
    other numbers for some nodes, by name. ``reduce``: the update is that of their "mean" or "sum".
    ``batching``: messages that wait at a node are computed together, ``most`` at the most; an update then has all the
    gradients of a batch, so where ``min_update_frequency`` is smaller than batches are, there are fewer updates.
    ``workers``: nodes are placed on so many; ``place``: "balanced", by FLOPs, or name of a node -> its worker.
    ``replicas``: copies of the heaviest node, or of "all", averaged every ``average_every`` rounds; with "all" worker w
    has the copies w, w + workers, ...
    Remedies for stale gradients: ``stash`` weights, ``anneal`` the learning rate over so many updates, ``clip``
    gradients to a norm; 0 is without. ``ordered``: sums of gradients do not depend on timing.
    On the virtual clock a batch takes ``batch_s`` and its FLOPs at ``flops_per_s``. ``timeout_s``: as for stages.
    """

    runtime: Literal["messages", "synchronous"] = "messages"
    minibatch: int = 1
    max_active_keys: int = 1
    min_update_frequency: int = 1
    unit: Literal["messages", "instances"] = "messages"
    frequencies: dict[str, int] | None = None
    reduce: Literal["mean", "sum"] = "mean"
    batching: bool = True
    most: int = 1024
    workers: int = 1
    place: Literal["balanced"] | dict[str, int] = "balanced"
    replicas: int = 1
    replicate: Literal["heaviest", "all"] = "heaviest"
    average_every: int = 1
    stash: bool = False
    anneal: int = 0
    clip: float = 0.0
    ordered: bool = False
    batch_s: float = 1e-5
    flops_per_s: float = 1e10
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for key in (
            "minibatch", "max_active_keys", "min_update_frequency", "most", "workers", "replicas", "average_every",
        ):  # fmt: skip
            if getattr(self, key) < 1:
                raise UserError(f"dataflow.{key} = {getattr(self, key)} must be at least 1")
        for key in ("anneal", "clip", "batch_s"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise UserError(f"dataflow.{key} = {getattr(self, key)} must be finite and not negative")
        for key in ("flops_per_s", "timeout_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"dataflow.{key} = {getattr(self, key)} must be positive and finite")
        if self.ordered and self.batching:
            raise UserError("dataflow.ordered = true sums message by message; set dataflow.batching = false")
        for name, count in (self.frequencies or {}).items():
            if count < 1:
                raise UserError(f"dataflow.frequencies.{name} = {count} must be at least 1")


@dataclass(frozen=True)
class DataflowConfig:
    """Everything that a run of a network of nodes depends on. A round is a pass over the training instances."""

    training: ClassVar[str] = "decentral.runs.dataflow.training"

    name: str
    seed: int
    problem: Any
    dataflow: Dataflow
    optimizer: Any
    train: Train
    schedule: Schedule
    network: Links
    table: Mapping[str, Any]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> DataflowConfig:
        """From a resolved table: one seed, no sweep."""
        parts = {key: section(table, key) for key in SECTIONS}
        parts["schedule"].setdefault("name", "constant")
        parts["optimizer"].setdefault("name", "sgd")
        for key in _OF_WORKERS:
            if key in parts["train"] and not (key == "batch_size" and table["problem"].get("name") == "mlp"):
                raise UserError(f"train.{key} has no meaning with [dataflow]; remove the key")
        problem = named(parts["problem"], "problem", PROBLEMS)
        if type(problem) not in NODE_MODELS:
            choices = ", ".join(name for name, kind in PROBLEMS.items() if kind in NODE_MODELS)
            raise UserError(
                f"problem.name = {table['problem']['name']!r} has no network of nodes; use one of {choices}"
            )
        return cls(
            name=file_name(table["name"]),
            seed=table["seeds"][0],
            problem=problem,
            dataflow=from_table(Dataflow, parts["dataflow"], "dataflow"),
            optimizer=named(parts["optimizer"], "optimizer", OPTIMIZERS),
            train=from_table(Train, parts["train"], "train"),
            schedule=named(parts["schedule"], "schedule", SCHEDULES),
            network=from_table(links_of, parts["network"], "network"),
            table=table,
        )

    def resolved(self) -> dict[str, Any]:
        """The table with every default written out: running it again repeats this run."""
        keep_batch = self.table["problem"]["name"] == "mlp"
        train = {
            k: v
            for k, v in fields_of(self.train).items()
            if k not in _OF_WORKERS or (k == "batch_size" and keep_batch)
        }
        written: dict[str, Any] = {
            "name": self.name,
            "seeds": [self.seed],
            "dataflow": fields_of(self.dataflow),
            "train": train,
            "network": fields_of(self.network),
        }
        for key, default in (("problem", ""), ("optimizer", "sgd"), ("schedule", "constant")):
            name = self.table.get(key, {}).get("name", default)
            written[key] = {"name": name, **fields_of(getattr(self, key))}
        return written

    @property
    def workers(self) -> int:
        """Workers that the data are dealt to: the Input has all."""
        return 1

    def prepare(self) -> None:
        """On each rank: read the data once, so that every mistake is found first."""
        self.problem.prepare(1, self.seed)
