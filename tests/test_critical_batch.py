"""The critical batch of a sweep: the fit of its two constants, and the figure."""

import numpy as np
import pytest
from command import decentral, write
from synthetic_experiment import Made, build

from decentral.report.figure_tables import parse_figure
from decentral.report.goals import tuned_batches
from decentral.report.hyperbola import fit
from decentral.report.plots import render
from decentral.report.reading import read_experiment

S_MIN, E_MIN = 120.0, 40_000.0
SIZES = np.array([16.0, 64, 256, 1024, 4096])
FIGURE = {"kind": "critical-batch", "y": "samples", "reach": "train_loss", "goal": 0.5, "name": "critical"}


def exact(sizes):
    """S and E on the hyperbola, by its first form: solved for S at E = B S."""
    # (S - S_min)(B S - E_min) = S_min E_min
    roots = np.array([np.roots([b, -(b * S_MIN + E_MIN), 0.0]).max() for b in sizes])
    return roots, np.asarray(sizes) * roots


def test_points_on_a_hyperbola_give_its_constants_back():
    s, e = exact(SIZES)
    np.testing.assert_allclose((s / S_MIN - 1) * (e / E_MIN - 1), 1, rtol=1e-12)
    found = fit(s, e)
    np.testing.assert_allclose(
        [found.s_min, found.e_min, found.b_crit], [S_MIN, E_MIN, E_MIN / S_MIN], rtol=1e-6
    )
    assert found.factor == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.rounds(SIZES), s, rtol=1e-6)
    at_crit = found.rounds(np.array([found.b_crit]))
    np.testing.assert_allclose(at_crit, 2 * S_MIN, rtol=1e-6)


def test_the_interval_covers_the_constant_as_often_as_it_says():
    rng, (s, e) = np.random.default_rng(0), exact(np.repeat(SIZES, 2))
    covered = []
    for _ in range(200):
        noise = np.exp(0.1 * rng.standard_normal(len(s)))
        found = fit(s * noise, e * noise)
        covered.append(abs(np.log(found.b_crit * S_MIN / E_MIN)) < np.log(found.factor))
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize(
    ("rounds", "sizes"),
    [
        ([100, 50], [10, 100]),  # two batches
        ([100, 50, 101], [10, 100, 10]),
        ([1_000, 100, 10], [10, 100, 1_000]),  # the samples are the same: the bend is beyond
        ([100, 100, 100], [10, 100, 1_000]),  # and so are the rounds here
    ],
)
def test_where_a_constant_is_not_in_the_points_there_is_no_fit(rounds, sizes):
    rounds = np.array(rounds, dtype=float)
    assert fit(rounds, rounds * sizes) is None


def sweep(folder, sizes=SIZES, seeds=(3, 4, 5), goal=0.5):
    """Losses that fall by a straight line to the goal at the hyperbola's S, sooner at lr 0.2; 8,192 never arrives."""
    runs = []
    for size in (*sizes, 8192.0):
        s = exact([size])[0][0]
        for lr in (0.1, 0.2):
            for seed in seeds:
                arrives = s * {0.1: 1.5, 0.2: 1.0}[lr] * (1.1 if seed == 4 else 1.0)
                if lr == 0.1 and seed != seeds[0]:
                    arrives *= 0.1  # better where nobody may look
                rounds = np.linspace(0, 3 * s, 12)
                loss = 1 - (1 - goal) * rounds / arrives if size < 8192 else np.ones(12)
                fields = {"train.batch_size": size / 4, "train.lr": lr}
                runs.append(
                    Made(fields, seed, {"round": rounds, "samples": rounds * size, "train_loss": loss})
                )
    return build(folder, runs)


def test_a_batch_has_the_learning_rate_of_the_first_seed_and_the_costs_of_the_others(tmp_path):
    experiment = read_experiment(sweep(tmp_path / "e"))
    found = tuned_batches(experiment.runs, parse_figure(FIGURE), ())
    assert [batch.size for batch in found] == [*SIZES, 8192]
    s, e = exact(SIZES)
    for batch, rounds, samples in zip(found[:-1], s, e, strict=True):
        np.testing.assert_allclose(batch.costs, np.outer([1.1, 1.0], [rounds, samples]), rtol=1e-9)
    assert found[-1].costs == []


def test_with_one_seed_its_runs_are_chosen_and_shown(tmp_path):
    experiment = read_experiment(sweep(tmp_path / "e", seeds=(3,)))
    found = tuned_batches(experiment.runs, parse_figure(FIGURE), ())
    np.testing.assert_allclose(np.concatenate([b.costs for b in found[:-1]]), np.stack(exact(SIZES), axis=1))


def test_the_figure_says_the_constants_and_what_is_left_out(tmp_path):
    experiment = read_experiment(sweep(tmp_path / "e", seeds=(3, 5)))
    ax = render(experiment, parse_figure(FIGURE)).axes[0]
    (text,) = [text.get_text() for text in ax.get_legend().get_texts()]
    assert text == "critical batch 333 (333 to 333)\nS_min = 120, E_min = 40,000\ngoal not reached: 8,192"
    points, curve = ax.get_lines()
    np.testing.assert_allclose(points.get_xydata(), np.stack(exact(SIZES), axis=1), rtol=1e-9)
    s, e = curve.get_xydata().T
    np.testing.assert_allclose((s / S_MIN - 1) * (e / E_MIN - 1), 1, rtol=1e-5)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [note.get_text() for note in ax.texts] == ["16", "64", "256", "1,024", "4,096"]


def test_too_few_batches_are_drawn_without_a_line_and_none_at_all_are_said(tmp_path):
    for sizes, points in ((SIZES[:2], 2), (SIZES[:0], 0)):
        experiment = read_experiment(sweep(tmp_path / str(points), sizes, seeds=(3, 5)))
        ax = render(experiment, parse_figure(FIGURE)).axes[0]
        (text,) = [text.get_text() for text in ax.get_legend().get_texts()]
        assert text.startswith("no hyperbola")
        assert len(ax.get_lines()[0].get_xydata()) == points
        assert len(ax.get_lines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goal": None}, "needs goal"),
        ({"reach": None}, "needs reach"),
        ({"kind": "curves"}, "'curves' has no meaning for reach"),
        ({"goal": "low"}, "goal = 'low' must be a number"),
        ({"reach": "train_lost"}, "reach = 'train_lost' is no column of metrics.csv"),
    ],
)
def test_a_figure_without_a_goal_that_can_be_reached_is_refused_before_any_run(home, change, words):
    figure = {key: value for key, value in {**FIGURE, **change}.items() if value is not None}
    said = decentral(
        "run", write(home / "x.toml", problem={"name": "linear-regression"}, figure=[figure]), "--out", "o"
    )
    assert said.code == 2
    assert words in said.err, said.err
    assert len(said.err) < 300
    assert not (home / "o").exists()
