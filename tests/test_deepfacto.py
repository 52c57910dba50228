"""Block-ADMM's non-negative parts: what a run leaves behind about them, and the figure that is drawn from it."""

import csv

import matplotlib.image
import numpy as np
import pytest
import torch
from command import decentral
from scipy.optimize import nnls
from synthetic_experiment import Made, build
from torch import nn

from decentral.report.html import write_report
from decentral.report.parts import parts, read_parts
from decentral.report.plots import draw_experiment
from decentral.report.reading import read_experiment
from decentral.runtime import VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.factorisation import NonNegativeFactorisation
from decentral.stages.layers import network_of
from decentral.stages.part_statistics import PartStatistics
from decentral.stages.programs.block_admm import BlockADMM
from decentral.stages.stage import Stage

CLASSES = 3


def images(steps, size=30, seed=1):
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.integers(CLASSES, size=(steps, size)))
    x = torch.from_numpy(rng.random((steps, size, 1, 4, 4)))
    for c in range(CLASSES):
        x[y == c, :, c] += 1  # a class is a bright row
    return x, y


def played(program, x, y, lr=0.1, k=2):
    """Stages after a run, and the network."""
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, CLASSES),
    ]
    module = nn.Sequential(*layers).double()
    net = network_of(module)
    spans = cut_evenly(len(net.layers), k)

    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=lr)

    stages = [Stage(i, spans, net, optimizer, lambda t: (x[t], y[t]), len(x)) for i in range(k)]
    VirtualClock({s.index: program.run(s) for s in stages}, lambda stage, kind: 0.0).run()
    return stages, module


def by_scipy(z, s):
    """Coefficients of each sample by the active-set method."""
    return np.array([nnls(s.T, row)[0] for row in z])


def test_coefficients_are_scipys_for_values_of_the_last_tenth_of_the_steps():
    x, y = images(steps=11)  # the last tenth, rounded up: two steps
    stages, module = played(BlockADMM(factors=4, inner=2, sweeps=80), x, y, lr=0.0)
    assert not stages[1].findings
    found = {name: value.numpy() for name, value in stages[0].findings.items()}
    hidden = torch.relu(module[1](x[9:].flatten(2))).detach().numpy()  # frozen parameters
    s = found["parts"]
    assert s.shape == (4, 12)
    assert s.min() >= 0
    np.testing.assert_allclose((s**2).sum(1), 1, rtol=1e-12)
    last = by_scipy(hidden[1], s)
    assert (last == 0).any()  # or plain least squares would do
    np.testing.assert_allclose(found["coefficients"], last, atol=1e-8)
    np.testing.assert_allclose(found["mean_input"], x[9:].flatten(0, 1).mean(0), atol=1e-12)


@pytest.mark.parametrize("setting", ["online", "batch"])
def test_pictures_and_classes_are_means_weighted_by_the_parts(setting):
    x, y = (v.repeat(3, *[1] * (v.dim() - 1)) for v in images(steps=1))
    program = BlockADMM(factors=4, inner=2, sweeps=80, setting=setting)
    stages, module = played(program, x, y, lr=0.0)
    found = {name: value.numpy() for name, value in stages[0].findings.items()}
    z = torch.relu(module[1](x[2].flatten(1))).detach().numpy()  # frozen parameters
    m, inputs, labels = by_scipy(z, found["parts"]), x[2].numpy(), y[2].numpy()
    assert found["pictures"].shape == (4, 1, 4, 4)
    for j in range(4):
        np.testing.assert_allclose(
            found["pictures"][j], np.average(inputs, axis=0, weights=m[:, j]), atol=1e-8
        )
        for c in range(CLASSES):
            assert found["class_coefficients"][j, c] == pytest.approx(m[labels == c, j].mean(), abs=1e-8)
    np.testing.assert_array_equal(found["classes"], range(CLASSES))
    left_out = ((z - m @ found["parts"]) ** 2).sum() / (z**2).sum()
    assert found["residual"] == pytest.approx(left_out, rel=1e-6)


def test_sums_over_batches_are_those_of_one_batch_whatever_the_lengths_of_the_parts():
    rng = np.random.default_rng(0)
    s, z = torch.from_numpy(rng.random((3, 5))), torch.from_numpy(rng.random((20, 5)))
    x, y = torch.from_numpy(rng.random((20, 2, 2))), torch.from_numpy(rng.integers(4, size=20))
    whole, halves = PartStatistics(200), PartStatistics(200)
    whole.add(s, z, x, y)
    halves.add(s, z[:6], x[:6], y[:6])
    halves.add(s * torch.tensor([[2.0], [30.0], [0.1]]), z[6:], x[6:], y[6:])
    one, two = whole.findings(), halves.findings()
    assert one.keys() == two.keys()
    for name in one.keys() - {"coefficients"}:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one["coefficients"][6:], two["coefficients"], rtol=1e-9, atol=1e-12)


def test_labels_do_not_enter_the_coefficients():
    x, y = images(steps=1)
    program = BlockADMM(factors=3, inner=4)
    told, misled = (played(program, x, labels)[0][0].findings for labels in (y, (y + 1) % CLASSES))
    assert torch.equal(told["coefficients"], misled["coefficients"])
    assert torch.equal(told["pictures"], misled["pictures"])
    assert not torch.equal(told["class_coefficients"], misled["class_coefficients"])


