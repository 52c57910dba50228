"""Ranks that die: a sample of the cases of deaths_on_ranks.py, and ranks that run something else."""

import subprocess

import pytest
from command import write
from deaths_on_ranks import Case, cases, die
from ranks import environment, mpirun, servers

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(
    "case",
    [
        Case("rounds", "later", "os._exit(0)", 1),
        Case("asynchronous", "first", "sys.exit(0)", 1),
        Case("nodes", "later", "KeyboardInterrupt", 0),
        Case("stages", "prepare", "OverflowError", 1),
        Case("script", "later", "SIGKILL", 1),
        Case("script", "later", "averages alone", 1),
    ],
    ids=lambda case: f"{case.kind}, {case.way}",
)
def test_a_rank_that_dies_ends_all_soon_and_a_line_names_it(tmp_path, case):
    ended = die(case, tmp_path)
    assert ended.is_good(case), ended


def test_the_cases_of_a_seed_are_always_the_same_and_of_all_kinds():
    drawn = cases(60, 0)
    assert drawn == cases(60, 0) != cases(60, 1)
    assert len(set(drawn)) == 60
    assert len({case.kind for case in drawn}) == 5


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (("-m", "decentral", "run", "y.toml"), "rank 1 was started with 'run y.toml', rank 0 was"),
        ((), "rank 1 has ended before MPI began"),
    ],
)
def test_ranks_that_run_something_else_are_told_so(tmp_path, other, said):
    write(tmp_path / "x.toml")
    write(tmp_path / "y.toml")
    python = servers().command(2)
    one = ["-n", "1", *python, "-m", "decentral", "run", "x.toml"]
    done = subprocess.run(
        [*mpirun(), *one, ":", "-n", "1", *((*python, *other) if other else ["true"])],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "decentral: " in line]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert not (tmp_path / "results").exists()
