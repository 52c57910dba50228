"""What a person sees while an experiment runs: runs done, rounds done and a second, time left, the newest distance.

Rounds a second are those that pass, records and checkpoints among them; ``wall_s`` in metrics.csv is training alone.
Off a terminal it is a line a run, when that ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from decentral.report.columns import column_words
from decentral.runs.experiment import Experiment, PlannedRun

_INTERVAL_S = 0.25  # between two drawings: each takes the interpreter from the training for a moment
_RUNS, _ROUNDS = "runs", "rounds"


class Progress:
    """A bar over all runs and one over the rounds of this run, on standard error; silent but on rank 0."""

    def __init__(self, experiment: Experiment, done: Mapping[str, Any], show: bool) -> None:
        self.console = Console(stderr=True)
        self.show = show
        self.bars = RichProgress(
            TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), _Speed(),
            TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[newest]}"),
            console=self.console, disable=not (show and self.console.is_terminal), refresh_per_second=1 / _INTERVAL_S,
        )  # fmt: skip
        self.total = len(experiment.runs)
        self.done = len(done)
        self.all: TaskID | None = None
        self.one: TaskID | None = None
        self._begin()
        if show and done:
            self.say(f"{self.done} of {self.total} runs have ended before; going on with the others")

    def __enter__(self) -> Self:
        self.bars.start()
        if self.total > 1:
            self.all = self.bars.add_task(
                "runs", total=self.total, completed=self.done, newest="", unit=_RUNS
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.words:
            self.end()
        self.bars.stop()

    def begin(self, planned: PlannedRun) -> None:
        """A run begins."""
        self._begin(" ".join([*map(str, planned.swept.values()), f"seed {planned.config.seed}"]))
        self.one = self.bars.add_task(
            escape(self.words[:32]), total=planned.config.all_rounds, newest="", unit=_ROUNDS
        )

    def _begin(self, words: str = "") -> None:
        self.words = words  # of the run under way
        self.first: tuple[float, float] | None = None  # rounds done, and when, at the first update
        self.last: tuple[float, float, Mapping[str, Any]] = (0.0, 0.0, {})
        self.shown, self.due_s = 0.0, 0.0

    def update(self, t: float, row: Mapping[str, Any]) -> None:
        """t rounds are done, or rounds and a part of one; ``row`` is the newest record.

        May be called in every round: it costs a look at the clock, and draws now and then.
        """
        now_s = perf_counter()
        self.last = t, now_s, row
        if now_s < self.due_s:
            return
        self.due_s = now_s + _INTERVAL_S
        self.first = self.first or (t, now_s)
        self.shown = max(self.shown, t)  # a record may be of a round before the newest
        if self.one is not None:
            words = [f"{column_words(key).short} {value:.3g}" for key, value in _newest(row)]
            self.bars.update(self.one, completed=self.shown, newest=", ".join(words))

    def end(self, status: str = "") -> None:
        """That run has ended, how; or it is left as it is."""
        if not self.console.is_terminal:
            t, now_s, row = self.last
            first, began_s = self.first or (t, now_s)
            parts = [status or f"left at round {t:g}"]
            if now_s > began_s:
                parts.append(f"{_number((t - first) / (now_s - began_s))} rounds/s")
            parts += [f"{key} {value:.3g}" for key, value in _newest(row)]
            self.say(f"run {self.done + 1} of {self.total}: {self.words}: {', '.join(parts)}")
        self.words = ""
        self.done += 1
        if self.one is not None:
            self.bars.remove_task(self.one)
        if self.all is not None:
            self.bars.update(self.all, completed=self.done)

    def say(self, text: str, style: str = "") -> None:
        """A line above the bars."""
        if self.show:
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _newest(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The columns to watch: the bias where there is an optimum, else how far workers are apart, and the accuracy."""
    watched = ("bias_sq",) if "bias_sq" in row else ("consensus_sq", "test_accuracy", "test_rmse")
    return [(key, row[key]) for key in watched if key in row]


class _Speed(ProgressColumn):
    """Rounds a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        if task.fields["unit"] != _ROUNDS or not task.speed:
            return Text("")
        return Text(f"{_number(task.speed):>6}/s")


def _number(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
