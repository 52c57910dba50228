"""Integers of all runs of a folder: the bits that they need, and whether they classify as the networks do.

    python experiments/quantise_bits.py DIR

Runs of "quantised-cnn" are turned into integers and compared on all test images. A column of three numbers has one a
layer, the largest over the seeds: n as the exact search finds it for the sums of the layer's own weights, and for those
of any weights (by fan-in); n with which rounding a 2^n and (b + 1/2) 2^n to the nearest integers is exact at all sums;
and the bits of A x + B. Accuracy is that of the integers, mean and sample standard deviation over the seeds.
"""

import itertools
import statistics
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from decentral.commands.quantise import trained
from decentral.problems.models.quantised_cnn import QuantisedBlock
from decentral.quantised.conversion import affine_of_sums, converted, first_difference, fixed_map
from decentral.report.reading import read_experiment
from decentral.report.results import grouped


def rounded_bits(block, reach):
    """The least n with which it is exact to round each number by itself."""
    x, most = np.arange(-reach, reach + 1), (1 << block.bits) - 1
    maps = list(zip(*affine_of_sums(block), strict=True))
    fixed = fixed_map(block, reach)
    wanted = [
        np.clip((a * x + b) >> fixed.bits, 0, most) for a, b in zip(fixed.scale, fixed.shift, strict=True)
    ]

    def exact(n):
        pairs = ((round(a * 2**n), round((b + Fraction(1, 2)) * 2**n)) for a, b in maps)
        return all(
            np.array_equal(np.clip((a * x + b) >> n, 0, most), y)
            for (a, b), y in zip(pairs, wanted, strict=True)
        )

    return next(n for n in itertools.count() if exact(n))


def of_run(home):
    """Accuracy of the integers, and four numbers a layer."""
    module, dataset = trained(home)
    network, images = converted(module), dataset.test_x.to(next(module.parameters()).dtype)
    if differs := first_difference(module, network, images):
        sys.exit(f"{home}: they differ in {differs}")
    right = network(images.numpy()).argmax(1) == dataset.test_y.numpy()
    blocks = [part for part in module.modules() if isinstance(part, QuantisedBlock)]
    layers = [
        (layer.bits, fixed_map(block, layer.fan_in_reach).bits, rounded_bits(block, layer.reach), layer.width)
        for block, layer in zip(blocks, network.layers, strict=True)
    ]
    return float(right.mean()), layers


def main(folder):
    """Print the table."""
    experiment = read_experiment(Path(folder))
    table = Table(title=f"{experiment.name}: integers", title_justify="left")
    for name in (
        *experiment.swept,
        "runs",
        "accuracy",
        "n",
        "n by fan-in",
        "n by rounding",
        "bits of A x + B",
    ):
        table.add_column(name)
    for values, runs in grouped(experiment.runs, experiment.swept).items():
        homes = [Path(folder, "runs", run.id) for run in runs]
        found = [of_run(home) for home in homes if (home / "model.pt").exists()]
        if not found:
            continue
        accuracy = [right for right, _ in found]
        spread = f" +- {statistics.stdev(accuracy):.4f}" if accuracy[1:] else ""
        bits = np.max([layers for _, layers in found], axis=0).T
        cells = [" ".join(map(str, row)) for row in bits.tolist()]
        names = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(*names, str(len(found)), f"{statistics.mean(accuracy):.4f}{spread}", *cells)
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
