"""One run of a table on the CPU or a GPU, the machine's own or the tests' pretended one, and what it records."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from decentral.comm.world import LocalWorld, World
from decentral.runs import sealed
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal
from decentral.runs.kinds import training_of
from decentral.runs.place import Here, device_of, rehearse

Table = dict[str, Any]
CLOCKS = ("wall_s", "mpi_bytes_sent", "instances_per_s", "occupancy")


def gpu(pretend: bool) -> AbstractContextManager[Any]:
    """Inside there is a GPU: the machine's own, or the tests' pretended one."""
    if not pretend:
        return nullcontext()
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from pretended_gpu import pretended_gpu

    return pretended_gpu()  # type: ignore[no-any-return]


class Records(Journal):
    """A journal in memory; ``facts``: of environment.json; ``kept``: the newest checkpoint, as a file gives it back."""

    def __init__(self) -> None:
        super().__init__(begun=self._begins)
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.file = io.BytesIO()

    def _begins(self, facts: Mapping[str, Any], notes: Sequence[str]) -> None:
        self.facts, self.notes = dict(facts), list(notes)

    def record(self, seen: Any, values: Mapping[str, Any], apart: Mapping[str, Any] | None = None) -> None:
        """See Journal."""
        super().record(seen, values, apart)
        self.rows.append({k: v for k, v in {**self.row, **(apart or {})}.items() if k not in CLOCKS})

    def keep(self, state: Mapping[str, Any]) -> None:
        """See Journal."""
        self.file = io.BytesIO()
        sealed.save(state, self.file)

    def leave(self, name: str, content: Any) -> None:
        """See Journal."""
        if callable(content):
            content(io.BytesIO())

    @property
    def kept(self) -> dict[str, Any] | None:
        """See the class."""
        self.file.seek(0)
        if not self.file.getvalue():
            return None
        found: dict[str, Any] = torch.load(self.file, weights_only=True, map_location="cpu")
        return found


def trained(
    table: Table, device: str, kept: Mapping[str, Any] | None = None, world: World | None = None
) -> Records:
    """What a run of this table records on the CPU or the GPU, from its first round or a checkpoint."""
    journal, world = Records(), world or LocalWorld()
    (planned,) = expand(
        merged({"name": "gpu", "train": {"rounds": 2, "eval_samples": 20, "device": device}}, table)
    ).runs
    training_of(planned.config).check(planned.config, world)
    planned.config.prepare()
    here = Here(world, device_of(planned.config.train.device, world.local_rank))
    rehearse(planned.config, here.device)
    outcome = training_of(planned.config).execute(planned.config, here, journal, kept)
    if outcome.status != "finished":
        raise RuntimeError(outcome.message)
    return journal


def merged(*tables: Table) -> Table:
    """Sections of all, the later ones' keys instead of the earlier ones'; a section that names another thing is new."""
    found: Table = {}
    for table in tables:
        for key, value in table.items():
            section = found.get(key)
            fresh = not isinstance(value, dict) or not isinstance(section, dict)
            fresh = fresh or ("name" in value and section.get("name", value["name"]) != value["name"])
            found[key] = value if fresh else {**section, **value}
    return found


def distance(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """The largest relative difference of two runs' records; infinite where they are not of the same columns."""
    if [list(row) for row in rows] != [list(row) for row in others]:
        return float("inf")
    pairs = [(row[key], other[key]) for row, other in zip(rows, others, strict=True) for key in row]
    return max((_apart(a, b) for a, b in pairs), default=float("inf"))


_NOTHING = 1e-9  # squares of distances that are rounding alone are far below


def _apart(a: Any, b: Any) -> float:
    if a == b or (a != a and b != b):  # nan: not yet known
        return 0.0
    return float("inf") if isinstance(a, str) else float(abs(a - b) / max(abs(a), abs(b), _NOTHING))