def test_parts_of_tokens_are_left_without_pictures_and_classes():
    statistics = PartStatistics(1)
    tokens = torch.zeros(4, 3, dtype=torch.int64)
    statistics.add(torch.rand(2, 6), torch.rand(4, 3, 2), tokens, tokens)
    assert statistics.findings().keys() == {"parts", "coefficients", "residual"}


def test_without_factors_nothing_is_found():
    x, y = images(steps=2)
    assert not any(stage.findings for stage in played(BlockADMM(), x, y)[0])


def test_parts_keep_their_lengths_over_many_batches_of_few_sweeps():
    rng = np.random.default_rng(0)
    true = rng.random((3, 10))
    factorisation = NonNegativeFactorisation(3)
    for _ in range(300):
        z = torch.from_numpy(rng.random((20, 3)) @ true)
        factorisation.start(z)
        factorisation.fit(z, 1)
    assert factorisation.parts.norm(dim=1).min() > 0.5
    assert factorisation.parts.norm(dim=1).max() < 2
    assert (factorisation.reconstruction - z).norm() < 0.01 * z.norm()


def written(folder, shape=(1, 6, 6), labels=(3, 5), swept="program.factors"):
    """An experiment of one run and the parts that it found: the second has class 3 alone, the third is unused."""
    runs = [Made({swept: f}, 0, {"round": [0, 1], "test_accuracy": [0.1, 0.9]}) for f in (0, 3)]
    build(folder, runs)
    pictures = np.zeros((3, *shape))
    pictures[0, ..., 0] = 2.0
    pictures[2] = np.nan
    findings = {
        "parts": np.ones((3, 4)),
        "coefficients": np.ones((2, 3)),
        "pictures": pictures,
        "mean_input": np.full(shape, 0.5),
        "classes": np.array(labels),
        "class_coefficients": np.array([[1.0, 5.0], [2.0, 0.0], [0.0, 0.0]]),
        "residual": np.float64(0.125),
    }
    path = folder / "runs" / runs[1].id / "findings.npz"
    np.savez(path, **{f"stage_0_{name}": value for name, value in findings.items()})
    return path


def test_parts_are_read_by_class_and_the_unused_come_last(tmp_path):
    found = read_parts(written(tmp_path / "made"))
    np.testing.assert_allclose(found.shares, [[1, 0], [1 / 6, 5 / 6], [np.nan, np.nan]])
    np.testing.assert_allclose(found.use, [2 / 8, 6 / 8, 0])
    np.testing.assert_allclose(found.contrasts[:2, 0, 0, 0], [-0.5, 1.5])
    assert found.purity == pytest.approx((2 + 5) / 8)
    assert found.residual == 0.125


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 6)])
def test_a_panel_shows_pictures_bars_and_what_is_unused(tmp_path, shape):
    written(tmp_path / "made", shape)
    figure = parts(read_experiment(tmp_path / "made"))
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["3: 1.00  use 0.25", "5: 0.83  use 0.75", "unused"]
    first, second = (axis.images[0].get_array() for axis in figure.axes if axis.images)
    assert np.ptp(first) == 0
    mean, bright = (0.5 - 0.5 / 3, 1.0) if shape[0] == 3 else (-0.5, 1.5)
    np.testing.assert_allclose(second[:, 0], bright)
    np.testing.assert_allclose(second[:, 1:], mean)
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes if axis.patches]
    np.testing.assert_allclose(heights, [[1, 0], [1 / 6, 5 / 6]])


def test_the_figure_is_drawn_and_shown_in_the_report(tmp_path):
    written(tmp_path / "made")
    paths = draw_experiment(tmp_path / "made")
    assert [p.name for p in paths if p.stem == "parts"] == ["parts.png", "parts.svg"]
    image = matplotlib.image.imread(tmp_path / "made" / "figures" / "parts.png")
    red, green = image[..., 0], image[..., 1]
    assert (red - green > 0.3).sum() > 500
    assert (
        "What the parts of the factorisation stand for" in write_report(tmp_path / "made", paths).read_text()
    )


def test_flat_features_are_not_drawn(tmp_path):
    assert read_parts(written(tmp_path / "flat", shape=(16,))) is None
    assert parts(read_experiment(tmp_path / "flat")) is None
    assert read_parts(tmp_path / "nowhere.npz") is None


RUN = """
seeds = [0]
[problem]
name = "mlp"
data = "digits"
hidden = [24, 16]
[stages]
count = 2
[optimizer]
name = "adam"
[train]
lr = 0.01
rounds = 40
record_every = 40
batch_size = 64
[[sweep.program]]
name = "backprop"
[[sweep.program]]
name = "block-admm"
inner = 2
factors = 5
sweeps = 3
"""


@pytest.mark.slow
def test_a_run_on_digits_leaves_its_parts_and_their_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(RUN)
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 0, said.err
    (path,) = (tmp_path / "out").glob("runs/*/findings.npz")
    found = np.load(path)
    assert found["stage_0_pictures"].shape == (5, 1, 8, 8)
    assert found["stage_0_class_coefficients"].shape == (5, 10)
    assert found["stage_0_coefficients"].min() >= 0
    assert (tmp_path / "out" / "figures" / "parts.png").stat().st_size > 10_000
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        accuracy = [float(row["test_accuracy"]) for row in csv.DictReader(file)]
    assert min(accuracy) > 0.3
