"""Records as TensorBoard's event files: a scalar for each column of metrics.csv, at the step that is the round.

They are written while the run goes on, as an extra: ``pip install 'decentral[tensorboard]'``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from decentral.errors import UserError


def need_tensorboard() -> None:
    """Raise UserError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs TensorBoard ({error}); pip install 'decentral[tensorboard]', or leave it out"
        ) from None


class EventFiles:
    """The event files of one run, in ``folder``; ``facts``, what tells it from others, stand in them as a text."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, facts

    def begin(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """A run begins or goes on: these records are kept, and whatever else was written before is void."""
        from torch.utils.tensorboard import SummaryWriter

        # a reader forgets all steps from this one on, which older files in the folder may hold
        self.writer = SummaryWriter(self.folder, purge_step=0)
        lines = ["| field | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in self.facts.items())]
        self.writer.add_text("run", "\n".join(lines), 0)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more record. Columns without a value in it are left out."""
        for column, value in row.items():
            if column != "round" and value != "":
                self.writer.add_scalar(column, float(value), int(row["round"]))
        self.writer.flush()

    def close(self) -> None:
        """The run has ended."""
        self.writer.close()
