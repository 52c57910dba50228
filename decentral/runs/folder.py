"""What a run leaves on disk. Written by rank 0 only; a file under its final name is whole.

DIR/lock.json                                          whose folder it is, while a job writes there
DIR/experiment.toml, command.txt, results.csv          the experiment, and one row a run
DIR/runs/<id>/config.toml, environment.json            the run's value, and where it ran
DIR/runs/<id>/metrics.csv                              grows; resuming redoes the rows since the checkpoint
DIR/runs/<id>/checkpoint.pt                            replaced whole; tells how far metrics.csv was, and its digest
DIR/runs/<id>/status.json                              there only when the run has ended, with digests of its files
DIR/tensorboard/<id>/                                  the rows of metrics.csv as event files, where these are asked for
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from decentral.disk import PART, naming, write_whole
from decentral.errors import UserError
from decentral.report.stored import digest_of, sealed_table, status_of
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.runs.event_files import EventFiles


class RunFolder:
    """The folder of one run. ``events`` is given each record too."""

    def __init__(self, path: Path, events: EventFiles | None = None) -> None:
        self.path, self.events = path, events
        self.checkpoint, self.records = path / "checkpoint.pt", path / "metrics.csv"
        self._size, self._digest = 0, hashlib.sha256()  # of the records so far
        self._goes_on = False

    def begin(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write down what is about to run, and where."""
        write_whole(self.path / "config.toml", tomli_w.dumps(config))
        write_whole(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def checkpointed(self) -> dict[str, Any] | None:
        """What the last checkpoint holds, or None if there is none. UserError if it or the records are damaged."""
        if not os.path.lexists(self.checkpoint):
            return None
        from decentral.runs.rounds import checkpoint  # here: it needs torch

        kept = checkpoint.read(self.checkpoint)
        if kept["run"] != self.path.name:
            raise UserError(
                f"{self.checkpoint} is of another run, {shown(kept['run'])}; delete it to start that run anew"
            )
        size, digest = kept["records"]
        try:
            self._digest, found = digest_of(self.records, size), self.records.stat().st_size
        except OSError as error:
            raise UserError(
                f"{self.records} cannot be read ({error.strerror}); remove {self.path} to start that run anew"
            ) from None
        if found < size or self._digest.hexdigest() != digest:
            raise UserError(
                f"{self.records} is damaged: it is not what {self.checkpoint.name} beside it goes on from; "
                "delete that to start the run anew"
            )
        self._size, self._goes_on = size, True
        return kept

    def keep_rows(self) -> None:
        """Drop what was recorded after the checkpoint that the run goes on from; all, where it begins anew."""
        with naming(self.records):
            if self._goes_on:
                os.truncate(self.records, self._size)
            else:
                self.records.unlink(missing_ok=True)
        if self.events:
            self.events.begin(self.rows())

    def append(self, row: Mapping[str, Any]) -> None:
        """One more record; it outlives this process, though not a power cut before the next checkpoint."""
        text = io.StringIO()
        writer = csv.DictWriter(text, row.keys(), lineterminator="\n")
        if self._size == 0:
            writer.writeheader()
        writer.writerow(row)
        line = text.getvalue().encode()
        with naming(self.records), self.records.open("ab") as file:
            file.write(line)
        self._size += len(line)
        self._digest.update(line)
        if self.events:
            self.events.add(row)

    def keep(self, state: Mapping[str, Any]) -> None:
        """A checkpoint, in place of the last one; the records so far are on the disk before it."""
        from decentral.runs import sealed  # here: most of what records does without torch

        with naming(self.records), self.records.open("ab") as file:
            os.fsync(file.fileno())
        whole = {**state, "run": self.path.name, "records": (self._size, self._digest.hexdigest())}
        write_whole(self.checkpoint, lambda file: sealed.save(whole, file))

    def rows(self) -> list[dict[str, str]]:
        """The whole rows recorded so far."""
        if not self.records.exists():
            return []
        text = self.records.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [row for row in csv.DictReader(lines) if None not in row and None not in row.values()]

    def end(self, status: Mapping[str, Any]) -> None:
        """Mark the run as ended; its last checkpoint is of no more use."""
        files = sorted(path for path in self.path.iterdir() if path.is_file() and self._is_left(path))
        digests = {path.name: digest_of(path).hexdigest() for path in files}
        whole = sealed_table(json.loads(json.dumps({**status, "files": digests})))
        write_whole(self.path / "status.json", json.dumps(whole, indent=2) + "\n")
        self.tidy()
        if self.events:
            self.events.close()

    def tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        self.checkpoint.unlink(missing_ok=True)
        for path in self.path.glob("*" + PART):
            path.unlink(missing_ok=True)

    def status(self) -> dict[str, Any] | None:
        """How the run ended, or None if it has not. Raises UserError if that or a file that it left is damaged."""
        return status_of(self.path) or None

    def _is_left(self, path: Path) -> bool:
        return path != self.checkpoint and path.name != "status.json" and path.suffix != PART


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
