"""Tables of final values: mean and spread over seeds, for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from decentral.errors import UserError
from decentral.report.columns import SCALED, column_words, field_label, scaled_unit, value_label
from decentral.report.figure_spec import telling_fields
from decentral.report.reading import read_experiment
from decentral.report.results import MISSING, Experiment, Run, grouped, merge
from decentral.report.statistics import Spread, final_values, spread

PRIORITY = (
    "test_accuracy",
    "test_rmse",
    "bias_sq",
    "bytes_sent_mean",
    "simulated_s",
    "critical_flops_step",
    "test_loss",
    "train_loss",
    "train_accuracy",
    "flops_step",
    "activation_bytes_max",
    "gradient_cosine",
    "consensus_sq",
    "wall_s",
    "test_accuracy_worker_min",
    "mean_bias_sq",
    "theory_bias_sq",
    "bytes_sent_max",
    "test_accuracy_worker_mean",
    "messages",
    "mpi_bytes_sent",
)
PROGRESS = ("round", "epoch", "samples")  # how far a run went: the same for all, so never worth a column


@dataclass(frozen=True)
class Row:
    """One group of runs that differ in the seed only; ``outcome`` stands where there are no values."""

    labels: tuple[str, ...]
    seeds: str
    outcome: str
    values: tuple[Spread, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class Summary:
    """What the runs ended at: a row for each group, a column for each metric in ``metrics``."""

    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def compare(folders: Sequence[Path], titles: Mapping[str, str] | None = None) -> None:
    """Print one table over all the experiments; it fits 100 columns. ``titles``: of methods."""
    if not folders:
        raise UserError("nothing to compare; name at least one experiment folder")
    experiment = merge([read_experiment(folder, titles) for folder in folders])
    console = Console()
    console = Console(width=min(100, console.width) if console.is_terminal else 100)
    console.print(summary_table(experiment, width=console.width))


def summary_table(experiment: Experiment, width: int = 80) -> Table:
    """The closing table of a run: as many metrics, by priority, as fit ``width``."""
    wide = Console(width=1000)
    chosen: list[str] = []
    for metric in metrics_of(experiment):
        table = _table(experiment, summarise(experiment, [*chosen, metric]), caption=False)
        if not chosen or Measurement.get(wide, wide.options, table).maximum <= width:
            chosen.append(metric)
    return _table(experiment, summarise(experiment, chosen))


def metrics_of(experiment: Experiment) -> tuple[str, ...]:
    """The metrics that some finished run has, the telling ones first; none that repeats another's numbers."""
    present = [m for m in experiment.metrics if m not in PROGRESS and len(final_values(experiment.runs, m))]
    if not {"network", "stages", "program", "dataflow"} & experiment.config.keys():
        # of a network that nobody described it says little
        present = [m for m in present if m != "simulated_s"]
    ordered = [*(m for m in PRIORITY if m in present), *(m for m in present if m not in PRIORITY)]
    by_numbers = {final_values(experiment.runs, m).tobytes(): m for m in reversed(ordered)}
    return tuple(m for m in ordered if m in by_numbers.values())


def summarise(experiment: Experiment, metrics: Sequence[str]) -> Summary:
    """Group the runs by what was swept; only finished runs enter a mean."""
    fields = [f for f in experiment.swept if len(grouped(experiment.runs, [f])) > 1]
    fields = fields or [*experiment.swept[:1]] or ["algorithm.name"]
    fields = list(telling_fields(experiment, fields)) or fields[:1]
    groups = grouped(experiment.runs, fields)
    table = [[spread(final_values(runs, m)) for m in metrics] for runs in groups.values()]
    best = [_best([row[i].mean for row in table], column_words(m).better) for i, m in enumerate(metrics)]
    rows = [
        Row(
            labels=tuple(map(value_label, values)),
            seeds=seeds_text(runs),
            outcome=MISSING if any(run.finished for run in runs) else runs[0].status,
            values=tuple(table[i]),
            best=tuple(column[i] for column in best),
        )
        for i, (values, runs) in enumerate(groups.items())
    ]
    return Summary(tuple(fields), tuple(metrics), tuple(rows))


