"""Seconds until a level of accuracy, or of a loss or distance, is reached: tables of experiments/README.md.

    python experiments/seconds_to.py DIR COLUMN LEVEL [CLOCK]

CLOCK is simulated_s, or wall_s, or bytes_sent_mean. The level is reached at the first record from which on COLUMN
stays there for three records in a row (or to the end of the run), and the time is interpolated linearly from the record
before. An accuracy reaches a level from below, anything else from above. Medians, least and most are over the seeds.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from decentral.report.columns import value_label
from decentral.report.figure_spec import telling_fields
from decentral.report.reading import read_experiment
from decentral.report.results import MISSING, grouped

STAYS = 3


def seconds_to(run, column, level, clock):
    """When the run reaches the level; None if it does not."""
    sign = 1 if "accuracy" in column else -1
    above = sign * (run.columns[column] - level)
    for i in range(len(above)):
        if (above[i : i + STAYS] >= 0).all():
            if i == 0:
                return float(run.columns[clock][0])
            share = above[i - 1] / (above[i - 1] - above[i])
            before, here = run.columns[clock][i - 1 : i + 1]
            return float(before + share * (here - before))
    return None


def main(folder, column, level, clock="simulated_s"):
    """Print the table."""
    experiment = read_experiment(Path(folder))
    names = telling_fields(experiment, list(experiment.swept), [])
    table = Table(title=f"{experiment.name}: {clock} until {column} is {level}", title_justify="left")
    for name in (*names, "seeds", "median", "least", "most"):
        table.add_column(name)
    for values, runs in grouped(experiment.runs, names).items():
        times = [seconds_to(run, column, float(level), clock) for run in runs]
        reached = [time for time in times if time is not None]
        late = [np.inf] * (len(times) - len(reached))
        numbers = [f(reached + late) for f in (statistics.median, min, max)]
        labels = [value_label(name, value) for name, value in zip(names, values, strict=True)]
        shown = [f"{number:.4g}" if np.isfinite(number) else MISSING for number in numbers]
        table.add_row(*labels, f"{len(reached)} of {len(runs)}", *shown)
    Console().print(table)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
