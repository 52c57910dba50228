"""What a run leaves behind and shows: the only way into the common columns, alike for all kinds of run.

It knows the run's folder, the progress bar and rank 0, so that a kind of run knows none of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from decentral.disk import write_whole
from decentral.runs.folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished or diverged, why, and its last metrics."""

    status: str
    message: str
    final: dict[str, Any]


class Seen(NamedTuple):
    """How far a run is at a record, and what that took.

    ``t``: rounds done. ``samples``: seen in training by all workers, ``epoch``: passes over the data; None where there
    is no data set. ``wall_s``: seconds in rounds, without what rank 0 took to measure. ``simulated_s``: on the clock of
    the described cluster, None where there is none. ``sent_bytes`` (n,): by each worker, whatever part of it sent them,
    to others and from one part to the next. ``messages``: of all workers; ``mpi_bytes``: between ranks.
    """

    t: int
    samples: int | None
    epoch: float | None
    wall_s: float
    simulated_s: float | None
    sent_bytes: ArrayLike
    messages: int
    mpi_bytes: int

    def columns(self) -> dict[str, Any]:
        """The common columns, in their order."""
        found: dict[str, Any] = {"round": self.t, "epoch": self.epoch, "samples": self.samples}
        found["wall_s"] = round(self.wall_s, 6)
        found["simulated_s"] = self.simulated_s
        sent = np.asarray(self.sent_bytes, dtype=np.float64)
        found |= {
            "bytes_sent_mean": float(sent.mean()),
            "bytes_sent_max": float(sent.max()),
            "messages": int(self.messages),
            "mpi_bytes_sent": int(self.mpi_bytes),
        }
        return {name: value for name, value in found.items() if value is not None}


class Journal:
    """The records of one run. On ranks but 0, and where nothing is to be kept, ``folder`` is None.

    ``moved``: told how many rounds are done, and of the newest record. ``begun``: told what is known before the first
    round, by :meth:`begin`. ``row``: the newest record.
    """

    def __init__(
        self,
        folder: RunFolder | None = None,
        moved: Callable[[float, Mapping[str, Any]], None] = lambda *_: None,
        begun: Callable[[Mapping[str, Any], Sequence[str]], None] = lambda *_: None,
    ) -> None:
        self.folder, self._moved, self._begun = folder, moved, begun
        self.row: dict[str, Any] = {}

    def begin(
        self, facts: Mapping[str, Any], notes: Sequence[str], row: Mapping[str, Any] | None = None
    ) -> None:
        """The run begins, or goes on after the record ``row``: ``facts`` for environment.json, ``notes`` for people."""
        self.row = dict(row or {})
        self._begun(facts, notes)
        if self.folder is not None:
            self.folder.keep_rows()

    def moved(self, t: float) -> None:
        """t rounds are done, or rounds and a part of one. To be called often: it costs a look at the clock."""
        self._moved(t, self.row)

    def record(self, seen: Seen, values: Mapping[str, Any], apart: Mapping[str, Any] | None = None) -> None:
        """A row of metrics.csv: the common columns and the ``values``; those ``apart`` stand in the file only."""
        self.row = {**seen.columns(), **values}
        if self.folder is not None:
            self.folder.append({**self.row, **(apart or {})})
        self.moved(self.row["round"])

    def keep(self, state: Mapping[str, Any]) -> None:
        """A checkpoint, in place of the last one."""
        if self.folder is not None:
            self.folder.keep(state)

    def leave(self, name: str, content: Any) -> None:
        """A file beside the records: a text, a function that writes to a binary file, or what JSON can hold."""
        if self.folder is None:
            return
        if not isinstance(content, str) and not callable(content):
            content = json.dumps(content, indent=1) + "\n"
        write_whole(self.folder.path / name, content)

    def ended(
        self, status: str = "finished", message: str = "", final: Mapping[str, Any] | None = None
    ) -> Outcome:
        """How the run ended; ``final``: columns of results.csv that do not change over the rounds."""
        return Outcome(status, message, {**self.row, **(final or {})})
