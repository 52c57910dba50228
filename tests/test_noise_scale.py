"""The gradient noise scale: its estimators, its columns, batches that grow with it, ranks and resumed runs."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from command import but_wall_time, decentral, metrics, write
from everywhere import compare, run_everywhere

import topologies
from decentral.comm import LocalComm
from decentral.problems.data.batches import EpochBatches
from decentral.rounds.gradient_noise import of_all_pairs, of_neighbours
from decentral.runs.journal import Journal


class Died(BaseException):
    """Ends a run in this process as a kill would."""


MLP = {"name": "mlp", "hidden": [6]}
TRAIN = {"lr": 0.1, "rounds": 8, "batch_size": 4, "dtype": "float64", "record_every": 2, "eval_samples": 50}
NOISE = {"decay": 0.5}


def blocks(g, *edges):
    ends = [0, *edges, g.shape[1]]
    return [(slice(a, b), torch.tensor(g[:, a:b])) for a, b in pairwise(ends)]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_all_pairs_are_the_two_norms_of_the_paper_and_the_mean_over_pairs(n):
    g = np.random.default_rng(n).standard_normal((n, 5_000)) + 0.1
    b = 3
    found = of_all_pairs(blocks(g, 700, 4_900), LocalComm(np.full((n, n), 1 / n)), b)
    small, big = (g**2).sum(1).mean(), (g.mean(0) ** 2).sum()  # squared norms at batches b and B = n b
    B = n * b
    assert found.square == pytest.approx((B * big - b * small) / (B - b), rel=1e-12)
    assert found.noise == pytest.approx((small - big) / (1 / b - 1 / B), rel=1e-12)
    pairs = [(j, k) for j in range(n) for k in range(n) if j != k]
    assert found.square == pytest.approx(np.mean([g[j] @ g[k] for j, k in pairs]), rel=1e-11)
    assert found.noise == pytest.approx(
        np.mean([b / 2 * ((g[j] - g[k]) ** 2).sum() for j, k in pairs]), rel=1e-12
    )


@pytest.mark.parametrize("graph", [topologies.star(5), topologies.exponential(6)], ids=["star", "directed"])
def test_neighbours_are_the_mean_over_the_edges_of_w_and_are_not_billed(graph):
    w = topologies.mixing_matrix(graph, "uniform" if graph.is_directed() else "metropolis")
    n, comm = w.shape[0], LocalComm(w)
    g = np.random.default_rng(1).standard_normal((n, 2_500)) + 0.2
    found = of_neighbours(blocks(g, 2_100), comm.at(0), 4)
    edges = [(i, j) for i in range(n) for j in range(n) if i != j and w[i, j] != 0]
    assert found.square == pytest.approx(np.mean([g[i] @ g[j] for i, j in edges]), rel=1e-12)
    assert found.noise == pytest.approx(
        np.mean([2 * ((g[i] - g[j]) ** 2).sum() for i, j in edges]), rel=1e-12
    )
    assert not comm.ledger.bytes_sent.any()
    assert comm.ledger.messages == 0


def test_where_everybody_is_a_neighbour_both_forms_are_one():
    g = np.random.default_rng(2).standard_normal((4, 300))
    comm = LocalComm(topologies.mixing_matrix(topologies.complete(4)))
    np.testing.assert_allclose(
        of_neighbours(blocks(g), comm.at(0), 2), of_all_pairs(blocks(g), comm, 2), rtol=1e-12
    )


@pytest.mark.parametrize("of", [of_all_pairs, of_neighbours])
def test_both_estimates_are_without_bias_and_a_mean_of_their_ratios_is_not(of):
    rng, n, b, draws = np.random.default_rng(3), 8, 16, 1_500
    mean, sigma = rng.standard_normal(20), np.linspace(0.5, 8, 20)
    comm = LocalComm(topologies.mixing_matrix(topologies.ring(n))).at(0)
    trace, square = (sigma**2).sum(), mean @ mean
    samples = mean + sigma * rng.standard_normal((draws, n, 20)) / math.sqrt(b)  # means of b normal gradients
    found = np.array([of(blocks(g), comm, b) for g in samples])
    error = found.std(axis=0, ddof=1) / math.sqrt(draws)
    assert (np.abs(found.mean(axis=0) - [trace, square]) < 4 * error).all()
    ratio = found.mean(axis=0)[0] / found.mean(axis=0)[1]
    spread = ratio * math.hypot(*(error / found.mean(axis=0)))
    assert abs(ratio - trace / square) < 4 * spread
    assert (found[:, 1] < 0).any() or (found[:, 0] / found[:, 1]).mean() > ratio + 2 * spread


# ---------------------------------------------------------------------------------------------------------- in runs

COLUMNS = ("gradient_noise_scale", "gradient_noise", "gradient_sq")
GROWING = {"decay": 0.5, "most_batch": 9, "grow_every": 3}


def noisy(home, out="out", **changes):
    changes = {
        "problem": MLP,
        "algorithm": {"name": "pmsgd"},
        "train": TRAIN,
        "noise_scale": NOISE,
        **changes,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    said = decentral("run", write(home / "x.toml", **given), "--out", out)
    assert said.code == 0, said.err
    (rows,) = metrics(home / out).values()
    return rows


def numbers(rows, *names):
    return np.array([[float(row[name]) for name in names] for row in rows])


@pytest.mark.parametrize("method", ["pmsgd", "dsgd", "local-sgd"])
def test_a_run_records_the_ratio_of_averages_and_is_the_run_that_it_would_be_without(home, method):
    """Against each round's own estimates, which decay = 0 leaves as they are."""
    algorithm = {"algorithm": {"name": method}}
    each = noisy(home, "each", noise_scale={"decay": 0.0}, train={**TRAIN, "record_every": 1}, **algorithm)
    rows = noisy(home, "averaged", **algorithm)
    assert np.isnan(numbers(rows[:1], *COLUMNS)).all()
    single = numbers(each[1:], *COLUMNS[1:])
    for row in rows[1:]:
        t = int(row["round"])
        noise, square = np.average(single[:t], axis=0, weights=0.5 ** np.arange(t - 1, -1, -1))
        scale = noise / square if square > 0 else math.nan
        np.testing.assert_allclose(numbers([row], *COLUMNS)[0], [scale, noise, square], rtol=1e-12)
    plain = noisy(home, "plain", noise_scale=None, **algorithm)
    assert [
        {k: v for k, v in row.items() if k not in COLUMNS} for row in but_wall_time(rows)
    ] == but_wall_time(plain)


