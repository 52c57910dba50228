"""Whether one of two settings is better seed by seed, as a sign test: the verdicts of experiments/README.md.

    python experiments/sign_test.py DIR COLUMN FIELD

FIELD, such as problem.objective, has two values, which make a pair of each seed. Lower is better unless COLUMN is an
accuracy. Printed: the values of each pair, how many pairs each side wins (ties count for neither), and the probability
of as many or more on either side if both were alike (binomial, p = 1/2).
"""

import sys
from pathlib import Path

from scipy.stats import binomtest

from decentral.report.reading import read_experiment


def pairs(experiment, column, field):
    """The two values of ``field``, and (seed, last value with the first, with the second) of each pair."""
    values = list(dict.fromkeys(run.fields[field] for run in experiment.runs))
    if len(values) != 2:
        raise SystemExit(f"{field} has {len(values)} values in {experiment.folder}; a sign test needs 2")
    found = {}
    for run in experiment.runs:
        if run.finished:
            found.setdefault(run.seed, {})[run.fields[field]] = float(run.columns[column][-1])
    return values, [(seed, *map(ends.get, values)) for seed, ends in sorted(found.items()) if len(ends) == 2]


def sign_test(found, higher):
    """(wins of the first, wins of the second, p) of pairs (seed, first, second)."""
    wins = [sum((a > b) == higher and a != b for _, a, b in found)]
    wins.append(sum((b > a) == higher and a != b for _, a, b in found))
    return *wins, binomtest(wins[0], sum(wins)).pvalue if sum(wins) else 1.0


def main():
    """See above."""
    folder, column, field = sys.argv[1:4]
    values, found = pairs(read_experiment(Path(folder)), column, field)
    for seed, one, other in found:
        print(f"seed {seed}: {values[0]} {one:.4g}, {values[1]} {other:.4g}")
    first, second, p = sign_test(found, "accuracy" in column)
    print(f"{values[0]} is better in {first} pairs, {values[1]} in {second}: p = {p:.3g}")


if __name__ == "__main__":
    main()
