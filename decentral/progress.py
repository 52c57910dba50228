"""What a person sees while an experiment runs: runs done, rounds done, the newest distance."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from decentral.experiment import Experiment, PlannedRun

_NEWEST = ("bias_sq", "consensus_sq", "test_accuracy")


class Progress:
    """A bar over all runs and one over the rounds of this run, on standard error; silent but on rank 0."""

    def __init__(self, experiment: Experiment, done: dict[str, Any], show: bool) -> None:
        self.console = Console(stderr=True)
        self.show = show
        self.bars = RichProgress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[newest]}"),
            console=self.console, disable=not (show and self.console.is_terminal),
        )  # fmt: skip
        self.total = len(experiment.runs)
        self.done = len(done)
        self.all: TaskID | None = None
        self.one: TaskID | None = None
        if show and done:
            self.say(f"{self.done} of {self.total} runs have ended before; going on with the others")

    def __enter__(self) -> Self:
        self.bars.start()
        if self.total > 1:
            self.all = self.bars.add_task("runs", total=self.total, completed=self.done, newest="")
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, planned: PlannedRun) -> None:
        """A run begins."""
        words = " ".join([*map(str, planned.swept.values()), f"seed {planned.config.seed}"])
        self.one = self.bars.add_task(escape(words[:32]), total=planned.config.train.rounds, newest="")
        if not self.console.is_terminal:
            self.say(f"run {self.done + 1} of {self.total}: {words}")

    def end(self) -> None:
        """That run has ended."""
        self.done += 1
        if self.one is not None:
            self.bars.remove_task(self.one)
        if self.all is not None:
            self.bars.update(self.all, completed=self.done)

    def update(self, t: int, row: dict[str, Any]) -> None:
        """Round t is done; ``row`` is the newest record."""
        newest = next((f"{key} {row[key]:.3g}" for key in _NEWEST if key in row), "")
        if self.one is not None:
            self.bars.update(self.one, completed=t, newest=newest)

    def say(self, text: str, style: str = "") -> None:
        """A line above the bars."""
        if self.show:
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
