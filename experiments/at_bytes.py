"""What each program has reached for a budget of bytes sent a worker: the tables of experiments/README.md.

    python experiments/at_bytes.py DIR BYTES COLUMN [FIELD]

COLUMN is interpolated linearly in bytes_sent_mean between two records. Means and sample standard deviations are over
the seeds that sent so much. With FIELD, such as train.lr, only its value with the best mean is shown: the highest if
COLUMN is an accuracy, else the lowest.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from decentral.report.columns import value_label
from decentral.report.figure_spec import telling_fields
from decentral.report.reading import read_experiment
from decentral.report.results import MISSING, grouped
from decentral.report.statistics import spread
from decentral.report.summary import measured

SENT = "bytes_sent_mean"


def at_bytes(run, column, budget):
    """(COLUMN, round) when a worker has sent ``budget`` bytes in the mean; None if it has not, or has diverged."""
    sent = run.columns[SENT]
    if not run.finished or not sent[0] <= budget <= sent[-1]:
        return None
    return tuple(float(np.interp(budget, sent, run.columns[name])) for name in (column, "round"))


def rows(experiment, column, budget, field=""):
    """(values, what was found a seed, seeds) of each group, or of the best of those that differ in ``field``."""
    names = names_of(experiment, field)
    sign = -1 if "accuracy" in column else 1
    for values, alike in grouped(experiment.runs, names).items():
        found = []
        for chosen, runs in grouped(alike, [field] if field else []).items():
            there = [at for run in runs if (at := at_bytes(run, column, budget))]
            found.append(((*values, *chosen), there, len(runs)))
        complete = [row for row in found if len(row[1]) == row[2]] or found
        yield min(complete, key=lambda row: np.mean([sign * y for y, _ in row[1]] or [np.inf]))


def names_of(experiment, field):
    """The swept fields but ``field`` and those that follow from the others."""
    return telling_fields(
        experiment, [name for name in experiment.swept if name != field], [field] * bool(field)
    )


def main(folder, budget, column, field=""):
    """Print the table."""
    experiment = read_experiment(Path(folder))
    table = Table(title=f"{experiment.name}: {column} at {budget} bytes a worker", title_justify="left")
    shown = [*names_of(experiment, field), *([field] if field else [])]
    for name in (*shown, "seeds", column, "round"):
        table.add_column(name)
    for values, found, seeds in rows(experiment, column, float(budget), field):
        at, rounds = (spread(numbers) for numbers in zip(*found, strict=True)) if found else (spread([]),) * 2
        labels = [value_label(name, value) for name, value in zip(shown, values, strict=True)]
        table.add_row(
            *labels, f"{len(found)} of {seeds}", measured(at), f"{rounds.mean:.4g}" if found else MISSING
        )
    Console().print(table)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
