"""The tables of crossings in experiments/README.md: linear interpolation between two records."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from ranks import ROOT

_spec = importlib.util.spec_from_file_location("crossing", ROOT / "experiments" / "crossing.py")
crossing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(crossing)

RUN = SimpleNamespace(
    columns={
        "round": np.array([10.0, 20.0, 30.0]),
        "train_loss": np.array([2.0, 1.0, 0.5]),
        "train_accuracy": np.array([0.1, 0.5, 0.9]),
        "flops": np.array([100.0, 200.0, 300.0]),
        "critical_flops": np.array([50.0, 100.0, 150.0]),
    }
)


def test_a_mean_of_nothing_is_a_dash():
    assert [crossing.spread(v) for v in ([], [2.0], [1.0, 3.0])] == ["–", "2", "2 +- 1.4"]


def test_a_falling_and_a_rising_column_are_interpolated():
    assert crossing.crossing(RUN, "train_loss", 0.6) == pytest.approx(
        {"round": 28, "flops": 280, "critical_flops": 140}
    )
    assert crossing.crossing(RUN, "train_accuracy", 0.3)["round"] == pytest.approx(15)
    assert crossing.crossing(RUN, "train_loss", 1.0)["round"] == pytest.approx(20)
    assert crossing.crossing(RUN, "train_loss", 0.1) is None
