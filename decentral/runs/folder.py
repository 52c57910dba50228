"""What a run leaves on disk. Written by rank 0 only; a file under its final name is whole.

DIR/experiment.toml, command.txt, results.csv          the experiment, and one row a run
DIR/runs/<id>/config.toml, environment.json            the run's value, and where it ran
DIR/runs/<id>/metrics.csv                              grows; resuming redoes the rows since the checkpoint
DIR/runs/<id>/checkpoint.pt                            replaced whole
DIR/runs/<id>/status.json                              there only when the run has ended
DIR/tensorboard/<id>/                                  the rows of metrics.csv as event files, where these are asked for
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import tomli_w

if TYPE_CHECKING:
    from decentral.runs.event_files import EventFiles

PART = ".part"
"""Ends the name of a file that is being written; one that is left over was cut short, and is never read."""


def write_whole(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Write a text, or what ``content`` writes: the file is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        if isinstance(content, str):
            file.write(content.encode())
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


class RunFolder:
    """The folder of one run. ``events`` is given each record too."""

    def __init__(self, path: Path, events: EventFiles | None = None) -> None:
        self.path, self.events = path, events
        self.checkpoint = path / "checkpoint.pt"

    def begin(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write down what is about to run, and where."""
        write_whole(self.path / "config.toml", tomli_w.dumps(config))
        write_whole(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def keep_rows(self, last_round: int) -> None:
        """Drop metrics of rounds after ``last_round``, and a half-written line; -1 drops all."""
        rows = [row for row in self.rows() if int(row["round"]) <= last_round]
        if rows:
            write_whole(self.path / "metrics.csv", _csv_text(rows))
        else:
            (self.path / "metrics.csv").unlink(missing_ok=True)
        if self.events:
            self.events.begin(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """One more record; it outlives this process, though not a power cut."""
        path = self.path / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        if self.events:
            self.events.add(row)

    def rows(self) -> list[dict[str, str]]:
        """The whole rows recorded so far."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [row for row in csv.DictReader(lines) if None not in row and None not in row.values()]

    def end(self, status: Mapping[str, Any]) -> None:
        """Mark the run as ended; its last checkpoint is of no more use."""
        write_whole(self.path / "status.json", json.dumps(status, indent=2) + "\n")
        self.checkpoint.unlink(missing_ok=True)
        if self.events:
            self.events.close()

    def status(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not."""
        path = self.path / "status.json"
        return json.loads(path.read_text()) if path.exists() else None


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """results.csv: one row a run that has ended; the columns are the union of the rows'."""
    write_whole(path, _csv_text(rows))


def _csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines: list[str] = []

    class Lines:
        def write(self, text: str) -> None:
            lines.append(text)

    writer = csv.DictWriter(Lines(), columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return "".join(lines)
