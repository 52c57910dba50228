"""Whole experiments in every world, and runs that begin in one and go on in another: the same bits and bytes."""

import numpy as np
from command import decentral, metrics
from ranks import decentral as launch
from ranks import run_ranks
from test_resume import die

OWN_CLOCK = {"wall_s", "mpi_bytes_sent"}

_ALL = """
import sys
from pathlib import Path
import decentral.runs.run as command
command._show = lambda folder: None
home, out = map(Path, sys.argv[1:])
for file in sorted(home.glob("*.toml")):
    code = command.run(file, (), out / file.stem, False)
    assert code == 0, (file, code)
"""


def run_all_everywhere(home, texts, worlds=(1, 2, 4)):
    """``texts``: name -> a file. Each is run into home/out{ranks}/name; ranks are started once a world."""
    for name, text in texts.items():
        (home / f"{name}.toml").write_text(text)
    for ranks in worlds:
        done = run_ranks(ranks, "-c", _ALL, home, home / f"out{ranks}", cwd=home)
        assert done.returncode == 0, done.stderr
    return home


def run_everywhere(home, text, worlds=(1, 2, 4)):
    """The metrics of one experiment in each world."""
    run_all_everywhere(home, {"x": text}, worlds)
    return [metrics(home / f"out{ranks}" / "x") for ranks in worlds]


def run_and_go_on(home, text, dying):
    """The folder of an experiment run here, and that of one which died here after two rows and went on on two ranks."""
    (home / "x.toml").write_text(text)
    assert decentral("run", home / "x.toml", "--out", home / "whole").code == 0
    die(dying, 2, home / "x.toml", "--out", home / "out")
    done = launch("run", home / "x.toml", "--out", home / "out", "--resume", ranks=2, drawn=False)
    assert done.returncode == 0, done.stderr
    return home / "whole", home / "out"


def compare(one, other, tolerance):
    """Equal metrics: all columns but the machine's own, or, with a tolerance, only counts to the digit."""
    assert one.keys() == other.keys()
    for run in one:
        assert len(one[run]) == len(other[run])
        for a, b in zip(one[run], other[run], strict=True):
            assert a.keys() == b.keys()
            for key in a.keys() - OWN_CLOCK:
                exact = tolerance == 0 or key in ("round", "bytes_sent_mean", "bytes_sent_max", "messages")
                if exact:
                    assert a[key] == b[key], (run, key)
                else:
                    np.testing.assert_allclose(float(a[key]), float(b[key]), rtol=tolerance, atol=1e-30)
