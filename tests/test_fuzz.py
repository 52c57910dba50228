"""Some broken inputs: each is answered in time, in one line, and nothing is written (`make fuzz` tries thousands)."""

import pytest
from fuzz import forks
from fuzz.cases import KINDS, Case, try_one
from fuzz.judge import fault_of

NUMBERS = {"toml": range(1, 25), "graphs": range(7, 31), "data": range(9), "kept": range(9)}
"""Cases of each kind, most of which end before a run begins."""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    forks.import_everything()


@pytest.mark.slow
@pytest.mark.parametrize("kind", NUMBERS)
def test_a_broken_file_is_refused_in_a_line_or_runs(kind, tmp_path):
    faults, codes = [], []
    for number in NUMBERS[kind]:
        folder = tmp_path / str(number)
        folder.mkdir()
        _, answer, fault = try_one(kind, 0, number, folder, drawn=False, limit_s=90)  # on a busy machine too
        faults += [f"{kind} {number}: {fault}"] if fault else []
        codes.append(answer.code)
    assert not faults
    assert codes.count(2) > len(NUMBERS[kind]) // 3


def test_a_case_is_a_function_of_its_seed_and_number():
    import random

    for kind in sorted(KINDS):
        if kind != "kept":  # which has to make its runs first
            one, again = (KINDS[kind](random.Random(f"7 {kind} 3")) for _ in range(2))
            assert one == again
            assert one != KINDS[kind](random.Random(f"7 {kind} 4"))


def test_the_judge_sees_what_is_wrong(tmp_path):
    def judged(code, err, after=("x.toml",), **more):
        return fault_of(forks.Answer(code, "", err, 1.0), {"x.toml"}, set(after), **more)

    assert not judged(0, "")
    assert not judged(2, "decentral: x\n")
    assert not judged(3, "run 1 of 1: seed 0: diverged\ndiverged: x\n", ["x.toml", "out/results.csv"])
    assert "signal 11" in judged(-11, "")
    assert "in time" in judged(None, "")
    assert not judged(None, "", ["x.toml", "out/runs/a/environment.json"])
    assert "traceback" in judged(1, "Traceback (most recent call last):\nKeyError: 3\n")
    assert "exit code 1" in judged(1, "decentral: x\n")
    assert "2 lines" in judged(2, "decentral: x\nmore\n")
    assert "300 characters" in judged(2, "x" * 300)
    assert "warning" in judged(0, "a.py:3: RuntimeWarning: overflow\n")
    assert "wrote ['out']" in judged(2, "decentral: x\n", ["x.toml", "out"])
    assert not judged(2, "run 1 of 2: x\ndecentral: x\n", ["x.toml", "out"], resumes=True)


def test_an_answer_is_taken_and_a_silent_command_is_ended(tmp_path):
    said = forks.ask(["run", "nowhere.toml"], tmp_path)
    assert said.code == 2
    assert said.err.startswith("decentral: nowhere.toml does not exist")
    (tmp_path / "x.toml").write_text("a = 1\n")
    assert forks.ask(["run", "x.toml"], tmp_path, limit_s=0.0).code is None
    assert Case(["list"], {"a/b.txt": b"1"}).write(tmp_path) is None
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"1"
