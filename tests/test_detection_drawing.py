"""The figure of false rejects against false alarms, and the sign test over seeds."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from ranks import ROOT

from decentral.errors import UserError
from decentral.report.detection import detection, read_curve
from decentral.report.results import Run

_spec = importlib.util.spec_from_file_location("sign_test", ROOT / "experiments" / "sign_test.py")
sign_test = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sign_test)


def experiment(folder, *runs):
    return SimpleNamespace(
        folder=folder,
        name="x",
        runs=runs,
        seeds=sorted({run.seed for run in runs}),
        swept=("problem.objective",),
    )


def run(number, objective, seed, missed, status="finished"):
    columns = {"false_reject_rate": np.array([1.0, missed]), "test_accuracy": np.array([0.0, missed])}
    return Run(f"r{number}", status, "", seed, {"problem.objective": objective}, {}, columns, {}, {})


def test_curves_are_drawn_as_they_stand_in_the_files(tmp_path):
    runs = [run(k, objective, k % 2, 0.1) for k, objective in enumerate(["one", "one", "two"])]
    assert detection(experiment(tmp_path, *runs)) is None
    for k in range(3):
        (tmp_path / "runs" / f"r{k}").mkdir(parents=True)
        text = f"false_alarms_per_hour,false_reject_rate\n0.0,0.{9 - k}\n20.0,0.25\n60.0,0.0\n"
        (tmp_path / "runs" / f"r{k}" / "detection.csv").write_text(text)
    figure = detection(experiment(tmp_path, *runs))
    lines = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [[0.9, 0.25, 0], [0.8, 0.25, 0], [0.7, 0.25, 0]]
    assert {tuple(line.get_xdata()) for line in lines} == {(0, 20, 60)}
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "objective one",
        "objective two",
    ]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()


def test_a_damaged_curve_is_told_of(tmp_path):
    path = tmp_path / "detection.csv"
    path.write_text("false_alarms_per_hour,false_reject_rate\n0.0,many\n")
    with pytest.raises(UserError, match=r"detection\.csv"):
        read_curve(path)


def test_pairs_of_a_seed_are_told_apart_by_their_signs(tmp_path):
    runs = [run(0, "a", s, 0.5) for s in range(6)] + [
        run(1, "b", s, [0.1, 0.2, 0.5, 0.9, 0.1, 0.1][s]) for s in range(6)
    ]
    runs.append(run(2, "b", 7, 0.1, status="diverged"))
    values, found = sign_test.pairs(experiment(tmp_path, *runs), "false_reject_rate", "problem.objective")
    assert values == ["a", "b"]
    assert [seed for seed, *_ in found] == list(range(6))
    one, other, p = sign_test.sign_test(found, higher=False)
    assert (one, other) == (1, 4)  # and a tie
    assert p == pytest.approx(2 * (1 + 5) / 2**5)
    assert sign_test.sign_test(found, higher=True)[:2] == (4, 1)
    assert sign_test.sign_test([(0, 1.0, 1.0)], higher=False) == (0, 0, 1.0)
    with pytest.raises(SystemExit, match="has 1 values"):
        sign_test.pairs(experiment(tmp_path, *runs[:3]), "false_reject_rate", "problem.objective")
