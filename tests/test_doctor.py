"""`decentral doctor` finds what is there, names a remedy for what is not, and outlives broken libraries."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from decentral.commands.doctor import asking, command, devices, machine, mpi
from decentral.commands.doctor.asking import Answer
from decentral.commands.doctor.data_sets import find_data
from decentral.commands.doctor.finding import Finding, State
from decentral.commands.doctor.printing import print_table


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in os.environ:
        if key.startswith(("SLURM_", "OMPI_", "PMI", "PRTE_", "MPI_", "DECENTRAL_", "OMP_")):
            monkeypatch.delenv(key)


def answer(code: int | None, out: str = "", complaint: str = "") -> Answer:
    return Answer(code, out, complaint)


LIBRARY = answer(0, "mpi4py 4.1.2\nOpen MPI 5.0.11\n")


@pytest.mark.mpi
def test_examine_looks_at_every_topic_and_says_what_to_do() -> None:
    findings = {finding.topic: finding for finding in command.examine()}
    assert {"MPI library", "MPI launcher", "torch", "GPUs", "threads", "data", "Slurm"} <= findings.keys()
    assert findings["torch"].state == "ok"
    for finding in findings.values():
        assert finding.remedy or finding.state in ("ok", "note")
        assert "\n" not in finding.text + finding.remedy


def test_two_ranks_that_are_alone_are_broken() -> None:
    lonely = mpi.find_launcher(["/opt/mpirun"], answer(0, "<1>\n<1>\n"), LIBRARY)
    assert lonely.state == "broken"
    assert "each alone" in lonely.text
    assert mpi.find_launcher(["/opt/mpirun"], answer(0, "<2>\n<2>\n"), LIBRARY).state == "ok"
    hung = mpi.find_launcher(["/opt/mpirun"], answer(None, "", "no answer in 12 s"), LIBRARY)
    assert (hung.state, "no answer" in hung.text) == ("broken", True)
    assert mpi.find_launcher([], None, LIBRARY).state == "missing"


@pytest.mark.parametrize(
    ("variables", "state", "words"),
    [
        ("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_LOCAL_RANK=0", "ok", "4 ranks; it tells their"),
        ("TORCHELASTIC_RUN_ID=x WORLD_SIZE=2 RANK=0 MASTER_ADDR=a MASTER_PORT=7", "ok", "2 ranks of .* at tcp://a:7"),
        ("TORCHELASTIC_RUN_ID=x WORLD_SIZE=2 RANK=0", "broken", "no MASTER_ADDR"),
        ("DECENTRAL_TRANSPORT=tcp", "broken", "'tcp' carries no messages"),
        ("WORLD_SIZE=2 RANK=2", "broken", "RANK=2 but WORLD_SIZE=2"),
        ("", "ok", "this process is alone"),
    ],
)  # fmt: skip
def test_who_started_this_process(
    monkeypatch: pytest.MonkeyPatch, variables: str, state: str, words: str
) -> None:
    for pair in variables.split():
        monkeypatch.setenv(*pair.split("="))
    found = mpi.find_start()
    assert found.state == state
    assert re.search(words, found.text)
    assert bool(found.remedy) == (state == "broken")


def test_an_absent_mpi_is_missing_and_one_that_does_not_load_is_broken() -> None:
    assert mpi.find_library(LIBRARY) == Finding("MPI library", "ok", "Open MPI 5.0.11, mpi4py 4.1.2")
    absent = mpi.find_library(answer(1, "", "ModuleNotFoundError: No module named 'mpi4py'"))
    assert (absent.state, "pip install" in absent.remedy) == ("missing", True)
    unloadable = mpi.find_library(answer(1, "mpi4py 4.1.2\n", "RuntimeError: cannot load MPI library"))
    assert (unloadable.state, "cannot load" in unloadable.text) == ("broken", True)
    assert mpi.find_library(answer(-11, "", "exit code -11")).state == "broken"


@pytest.mark.parametrize(
    ("works", "vouched", "state", "word"),
    [
        (True, True, "ok", ""),
        (True, False, "note", "export DECENTRAL_CUDA_AWARE=1"),
        (False, True, "broken", "unset DECENTRAL_CUDA_AWARE"),
        (False, False, "note", "CUDA-aware MPI"),
    ],
)
def test_cuda_over_mpi_is_judged_by_a_tensor_that_arrives(
    monkeypatch: pytest.MonkeyPatch, works: bool, vouched: bool, state: str, word: str
) -> None:
    if vouched:
        monkeypatch.setenv("DECENTRAL_CUDA_AWARE", "1")
    seen = devices.TorchSeen("2.13.0", "12.8", ["a GPU (80 GiB)"])
    tried = answer(0, "<direct>\n<direct>\n") if works else answer(-11, "", "exit code -11")
    finding = devices.find_cuda_over_mpi(seen, tried)
    assert finding.state == state
    assert word in finding.remedy


def test_data_sets_below_the_root_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_data().state == "note"
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path / "absent"))
    assert find_data().state == "broken"
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    assert find_data().state == "missing"
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-images-idx3-ubyte.gz").touch()
    (tmp_path / "w8a").touch()
    finding = find_data()
    assert finding.state == "ok"
    assert "digits, mnist, w8a in" in finding.text
    assert "not cifar10, a9a" in finding.text


def test_threads_are_judged_for_one_process_and_for_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_allowed_cores", lambda: 4)
    assert machine.find_threads().state == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "idle" in machine.find_threads().text
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert machine.find_threads().state == "ok"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "mpi_launch.sh" in machine.find_threads().remedy


def test_a_program_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 0.2)
    started = time.monotonic()
    assert asking.ask([shutil.which("sh") or "sh", "-c", "trap '' TERM; sleep 30; true"]).code is None
    assert time.monotonic() - started < 10


def test_a_program_that_is_absent_or_fails_leaves_its_complaint() -> None:
    assert "no-such-program" in asking.ask(["no-such-program"]).complaint
    failed = asking.ask(["sh", "-c", "echo the reason >&2; echo ------ >&2; exit 3"])
    assert (failed.code, failed.complaint) == (3, "the reason")


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("note", 0), ("missing", 0), ("broken", 1)])
def test_only_what_is_broken_gives_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: State, status: int
) -> None:
    finding = Finding("a topic", state, "a [text]", "a remedy")
    monkeypatch.setattr(command, "examine", lambda: [finding])
    assert command.report(json=False) == status
    printed = capsys.readouterr().out
    assert f"{state:8}a topic: a [text]" in printed
    assert "-> a remedy" in printed
    assert command.report(json=True) == status
    assert json.loads(capsys.readouterr().out) == [
        {"topic": "a topic", "state": state, "text": "a [text]", "remedy": "a remedy"}
    ]


def test_the_table_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table([Finding("MPI library", "broken", "a [text] " * 20, "/a/long/path" * 12)])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "[text]" in printed


def test_ranks_above_0_print_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert command.report(json=False) == 0
    assert capsys.readouterr().out == ""