def seeds_text(runs: Sequence[Run]) -> str:
    """``3``, or ``2 of 3`` where one did not finish."""
    finished = sum(run.finished for run in runs)
    return str(len(runs)) if finished == len(runs) else f"{finished} of {len(runs)}"


def lost_runs(experiment: Experiment) -> list[str]:
    """A line for each run that has no result, with what it said."""
    lines = [f"{run.id} {run.status}: {run.message}" for run in experiment.runs if not run.finished]
    return [*lines, *(f"{name} is unfinished" for name in experiment.unfinished)]


def metric_header(metric: str) -> str:
    """The short name of a column, with its unit where the cells do not carry one."""
    words = column_words(metric)
    return f"{words.short} (s)" if words.unit == "s" else words.short


def cell_texts(row: Row, metrics: Sequence[str]) -> list[str]:
    """The cells of a row: values with their spread, or how its runs ended."""
    units = [column_words(m).unit for m in metrics]
    return [measured(v, u) if v.n else row.outcome for v, u in zip(row.values, units, strict=True)]


def measured(value: Spread, unit: str = "") -> str:
    """Mean and spread with the digits that the spread warrants: ``0.912 ± 0.004``, ``(1.2 ± 0.3)e-05``."""
    if not value.n:
        return MISSING
    if unit in SCALED and math.isfinite(value.mean):
        size, name = scaled_unit(abs(value.mean), unit)
        scaled = Spread(value.n, value.mean / size, value.std / size)
        text = f"{scaled.mean:.4g}" if not scaled.std > 0 else measured(scaled)
        return f"{text} {name}"
    return _with_spread(value.mean, value.std)


def _with_spread(mean: float, std: float) -> str:
    if mean.is_integer() and abs(mean) < 1e7 and not std > 0:
        return f"{mean:.0f}"  # a count
    if not math.isfinite(mean) or math.isnan(std):
        return f"{mean:.4g}"
    if std == 0:
        return f"{mean:.4g} ± 0"
    if std < 1e-12 * abs(mean):  # the same number, but for rounding in their mean
        return f"{mean:.4g} ± 0"
    if std < 1e-5 * abs(mean) or not math.isfinite(std):
        return f"{mean:.6g} ± {std:.0e}"
    power = math.floor(math.log10(max(abs(mean), std)))
    power = power if power < -3 or power > 5 else 0
    mean, std = mean / 10.0**power, std / 10.0**power
    place = math.floor(math.log10(std))
    digits = max(0, -place + (std / 10.0**place < 1.95))
    text = f"{mean:.{digits}f} ± {std:.{digits}f}"
    return f"({text})e{power:+03d}" if power else text


def _best(means: list[float], better: str) -> list[bool]:
    """Which rows hold the best mean of a column; none where all are alike or the column has no better end."""
    numbers = [m for m in means if not math.isnan(m)]
    if not better or len(set(numbers)) < 2:
        return [False] * len(means)
    top = min(numbers) if better == "low" else max(numbers)
    return [m == top for m in means]


def _table(experiment: Experiment, summary: Summary, *, caption: bool = True) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(experiment.name, style="bold"), title_justify="left", pad_edge=False
    )
    for field in summary.fields:
        table.add_column(Text(field_label(field)), overflow="fold")
    table.add_column("seeds", justify="right")
    for metric in summary.metrics:
        table.add_column(Text(metric_header(metric)), justify="right", no_wrap=True)
    for row in summary.rows:
        table.add_row(*map(Text, row.labels), Text(row.seeds), *_cells(row, summary.metrics))
    if caption:
        table.caption, table.caption_justify = Text(_caption(experiment, summary), style="dim"), "left"
    return table


def _cells(row: Row, metrics: Sequence[str]) -> Iterable[Text]:
    for text, best in zip(cell_texts(row, metrics), row.best, strict=True):
        yield Text(f"* {text}", style="bold") if best else Text(text)


def _caption(experiment: Experiment, summary: Summary) -> str:
    notes = []
    if any(value.n > 1 for row in summary.rows for value in row.values):
        notes.append("mean ± sample standard deviation over the seeds that finished")
    if any(any(row.best) for row in summary.rows):
        notes.append("* best mean")
    return "\n".join([*(["; ".join(notes)] if notes else []), *lost_runs(experiment)])
