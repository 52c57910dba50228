"""What it took each program until a column first passed a cut-off: the tables of experiments/README.md.

    python experiments/crossing.py DIR CUTOFF [COLUMN]

COLUMN falls, as train_loss does (the default), unless it is an accuracy. Between two records all columns are
interpolated linearly; means and sample standard deviations are over the seeds that passed.
"""

import statistics
import sys
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from decentral.report.reading import read_experiment
from decentral.report.results import grouped

SHOWN = ("round", "flops", "critical_flops", "simulated_s", "wall_s")


def crossing(run, column, cutoff):
    """Column -> value where ``column`` first passes the cut-off; None if it never does."""
    y = run.columns[column]
    sign = -1 if column.endswith("accuracy") else 1
    for i, j in pairwise(range(len(y))):
        if sign * y[i] > sign * cutoff >= sign * y[j]:
            share = (y[i] - cutoff) / (y[i] - y[j])
            return {
                name: run.columns[name][i] * (1 - share) + run.columns[name][j] * share
                for name in columns_of(run)
            }
    return None


def columns_of(run):
    """Those that the run has: one of the two clocks."""
    return [name for name in SHOWN if name in run.columns]


def spread(values):
    """Mean and sample standard deviation as text; a dash for none."""
    if not values:
        return "–"
    more = f" +- {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{more}"


def main(folder, cutoff, column="train_loss"):
    """Print the table."""
    experiment = read_experiment(Path(folder))
    table = Table(title=f"{experiment.name}: {column} passes {cutoff}", title_justify="left")
    known = {name for run in experiment.runs for name in columns_of(run)}
    shown = [name for name in SHOWN if name in known]
    for name in (*experiment.swept, "seeds", *shown):
        table.add_column(name)
    for values, runs in grouped(experiment.runs, experiment.swept).items():
        found = [at for run in runs if (at := crossing(run, column, float(cutoff)))]
        cells = [spread([at[name] for at in found if name in at]) if found else "never" for name in shown]
        table.add_row(*map(str, values), f"{len(found)} of {len(runs)}", *cells)
    Console().print(table)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
