"""`make gpu` on a pretended GPU with tiny sizes; what fails or has no time is told, and without a GPU it says so."""

import json
import sys

import pytest

from benchmarks import gpu, gpu_checks, gpu_speed


def called(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["gpu", *args])
    return gpu.main()


def test_without_a_gpu_it_ends_with_a_line(monkeypatch, capsys, tmp_path):
    assert called(monkeypatch, "--out", str(tmp_path / "x.json")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_table_and_the_file_are_made_whatever_fails(monkeypatch, capsys, tmp_path):
    def fails():
        raise RuntimeError("of purpose")

    real = dict(gpu_checks.checks(True, lambda: 1.0))
    chosen = {k: real[k] for k in ("resumed", "chunks", "drop-in", "compiled", "dropout", "method decentlam")}
    monkeypatch.setattr(gpu, "checks", lambda *_: iter({"first": fails, **chosen}.items()))
    code = called(monkeypatch, "--pretend", "--out", str(tmp_path / "x.json"))
    said, whole = capsys.readouterr(), json.loads((tmp_path / "x.json").read_text())
    assert code == 1
    results = {one["check"]: one["result"] for one in whole["checks"]}
    assert results.pop("first") == "failed"
    assert results.pop("compiled") == "not run"
    assert set(results.values()) == {"ok"}, said.err
    assert "failed (RuntimeError: of purpose): first" in said.out
    assert "5 ok, 1 failed, 1 not run" in said.out
    assert max(map(len, said.out.splitlines())) <= 100
    speeds = whole["speeds"]
    assert {(s["model"], s["workers"], s["device"]) for s in speeds} == {
        w[:3] for w in gpu_speed.wanted(True)
    }
    assert all(s["round_s"] > 0 and s["parameters"] > 0 for s in speeds)


def test_what_has_no_time_is_named(monkeypatch, capsys, tmp_path):
    assert called(monkeypatch, "--pretend", "--budget", "0", "--out", str(tmp_path / "x.json")) == 0
    whole = json.loads((tmp_path / "x.json").read_text())
    assert {one["said"] for one in (*whole["checks"], *whole["speeds"])} == {"no time was left"}
    assert "method choco" in capsys.readouterr().out


@pytest.mark.mpi
def test_ranks_that_share_a_pretended_gpu_have_the_bits_of_one_process():
    said = gpu_checks.ranks(True, lambda: 200.0, False)
    assert said == "equal bits of 9 runs, staged"
