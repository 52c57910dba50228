"""Reading an experiment's folder: what was written is what is read; a mean is over seeds that finished."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_experiment import Made, build, small

from decentral.errors import UserError
from decentral.report.columns import value_label
from decentral.report.csv_files import parse_value
from decentral.report.reading import read_experiment
from decentral.report.results import grouped, merge
from decentral.report.statistics import band, final_values, mean_curve, spread


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    experiment = read_experiment(small(tmp_path / "e", 'name = "two"\nquestion = "Which?"\n'))
    assert (experiment.name, experiment.question) == ("two", "Which?")
    assert experiment.command == "decentral run x.toml"
    assert experiment.swept == ("algorithm.name",)
    assert experiment.metrics[:2] == ("round", "bytes_sent_mean")
    assert experiment.seeds == (0, 1, 2)
    first = experiment.runs[0]
    assert (first.id, first.status, first.seed) == ("pmsgd-seed0", "finished", 0)
    assert first.columns["train_loss"].tolist() == [9.0, 2.0, 1.0]
    assert first.final["train_loss"] == 1.0
    assert first.environment["versions"]["torch"] == "2.9.0"
    assert first.field("topology.workers") == 4.0
    assert first.field("topology.nothing") is None


def test_numbers_are_parsed_and_names_stay_names() -> None:
    assert [parse_value(t) for t in ("0.1", "8", "1e-3", "ring", "true", "nan", "")] == [
        0.1, 8.0, 1e-3, "ring", "true", "nan", "",
    ]  # fmt: skip


def test_runs_are_grouped_by_all_swept_fields_but_the_seed(tmp_path: Path) -> None:
    experiment = read_experiment(small(tmp_path / "e"))
    groups = grouped(experiment.runs, experiment.swept)
    assert {g: [run.seed for run in runs] for g, runs in groups.items()} == {
        ("pmsgd",): [0, 1, 2],
        ("decentlam",): [0, 1, 2],
    }


def test_the_spread_is_the_sample_deviation_and_the_interval_is_students() -> None:
    three = spread([1.0, 2.0, 6.0])
    assert three.mean == pytest.approx(3.0)
    assert three.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    # t(0.975) with 2 degrees of freedom is 4.302652729911275 (a table's value).
    assert three.half_width == pytest.approx(4.302652729911275 * three.std / math.sqrt(3))
    assert math.isnan(spread([1.0]).std)
    assert math.isnan(spread([1.0]).half_width)
    assert spread([math.nan]).n == 0


def test_a_curve_is_the_mean_over_the_rounds_that_all_seeds_recorded(tmp_path: Path) -> None:
    runs = [
        Made({"train.lr": 0.1}, 0, {"round": [0, 10, 20], "train_loss": [4.0, 2.0, 1.0]}),
        Made({"train.lr": 0.1}, 1, {"round": [0, 20], "train_loss": [8.0, 3.0]}),
    ]
    curve = mean_curve(read_experiment(build(tmp_path / "e", runs)).runs, "round", "train_loss")
    assert curve.x.tolist() == [0.0, 20.0]
    assert curve.y.tolist() == [6.0, 2.0]
    deviation = np.array([math.sqrt(8.0), math.sqrt(2.0)])
    np.testing.assert_allclose(curve.high - curve.y, deviation, rtol=1e-14)
    np.testing.assert_allclose(curve.y - curve.low, deviation, rtol=1e-14)


def test_a_band_on_a_logarithmic_axis_is_one_of_ratios_and_stays_positive() -> None:
    samples = np.array([[1e-6], [1e-2]])
    low, high = band(samples, log=True)
    ratio = math.exp(math.log(1e4) / math.sqrt(2))
    mean = samples.mean()
    np.testing.assert_allclose([low[0], high[0]], [mean / ratio, mean * ratio], rtol=1e-12)
    assert low[0] > 0 > band(samples, log=False)[0][0]


def test_a_run_that_diverged_enters_no_mean(tmp_path: Path) -> None:
    columns = {"round": [0, 1], "train_loss": [4.0, 2.0]}
    lost = {"round": [0, 1], "train_loss": [4.0, 1e30]}
    runs = [
        Made({"train.lr": 0.1}, 0, columns),
        Made({"train.lr": 0.1}, 1, lost, status="diverged", message="loss is not finite"),
    ]
    experiment = read_experiment(build(tmp_path / "e", runs))
    assert final_values(experiment.runs, "train_loss").tolist() == [2.0]


def test_several_experiments_merge_with_the_fields_that_differ(tmp_path: Path) -> None:
    config = {"topology": {"name": "star"}}
    columns = {"round": [0], "train_loss": [1.0]}
    swept = [Made({"topology.name": t}, 0, columns) for t in ("ring", "complete")]
    fixed = [Made({"train.lr": 0.1}, 0, columns, config=config)]
    a, b = build(tmp_path / "a", swept, 'name = "a"'), build(tmp_path / "b", fixed, 'name = "b"')
    merged = merge([read_experiment(a), read_experiment(b)])
    assert merged.swept == ("experiment", "topology.name", "train.lr")
    assert [run.field("topology.name") for run in merged.runs] == ["ring", "complete", "star"]
    assert [run.field("experiment") for run in merged.runs] == ["a", "a", "b"]


def test_experiments_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [small(tmp_path / "a"), small(tmp_path / "b")]
    merged = merge([read_experiment(f) for f in folders])
    assert {run.field("experiment") for run in merged.runs} == {str(f) for f in folders}


def test_unfinished_runs_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path / "e")
    (folder / "runs" / "dmsgd-seed9").mkdir()
    assert read_experiment(folder).unfinished == ("dmsgd-seed9",)
    (folder / "results.csv").unlink()
    with pytest.raises(UserError, match=r"no finished run; unfinished: .*dmsgd-seed9.*--resume"):
        read_experiment(folder)


@pytest.mark.parametrize("broken", ["missing", "empty", "parent", "ragged", "headless", "toml", "no-metrics"])
def test_what_is_no_experiment_is_refused_in_one_line(tmp_path: Path, broken: str) -> None:
    folder = small(tmp_path / "parent" / "e")
    rule = {
        "missing": "is not a folder",
        "empty": "no experiment folder",
        "parent": f"did you mean {folder}",
        "ragged": "row 2 has 1 cells but the header has",
        "headless": "has no column run, status, message, seed",
        "toml": "not valid TOML",
        "no-metrics": "metrics.csv is missing",
    }[broken]
    if broken == "missing":
        folder = tmp_path / "nothing"
    elif broken == "empty":
        folder = tmp_path
    elif broken == "parent":
        folder = tmp_path / "parent"
    elif broken == "ragged":
        (folder / "results.csv").write_text("run,status,message,seed\nx\n")
    elif broken == "headless":
        (folder / "results.csv").write_text("a,b\n1,2\n")
    elif broken == "toml":
        (folder / "experiment.toml").write_text("name = ")
    else:
        (folder / "runs" / "pmsgd-seed0" / "metrics.csv").unlink()
    with pytest.raises(UserError, match=rule) as caught:
        read_experiment(folder)
    assert "\n" not in str(caught.value)


def test_a_title_is_shown_and_the_name_stays_what_it_is(tmp_path: Path) -> None:
    folder = build(
        tmp_path / "e", [Made({"algorithm.name": name}, 0, {"round": [0]}) for name in ("d2", "own")]
    )
    runs = read_experiment(folder, {"d2": "D²"}).runs
    assert [value_label(run.fields["algorithm.name"]) for run in runs] == ["D²", "own"]
    assert list(grouped(runs, ["algorithm.name"])) == [("d2",), ("own",)]
    fixed = Made({"train.lr": 0.1}, 0, {"round": [0]}, config={"algorithm": {"name": "d2"}})
    (run,) = read_experiment(build(tmp_path / "f", [fixed]), {"d2": "D²"}).runs
    assert value_label(run.field("algorithm.name")) == "D²"
