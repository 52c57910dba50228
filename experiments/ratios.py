"""What the trust ratios of an experiment's runs were: the numbers of experiments/README.md.

    python experiments/ratios.py DIR

A row for each layer and setting, over all seeds and measured rounds. Of the mean of the workers: at first, least and
largest of a run (medians of the seeds), median of the last quarter of the rounds, and the share of rounds, and of those
of the last quarter, in which it is 1. Of single workers: the largest, and the largest over the least of a round,
median and largest. ``apart``: the largest layer's mean over the smallest's in a round, median and largest.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from decentral.report.columns import group_label
from decentral.report.figure_spec import telling_fields
from decentral.report.reading import read_experiment
from decentral.report.results import grouped
from decentral.report.trust_ratios import read_trust_ratios

SHOWN = (
    *("first", "least", "largest", "last quarter", "at 1", "in it"),
    *("worker's", "max/min", "at most", "apart", "at most"),
)


def numbers(runs):
    """A row of SHOWN for each layer of ``runs``, layer -> (rounds, mean, least, largest), alike in their rounds."""
    of_layers = {layer: np.stack([run[layer] for run in runs], 1) for layer in runs[0]}
    means = np.stack([mean for _, mean, _, _ in of_layers.values()])
    apart = means.max(0) / means.min(0)
    rows = {}
    for layer, (rounds, mean, least, largest) in of_layers.items():
        last, range_ = mean[:, -(rounds.shape[1] // 4) :], largest / least
        rows[layer] = (
            *(np.median(mean[:, 0]), np.median(mean.min(1)), np.median(mean.max(1)), np.median(last)),
            *((mean == 1).mean(), (last == 1).mean()),
            *(largest.max(), np.median(range_), range_.max(), np.median(apart), apart.max()),
        )
    return rows


def main(folder):
    """Print the table."""
    experiment = read_experiment(Path(folder))
    names = telling_fields(experiment, experiment.swept)
    table = Table(title=experiment.name, title_justify="left")
    for name in ("", "layer", *SHOWN):
        table.add_column(name)
    for values, runs in grouped(experiment.runs, names).items():
        files = [experiment.folder / "runs" / run.id / "trust_ratios.csv" for run in runs if run.finished]
        found = [ratios for file in files if (ratios := read_trust_ratios(file))]
        for layer, row in numbers(found).items() if found else ():
            table.add_row(group_label(names, values), layer, *(f"{number:.3g}" for number in row))
    Console(width=200).print(table)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
