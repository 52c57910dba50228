"""Parts learned with the network against parts found in a finished one: the second table of deepfacto in README.md.

    python experiments/nmf_afterwards.py experiments/deepfacto.toml

Trains each run of the table again, factorises the hidden values of 10,000 training samples at the last boundary by
NMF with as many parts, and measures on the test set: the share of a part's first class by use (see
decentral/parts.py), what the parts leave out, and the accuracy with the sums of the parts in the values' place.
"""

import statistics
import sys
from pathlib import Path

import torch

from decentral.runs.experiment import load
from decentral.runs.stages.building import Plan
from decentral.runtime import VirtualClock
from decentral.stages.factorisation import NonNegativeFactorisation, coefficients_of

FACTORS, SWEEPS = 12, 300


def trained(config):
    """The samples, the network below the last boundary, and above it, after the run."""
    plan = Plan(config, torch.device("cpu"))
    stages = plan.stages(config.train.rounds, range(config.stages.count))
    VirtualClock({s.number: config.program.run(s) for s in stages}, lambda *_: 0.0).run()
    below = torch.nn.Sequential(*(layer for s in stages[:-1] for layer in s.layers.values()))
    above = torch.nn.Sequential(*stages[-1].layers.values(), stages[-1].head)
    return plan.samples, below, above, stages[-2].findings.get("parts")


@torch.no_grad()
def measured(z, y, parts, above):
    """Share of a part's first class by use, squared values left out, accuracy on the sums of parts."""
    m = coefficients_of(z, parts, SWEEPS)
    means = torch.stack([m[y == c].mean(0) for c in range(int(y.max()) + 1)], 1)
    share = means.max(1).values.sum() / means.sum()
    left_out = (z - m @ parts).square().sum() / z.square().sum()
    return [float(v) for v in (share, left_out, (above(m @ parts).argmax(1) == y).float().mean())]


def main(path):
    """Print a line for each program and each way to its parts: means and sample standard deviations over seeds."""
    rows = {}
    for run in load(Path(path)).runs:
        samples, below, above, own = trained(run.config)
        (x, _), (test_x, test_y) = samples.train, samples.test
        with torch.no_grad():
            h, z = below(x[:10_000]), below(test_x)
        afterwards = NonNegativeFactorisation(FACTORS)
        afterwards.start(h)
        afterwards.fit(h, SWEEPS)
        name = f"{type(run.config.program).__name__} {getattr(run.config.program, 'factors', '')}"
        for way, parts in (("own parts", own), ("NMF afterwards", afterwards.parts)):
            if parts is not None:
                parts = torch.nn.functional.normalize(parts)
                rows.setdefault((name, way), []).append(measured(z, test_y, parts, above))
    for (name, way), values in rows.items():
        cells = [f"{statistics.mean(v):.3g} +- {statistics.stdev(v):.1g}" for v in zip(*values, strict=True)]
        print(name, way, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