def test_gradients_are_those_of_the_loss_in_the_unit_of_samples(home):
    """On quadratics, whose noise is known: n sigma^2 d apart, and |mean A (x - c)|^2 at the first models."""
    more = {
        "problem": {
            "name": "quadratic",
            "dimension": 400,
            "noise": 0.5,
            "heterogeneity": 0.0,
            "curvature": "shared",
        },
        "topology": {"name": "ring", "workers": 16},
        "train": {**TRAIN, "rounds": 1, "weight_decay": 0.3, "clip_norm": 0.1},
        "noise_scale": {},
    }
    from decentral.problems import Quadratic

    quadratic = Quadratic(400, noise=0.5, heterogeneity=0.0, curvature="shared")
    g = quadratic.curvature_of(0, 0) @ quadratic.centre_of(0, 0)
    for name in ("pmsgd", "dsgd"):
        noise, square = numbers(noisy(home, name, algorithm={"name": name}, **more)[1:], *COLUMNS[1:])[0]
        assert noise == pytest.approx(0.25 * 400, rel=4 * math.sqrt(2 / (400 * 15)))
        # of pairs of noise: sigma^2 sqrt(d / pairs), and of noise with g: 2 sigma |g| / sqrt(n)
        assert square == pytest.approx(
            g @ g, abs=4 * (0.25 * math.sqrt(400 / 16) + 2 * 0.5 * np.sqrt(g @ g / 16))
        )


def test_batches_grow_with_the_noise_scale_and_go_on_in_every_worker_s_order():
    grown, plain = EpochBatches([50, 30], [4, 7], 3, seed=2), EpochBatches([50, 30], [4, 7], 1, seed=2)
    grown.at(0), grown.at(6)
    grown.grow(5, 7)
    grown.grow(11, 9)
    assert [grown.drawn(t) for t in (9, 10, 20)] == [31, 42, 152]
    entries = [plain.at(t)[:, 0] for t in range(152)]
    for t in (9, 10, 19):
        first = grown.drawn(t)
        np.testing.assert_array_equal(grown.at(t), np.stack(entries[first : first + 11], axis=1))


