"""``[train]``: how long, how fast, with which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from decentral.errors import UserError
from decentral.tables import fields_of
from topologies.room import in_words
from topologies.wording import shown

MOST_ROUNDS, MOST_RECORDS = 10**12, 10**8
"""Of a run: at ten microseconds a round the one is four months, at 100 bytes a record the other 10 GB."""


@dataclass(frozen=True)
class Train:
    """How long, how fast, with which numbers; ``[train]`` in TOML.

    ``batch_size`` is per worker ("full": all its samples). ``record_every`` and ``checkpoint_every`` are
    rounds; "auto" is a 20th and a 5th of the run, and records fewer where they would take more than a 20th of its
    work. ``eval_samples`` bounds the samples of a record.
    ``oracle``: how gradients are computed, batched over workers or one worker after the other. ``chunk``: of how many
    workers at once they are batched; "auto" is all for which there is memory. ``device``: "auto" is a GPU where torch
    sees one.
    ``clip_norm``: each worker's gradient, of its whole model, is cut to this norm, before weight decay and update rule;
    without it, or with 0, it is not.
    ``compile``: rounds go through ``torch.compile``.
    """

    lr: float
    rounds: int
    batch_size: int | Literal["full"] = 32
    weight_decay: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "auto"
    oracle: Literal["auto", "batched", "loop"] = "auto"
    chunk: int | Literal["auto"] = "auto"
    compile: bool = False
    record_every: int | Literal["auto"] = "auto"
    checkpoint_every: int | Literal["auto", "never"] = "auto"
    eval_samples: int = 1_000
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for key in (
            "lr",
            "rounds",
            "batch_size",
            "record_every",
            "checkpoint_every",
            "eval_samples",
            "chunk",
        ):
            value = getattr(self, key)
            if not isinstance(value, str) and not 0 < value < float("inf"):
                raise UserError(f"train.{key} = {shown(value)} must be positive and finite")
        for key in ("weight_decay", "clip_norm"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"train.{key} = {shown(value)} must be finite and not negative; 0 is none")
        if self.rounds > MOST_ROUNDS:
            raise UserError(
                f"train.rounds = {shown(self.rounds)} would last for years; use {MOST_ROUNDS:,} at the most"
            )
        if self.chunk != "auto" and self.oracle == "loop":
            raise UserError(
                f'train.chunk = {self.chunk} is of gradients that are batched, and train.oracle = "loop" batches none; '
                "remove one of the two"
            )
        if self.record_every != "auto" and self.rounds // self.record_every > MOST_RECORDS:
            size = in_words(self.rounds // self.record_every * 100)
            raise UserError(
                f"train.record_every = {self.record_every} in train.rounds = {self.rounds} makes a metrics.csv of "
                f"{size} or more; record less often"
            )

    def resolved(self) -> dict[str, Any]:
        """Its table; without ``chunk`` where that is "auto", so that runs are called what they were without the key."""
        return {key: value for key, value in fields_of(self).items() if (key, value) != ("chunk", "auto")}

    @property
    def checkpoint_rounds(self) -> int:
        """Rounds from one checkpoint to the next; more than there are if never."""
        if self.checkpoint_every == "never":
            return self.rounds + 1
        return max(1, self.rounds // 5) if self.checkpoint_every == "auto" else self.checkpoint_every
