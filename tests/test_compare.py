"""The tables of final values: digits that the spread warrants, the best mean marked, within the width."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_experiment import TITLES, Made, build, small

from decentral.errors import UserError
from decentral.report.reading import read_experiment
from decentral.report.statistics import Spread
from decentral.report.summary import compare, measured, metrics_of, summarise, summary_table


def printed(folder: Path, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(summary_table(read_experiment(folder, TITLES), width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("spread", "unit", "text"),
    [
        (Spread(3, 0.91234, 0.0042), "", "0.912 ± 0.004"),
        (Spread(3, 0.91234, 0.0014), "", "0.9123 ± 0.0014"),
        (Spread(3, 1.234e-5, 4e-7), "", "(1.23 ± 0.04)e-05"),
        (Spread(3, 123.4, 25.0), "", "123 ± 25"),
        (Spread(3, 0.5, 0.0), "", "0.5 ± 0"),
        (Spread(3, 22400.0, 0.0), "", "22400"),
        (Spread(3, 0.5, 1e-12), "", "0.5 ± 1e-12"),
        (Spread(1, 0.123456, math.nan), "", "0.1235"),
        (Spread(3, math.inf, math.nan), "", "inf"),
        (Spread(0, math.nan, math.nan), "", "–"),
        (Spread(3, 2.8e9, 0.0), "B", "2.8 GB"),
        (Spread(3, 1500.0, 100.0), "B", "1.50 ± 0.10 kB"),
        (Spread(3, 0.0, 0.0), "B", "0 B"),
    ],
)
def test_a_number_has_the_digits_that_its_spread_warrants(spread: Spread, unit: str, text: str) -> None:
    assert measured(spread, unit) == text


def test_the_summary_holds_the_mean_and_deviation_over_the_seeds(tmp_path: Path) -> None:
    summary = summarise(read_experiment(small(tmp_path / "e"), TITLES), ["train_loss", "test_accuracy"])
    assert summary.fields == ("algorithm.name",)
    assert [(row.labels, row.seeds) for row in summary.rows] == [(("PmSGD",), "3"), (("DecentLaM",), "3")]
    assert summary.rows[0].values[0] == Spread(3, 2.0, 1.0)
    assert summary.rows[1].values[0] == Spread(3, 1.0, 0.5)


def test_the_best_mean_is_the_lowest_loss_and_ties_are_not_marked(tmp_path: Path) -> None:
    summary = summarise(
        read_experiment(small(tmp_path / "e")), ["train_loss", "test_accuracy", "bytes_sent_mean"]
    )
    assert [row.best for row in summary.rows] == [(False, False, False), (True, False, False)]


def test_the_best_accuracy_is_the_highest(tmp_path: Path) -> None:
    runs = [Made({"train.lr": a}, 0, {"round": [0], "test_accuracy": [a]}) for a in (0.5, 0.9)]
    summary = summarise(read_experiment(build(tmp_path / "e", runs)), ["test_accuracy"])
    assert [row.best for row in summary.rows] == [(False,), (True,)]


def test_a_column_that_repeats_another_is_left_out(tmp_path: Path) -> None:
    columns = {"round": [9], "bytes_sent_mean": [8.0], "bytes_sent_max": [8.0], "train_loss": [1.0]}
    experiment = read_experiment(build(tmp_path / "e", [Made({"train.lr": 0.1}, 0, columns)]))
    assert metrics_of(experiment) == ("bytes_sent_mean", "train_loss")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_fits_its_width_whole(tmp_path: Path, width: int) -> None:
    rows = printed(small(tmp_path / "e"), width)
    assert max(map(len, rows)) <= width
    assert not any("…" in row for row in rows)
    assert any("PmSGD" in row and "0.910 ± 0.010" in row for row in rows)


def test_the_best_is_marked_with_a_star_and_the_mark_is_explained(tmp_path: Path) -> None:
    text = printed(small(tmp_path / "e"), 100)
    assert any("DecentLaM" in row and "* 1.0 ± 0.5" in row for row in text)
    assert any("* best mean" in row for row in text)


def test_a_diverged_run_is_shown_with_its_message(tmp_path: Path) -> None:
    columns = {"round": [0], "train_loss": [1.0]}
    runs = [
        Made({"train.lr": 0.1}, 0, columns),
        Made({"train.lr": 9.0}, 0, columns, status="diverged", message="loss [inf] at round 1"),
    ]
    text = printed(build(tmp_path / "e", runs))
    assert any(row.split() == ["9", "0", "of", "1", "diverged"] for row in text)
    assert "9.0-seed0 diverged: loss [inf] at round 1" in " ".join(text)


def test_compare_prints_all_experiments_within_100_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare([small(tmp_path / "a", 'name = "first"'), small(tmp_path / "b", 'name = "second"')])
    rows = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) <= 100
    for name in ("first", "second"):
        assert sum(row.strip().startswith(f"{name} ") and "±" in row for row in rows) == 2


def test_compare_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="name at least one"):
        compare([])
