"""The command line in this process, which saves the two seconds of importing torch; and small experiments for it."""

import contextlib
import csv
import io
import sys
from dataclasses import dataclass

import tomli_w

QUADRATIC = {
    "name": "small",
    "problem": {"name": "quadratic", "dimension": 3},
    "topology": {"name": "ring", "workers": 4},
    "algorithm": {"name": "dsgd"},
    "train": {"lr": 0.1, "rounds": 6, "dtype": "float64", "record_every": 1},
}


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def decentral(*args):
    """``decentral args``, as the shell would see it."""
    from decentral.cli import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv, code = ["decentral", *map(str, args)], 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return Said(code, out.getvalue(), err.getvalue())


def experiment(**changes):
    """The small experiment with other sections: a table with a name replaces one, a table without is merged in."""
    table = dict(QUADRATIC)
    for key, value in changes.items():
        merged = isinstance(value, dict) and "name" not in value and key in table
        table[key] = {**table[key], **value} if merged else value
    return table


def write(path, **changes):
    """The small experiment, changed, as a TOML file."""
    path.write_text(tomli_w.dumps(experiment(**changes)), encoding="utf-8")
    return path


def metrics(folder):
    """Run id -> the rows of its metrics.csv, as text."""
    found = {path.parent.name: read_csv(path) for path in sorted((folder / "runs").glob("*/metrics.csv"))}
    assert found
    return found


def read_csv(path):
    """The rows of a CSV file, as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def but_wall_time(rows):
    """The rows without the columns of the machine's own clock."""
    from decentral.report.columns import WALL_CLOCK_COLUMNS

    return [{k: v for k, v in row.items() if k not in WALL_CLOCK_COLUMNS} for row in rows]
