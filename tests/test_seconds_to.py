"""When a level is reached: interpolation in time, and levels that are touched but not held."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from ranks import ROOT

_spec = importlib.util.spec_from_file_location("seconds_to", ROOT / "experiments" / "seconds_to.py")
seconds_to = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(seconds_to)


def when(values, level, column="test_accuracy"):
    times = 10.0 * np.arange(len(values))
    run = SimpleNamespace(columns={column: np.array(values), "simulated_s": times})
    return seconds_to.seconds_to(run, column, level, "simulated_s")


def test_times_are_interpolated_between_two_records():
    assert when([0.0, 0.4, 0.8, 0.9, 0.9], 0.5) == pytest.approx(12.5)
    assert when([4.0, 2.0, 1.0, 1.0, 1.0], 3.0, "bias_sq") == pytest.approx(5.0)


def test_a_level_must_be_held_for_three_records_or_to_the_end():
    assert when([0.0, 0.6, 0.4, 0.6, 0.6, 0.4, 0.4, 0.8], 0.5) == pytest.approx(62.5)
    assert when([0.0, 0.6, 0.4, 0.4], 0.5) is None
    assert when([0.7, 0.7, 0.7], 0.5) == 0.0
