"""``[dataflow]``: how instances go through the network of nodes, and when its nodes learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decentral.errors import UserError
from topologies.wording import shown

_MOST_COPIES = 1_000


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
                raise UserError(f"dataflow.{key} = {shown(getattr(self, key))} must be at least 1")
        for key in ("workers", "replicas"):
            if getattr(self, key) > _MOST_COPIES:
                raise UserError(
                    f"dataflow.{key} = {shown(getattr(self, key))} must be at most {_MOST_COPIES:,}"
                )
        for key in ("anneal", "clip", "batch_s"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise UserError(
                    f"dataflow.{key} = {shown(getattr(self, key))} must be finite and not negative"
                )
        for key in ("flops_per_s", "timeout_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"dataflow.{key} = {shown(getattr(self, key))} must be positive and finite")
        if self.ordered and self.batching:
            raise UserError("dataflow.ordered = true sums message by message; set dataflow.batching = false")
        for name, count in (self.frequencies or {}).items():
            if count < 1:
                raise UserError(f"dataflow.frequencies.{name} = {shown(count)} must be at least 1")