def test_a_run_s_batch_is_what_its_noise_scale_says(home):
    """The rule by hand from the recorded noise scale; samples, epochs and the clock go with it."""
    train = {**TRAIN, "rounds": 12, "record_every": 1, "batch_size": 2, "lr": 0.5}
    rows = noisy(home, noise_scale=GROWING, train=train)
    batch, samples, seconds = 2, 0, 0.0
    a_sample_s = float(rows[1]["simulated_s"]) / 2
    for t, row in enumerate(rows):
        assert int(row["batch_size"]) == batch
        assert int(row["samples"]) == samples
        assert float(row["epoch"]) == samples / 1437
        assert float(row["simulated_s"]) == pytest.approx(seconds, rel=1e-12)
        scale = float(row["gradient_noise_scale"])
        if t % 3 == 0 and math.isfinite(scale):
            batch = max(batch, min(9, int(math.sqrt(2 * 4 * scale) / 4)))
        samples, seconds = samples + 4 * batch, seconds + batch * a_sample_s
    assert batch > 2


@pytest.mark.parametrize("noise", [NOISE, GROWING], ids=["measured", "growing"])
def test_a_run_that_ended_goes_on_in_the_same_bits(home, monkeypatch, noise):
    train = {**TRAIN, "rounds": 12, "checkpoint_every": 5}
    changes = {"train": train, "noise_scale": noise, "algorithm": {"name": "dmsgd"}}
    whole = noisy(home, "whole", **changes)
    keep = Journal.keep

    def kept(journal, state):
        keep(journal, state)
        if state["t"] == 10:
            raise Died

    monkeypatch.setattr(Journal, "keep", kept)
    with pytest.raises(Died):
        decentral("run", "x.toml", "--out", "cut")
    monkeypatch.setattr(Journal, "keep", keep)
    assert decentral("run", "x.toml", "--out", "cut", "--resume").code == 0
    (rows,) = metrics(home / "cut").values()
    assert but_wall_time(rows) == but_wall_time(whole)


@pytest.mark.mpi
@pytest.mark.slow
def test_two_ranks_measure_and_grow_as_one_process_does(tmp_path):
    text = """
    [problem]
    name = "mlp"
    hidden = [6]
    [topology]
    name = "star"
    workers = 4
    [train]
    lr = 0.1
    rounds = 8
    batch_size = 2
    dtype = "float64"
    oracle = "loop"
    record_every = 2
    eval_samples = 50
    [noise_scale]
    decay = 0.5
    most_batch = 9
    grow_every = 3
    [sweep]
    algorithm.name = ["pmsgd", "dsgd"]
    """
    alone, two = run_everywhere(tmp_path, text, worlds=(1, 2))
    compare(alone, two, tolerance=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topology": {"name": "ring", "workers": 1}}, "compares the gradients of workers, and there is one"),
        ({"train": {**TRAIN, "batch_size": "full"}}, "train.batch_size = 'full' these have none"),
        ({"problem": {"name": "quadratic"}}, "these have none; set a smaller batch, or noise"),
        ({"noise_scale": {"every": 0}}, "noise_scale.every = 0 must be at least 1"),
        ({"noise_scale": {"decay": 1.0}}, "noise_scale.decay = 1.0 must be at least 0 and below 1"),
        ({"noise_scale": {"most_batch": 64}}, "go together"),
        ({"noise_scale": {"most_batch": 3, "grow_every": 1}}, "is below train.batch_size = 4"),
        (
            {"noise_scale": {"most_batch": 10**15, "grow_every": 1}},
            "noise_scale.most_batch = 1000000000000000",
        ),
        ({"noise_scale": GROWING, "problem": {"name": "quadratic", "noise": 1.0}}, "learn from a data set"),
        ({"faults": {"absent_workers": [1], "leave_round": 2}}, "faults.absent_workers = [1]"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(home, changes, words):
    changes = {"problem": MLP, "algorithm": {"name": "dsgd"}, "train": TRAIN, "noise_scale": NOISE, **changes}
    said = decentral("run", write(home / "x.toml", **changes), "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 300
    assert not (home / "out").exists()
