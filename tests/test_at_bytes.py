"""The tables at a budget of bytes in experiments/README.md: interpolation in bytes, and the best of a swept field."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from ranks import ROOT

from decentral.report.results import Run

_spec = importlib.util.spec_from_file_location("at_bytes", ROOT / "experiments" / "at_bytes.py")
at_bytes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(at_bytes)


def run(bytes_a_round, biases, accuracies=(0.1, 0.2, 0.3), status="finished", **fields):
    rounds = np.array([0.0, 10.0, 20.0])
    columns = {
        "round": rounds,
        "bytes_sent_mean": rounds * bytes_a_round,
        "bias_sq": np.array(biases),
        "test_accuracy": np.array(accuracies),
    }
    return Run("", status, "", 0, fields, {}, columns, {}, {})


def test_a_column_is_interpolated_in_bytes_and_never_beyond_what_was_sent():
    cheap, dear = run(1.0, [4.0, 2.0, 1.0]), run(4.0, [4.0, 2.0, 1.0])
    assert at_bytes.at_bytes(cheap, "bias_sq", 15.0) == pytest.approx((1.5, 15.0))
    assert at_bytes.at_bytes(dear, "bias_sq", 15.0) == pytest.approx((4 - 2 * 15 / 40, 3.75))
    assert at_bytes.at_bytes(cheap, "bias_sq", 20.0) == (1.0, 20.0)
    assert at_bytes.at_bytes(cheap, "bias_sq", 20.1) is None
    assert at_bytes.at_bytes(run(1.0, [4.0, 2.0, 1.0], status="diverged"), "bias_sq", 5.0) is None


def test_the_best_of_a_field_is_lowest_or_an_accuracy_highest_and_has_all_its_seeds():
    runs = (
        run(1.0, [4.0, 2.0, 2.0], [0.1, 0.5, 0.5], graph="ring", lr=0.1),
        run(1.0, [4.0, 3.0, 3.0], [0.1, 0.6, 0.6], graph="ring", lr=0.2),
        run(1.0, [4.0, 3.0, 3.0], [0.1, 0.6, 0.6], graph="ring", lr=0.2),
        run(1.0, [4.0, 0.0, 0.0], graph="ring", lr=0.4),
        run(1.0, [9.0, 9.0, 9.0], status="diverged", graph="ring", lr=0.4),
        run(1.0, [4.0, 1.0, 1.0], status="diverged", graph="star", lr=0.1),
    )
    experiment = SimpleNamespace(swept=("graph", "lr"), runs=runs)

    def found(column, field):
        return [
            (values, len(there), n) for values, there, n in at_bytes.rows(experiment, column, 15.0, field)
        ]

    assert found("bias_sq", "lr") == [(("ring", 0.1), 1, 1), (("star", 0.1), 0, 1)]
    assert found("test_accuracy", "lr") == [(("ring", 0.2), 2, 2), (("star", 0.1), 0, 1)]
    assert [n for _, _, n in found("bias_sq", "")] == [1, 2, 2, 1]
    (_, there, _), _ = at_bytes.rows(experiment, "test_accuracy", 15.0, "lr")
    assert there == [pytest.approx((0.6, 15.0))] * 2
