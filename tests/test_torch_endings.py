"""Ranks of torch.distributed that die, differ or never come: all end soon, with a line that says why."""

import pytest
from command import write
from deaths_on_ranks import Case, die
from torch_ranks import ended, run_torch, started

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(
    "case",
    [
        Case("rounds", "later", "SIGKILL", 1, 4),
        Case("rounds", "later", "ZeroDivisionError", 1, 4),
        Case("nodes", "later", "os._exit(0)", 1),
        Case("script", "later", "OverflowError", 1),
        Case("script", "later", "averages alone", 1),
    ],
    ids=lambda case: f"{case.kind}, {case.way}",
)
def test_a_rank_that_dies_ends_all_soon_and_a_line_names_it(tmp_path, case):
    """No launcher ends the others here, as torchrun would."""
    found = die(case, tmp_path, run_torch)
    assert found.is_good(case), found


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (("-m", "decentral", "run", "y.toml"), "rank 1 was started with 'run y.toml', rank 0 was"),
        (("-c", "pass"), "rank 1 has ended before its ranks met"),
    ],
)
def test_ranks_that_run_something_else_are_told_so(tmp_path, other, said):
    write(tmp_path / "x.toml")
    write(tmp_path / "y.toml")
    with started([("-m", "decentral", "run", "x.toml"), other], cwd=tmp_path) as begun:
        done = ended(*begun, timeout=60)
    assert done.codes[0] != 0
    lines = [line for line in done.stderr.splitlines() if "decentral: " in line]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert not (tmp_path / "results").exists()


def test_a_mistake_is_one_line_and_exit_code_2_on_all(tmp_path):
    write(tmp_path / "x.toml", topology={"workers": 5})
    done = run_torch(2, "-m", "decentral", "run", "x.toml", cwd=tmp_path)
    assert done.codes == [2, 2]
    assert done.stderr.count("\n") == 1
    assert "topology has 5 workers but" in done.stderr
    assert not (tmp_path / "results").exists()
