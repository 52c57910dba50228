"""Trust ratios over time: against loops of the papers' equations, in runs, on ranks, resumed, drawn, refused."""

import importlib.util
import math
import tomllib

import numpy as np
import pytest
import torch
from command import but_wall_time, decentral, metrics, read_csv, write
from everywhere import run_and_go_on
from layer_loops import acts, size
from layered_workers import LAYOUT, RATES, RULES, G, X, said
from ranks import ROOT
from synthetic_experiment import small
from test_resume import Died, dying  # noqa: F401
from test_rules import DECAY, RING

from decentral.algorithms import DSGD, DecentLaM, PmSGD
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.optimizers import LAMB, LAMBC, LARS
from decentral.report.reading import read_experiment
from decentral.report.trust_ratios import NAMED
from decentral.report.trust_ratios import trust_ratios as figure_of
from decentral.rounds.advance import advance
from decentral.rounds.ruled import Ruled
from decentral.rounds.spared import Spared
from decentral.rounds.trust_ratios import trust_ratios
from decentral.runs.journal import Journal
from decentral.runs.kinds import run_of
from decentral.runs.place import place_of

TRUSTING = [rule for rule in RULES if rule.trusts]


class Loop:
    """The ratios of one worker's layers, by the equations, one number after the other."""

    def __init__(self, rule, decay):
        self.rule, self.decay, self.k, self.m, self.v = rule, decay, 0, {}, {}

    def ratios(self, x, g, lr):
        self.k += 1
        views = zip(LAYOUT.views(x).items(), LAYOUT.views(g).values(), strict=True)
        return [self.ratio(name, w, grad, lr) for (name, w), grad in views]

    def ratio(self, name, w, g, lr):
        rule, kind = self.rule, type(self.rule).__name__
        if kind in ("LAMB", "LAMBC"):
            m = self.m[name] = rule.beta1 * self.m.get(name, 0.0) + (1 - rule.beta1) * g
            v = self.v[name] = rule.beta2 * self.v.get(name, 0.0) + (1 - rule.beta2) * g**2
            u = m / (1 - rule.beta1**self.k) / ((v / (1 - rule.beta2**self.k)).sqrt() + rule.eps)
            g = u + self.decay * w
        if not (acts(rule, w) and size(w) and size(g)):
            return 1.0
        if kind == "LARS":
            return rule.trust * size(w) / (size(g) + self.decay * size(w))
        if kind == "LARC":
            own = rule.trust * size(w) / size(g)
            return own if rule.mode == "scale" else min(own / lr, 1.0) if lr else 1.0
        return min(max(size(w) / size(g), getattr(rule, "lower", 0.0)), getattr(rule, "upper", math.inf))


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", TRUSTING, ids=said)
def test_they_are_those_of_the_loop_and_nothing_is_consumed(rule, decay):
    decayed, x = rule.decayed(decay), X.clone()
    state, loops = decayed.init(x, LAYOUT), [Loop(rule, decay) for _ in x]
    for lr, g in zip(RATES, G, strict=True):
        given = [x, g, *tensors_of(state)]
        before = [tensor.clone() for tensor in given]
        found = decayed.trust_ratios(x, state, g, LAYOUT, lr)
        assert all(map(torch.equal, given, before))
        expected = [loop.ratios(*rows, lr) for loop, rows in zip(loops, zip(x, g, strict=True), strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        state = decayed.step_(x, state, g, LAYOUT, lr)


def test_the_step_is_that_long():
    """|x - x'| = lr ratio |u|, and without a bound ratio |u| = |x|, whatever the ratio is."""
    rule = LAMB().decayed(0.1)
    x, state = X.clone(), rule.init(X, LAYOUT)
    for lr, g in zip([0.1, 0.02], G, strict=False):
        before = x.clone()
        u, _ = (
            LAMBC(lower=1.0, upper=1.0)
            .decayed(0.1)
            .direction(  # whose ratio is 1
                x, state._replace(m=state.m.clone(), v=state.v.clone()), g, LAYOUT, lr
            )
        )
        ratios = rule.trust_ratios(x, state, g, LAYOUT, lr)
        state = rule.step_(x, state, g, LAYOUT, lr)
        for k, span in enumerate(LAYOUT.spans):
            moved = (before - x)[:, span.columns].norm(dim=1)
            torch.testing.assert_close(moved, lr * ratios[:, k] * u[:, span.columns].norm(dim=1))


def watched(method, rule, rounds=4):
    """The ratios (rounds, h, L) that somebody who watches is told, and the models (h, d) before each round."""
    comm = LocalComm(RING)
    comm.layout = LAYOUT
    seen, models = [], []
    behind = Ruled(method, rule).watched(lambda *given: seen.append(trust_ratios(*given[:-1])))
    x = X.clone()
    state = behind.init(x, comm)
    for t in range(rounds):
        models.append(x.clone())
        g = G[t].clone()
        blocks = [(slice(0, 20), g[:, :20]), (slice(20, g.shape[1]), g[:, 20:])]
        x, state = advance(behind, x, state, blocks, comm, t, RATES[t])
    return torch.stack(seen).numpy(), models


@pytest.mark.parametrize("rule", [LARS(trust=0.02), LAMB(), LAMBC(upper=0.7)], ids=said)
@pytest.mark.parametrize("method", [PmSGD(momentum=0.0), DSGD(), DecentLaM()], ids=lambda m: type(m).__name__)
def test_in_rounds_they_are_of_the_gradient_that_the_rule_is_given(rule, method):
    found, models = watched(method, rule.decayed(DECAY))
    averages = isinstance(method, PmSGD)
    loops = [Loop(rule, DECAY) for _ in X]
    for t, (ratios, x) in enumerate(zip(found, models, strict=True)):
        given = G[t].mean(0).expand_as(G[t]) if averages else G[t]
        expected = [loop.ratios(x[i], given[i], RATES[t]) for i, loop in enumerate(loops)]
        np.testing.assert_allclose(ratios, expected, rtol=1e-12)


def test_weights_that_are_spared_have_the_ratio_without_decay():
    rule = LARS(trust=0.02)
    names = {LAYOUT.spans[0].name}
    spared = Spared(rule.decayed(DECAY), names)
    found = spared.trust_ratios(X, spared.init(X, LAYOUT), G[0], LAYOUT, 0.1)
    for k, span in enumerate(LAYOUT.spans):
        decay = 0.0 if span.name in names else DECAY
        for i in range(len(X)):
            w, g = (LAYOUT.views(row)[span.name] for row in (X[i], G[0, i]))
            assert float(found[i, k]) == pytest.approx(
                Loop(rule, decay).ratio(span.name, w, g, 0.1), rel=1e-12
            )


# ------------------------------------------------------------------------------------------------------------- in runs

MLP = {"name": "mlp", "hidden": [6]}
TRAIN = {
    "lr": 0.05, "rounds": 12, "batch_size": 4, "dtype": "float64", "record_every": 4, "checkpoint_every": 5,
    "eval_samples": 50, "weight_decay": 0.01,
}  # fmt: skip
LAMBC_RUN = {
    "problem": MLP, "algorithm": {"name": "decentlam"}, "optimizer": {"name": "lambc", "upper": 0.3}, "train": TRAIN,
}  # fmt: skip


def ran(home, out="out", **changes):
    """The folder of the run."""
    told = decentral("run", write(home / "x.toml", **{**LAMBC_RUN, **changes}), "--out", out)
    assert told.code == 0, told.err
    (run,) = (home / out / "runs").iterdir()
    return run


@pytest.mark.parametrize("method", ["pmsgd", "dsgd"])
def test_the_file_has_mean_least_and_largest_of_the_workers(home, method):
    algorithm = {"name": method} | ({"momentum": 0.0} if method == "pmsgd" else {})
    optimizer = {"name": "lars", "trust": 0.5, "exclude": "vectors"}
    run = ran(home, algorithm=algorithm, optimizer=optimizer, trust_ratios={"every": 5})
    rows = read_csv(run / "trust_ratios.csv")
    assert [(int(row["round"]), row["layer"]) for row in rows] == [
        (t, layer) for t in (0, 5, 10) for layer in ("1.weight", "3.weight")
    ]
    config = run_of(tomllib.loads((run / "config.toml").read_text()))
    objective = config.problem.build(place_of(config, range(4), torch.device("cpu")))
    x = objective.start().expand(4, -1).clone()
    g = torch.cat([block for _, block in objective.gradient(x, 0)], 1)
    g = g.mean(0).expand_as(g) if method == "pmsgd" else g
    for row in rows[:2]:
        w, grad = (objective.layout.views(one)[row["layer"]] for one in (x, g))
        ratios = [0.5 * size(a) / (size(b) + 0.01 * size(a)) for a, b in zip(w, grad, strict=True)]
        found = [float(row[name]) for name in ("ratio", "ratio_min", "ratio_max")]
        assert found == pytest.approx([np.mean(ratios), min(ratios), max(ratios)], rel=1e-12)
        assert (found[1] == found[2]) is (method == "pmsgd")


def test_a_run_that_does_not_ask_is_as_it_was_and_one_that_does_trains_alike(home):
    plain, asked = ran(home), ran(home, "asked", trust_ratios={})
    assert not (plain / "trust_ratios.csv").exists()
    assert "trust_ratios" not in (plain / "config.toml").read_text()
    assert tomllib.loads((asked / "config.toml").read_text())["trust_ratios"] == {"every": 1}
    a, b = (but_wall_time(metrics(run.parents[1])[run.name]) for run in (plain, asked))
    assert a == b
    bounded = [float(row["ratio_max"]) for row in read_csv(asked / "trust_ratios.csv")]
    assert len(bounded) == 24
    assert max(bounded) == 0.3  # the bound itself, and no number beside it
    assert min(bounded) < 0.3


def test_a_run_that_ended_goes_on_with_the_same_bytes(home, monkeypatch):
    whole = (ran(home, "whole", trust_ratios={"every": 3}) / "trust_ratios.csv").read_bytes()
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
    (run,) = (home / "cut" / "runs").iterdir()
    assert (run / "trust_ratios.csv").read_bytes() == whole
    assert whole.count(b"\n") == 1 + 4 * 2


RUNS = """
[problem]
name = "mlp"
hidden = [6]
[topology]
name = "ring"
workers = 4
[train]
lr = 0.02
rounds = 9
batch_size = 8
dtype = "float64"
oracle = "loop"
record_every = 3
checkpoint_every = 4
[trust_ratios]
every = 2
[[sweep.case]]
algorithm.name = "dsgd"
optimizer.name = "lambc"
[[sweep.case]]
algorithm.name = "pmsgd"
optimizer.name = "lars"
"""


@pytest.mark.mpi
@pytest.mark.usefixtures("home")
def test_runs_that_go_on_or_begin_on_two_ranks_leave_the_file_of_one_process(tmp_path, dying):  # noqa: F811
    whole, other = run_and_go_on(tmp_path, RUNS, dying)
    files = sorted((whole / "runs").glob("*/trust_ratios.csv"))
    assert len({file.read_bytes() for file in files}) == 2
    for file in files:
        assert (other / "runs" / file.parent.name / file.name).read_bytes() == file.read_bytes()


def test_a_run_that_diverges_leaves_what_it_measured(home):
    file = write(
        home / "x.toml", problem={"name": "quadratic", "dimension": 3}, trust_ratios={},
        optimizer={"name": "larc", "mode": "scale", "trust": 1e30, "exclude": "none"}, train={"rounds": 400},
    )  # fmt: skip
    assert decentral("run", file, "--out", "out").code == 3
    (run,) = (home / "out" / "runs").iterdir()
    rounds = [int(row["round"]) for row in read_csv(run / "trust_ratios.csv")]
    assert rounds == list(range(len(rounds)))
    assert 1 <= len(rounds) < 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optimizer": None},
            "and there is no [optimizer]; choose optimizer.name of lars, larc, lamb, lambc",
        ),
        ({"optimizer": {"name": "novograd"}}, "and NovoGrad has none; choose optimizer.name of lars"),
        ({"optimizer": {"name": "torch.optim:Adafactor"}}, "has none"),
        ({"trust_ratios": {"every": 0}}, "trust_ratios.every = 0 must be at least 1"),
        ({"trust_ratios": {"each": 1}}, "each"),
        ({"train": {**TRAIN, "rounds": 250_000}}, "set it to 3 or more"),
        ({"problem": {"name": "quadratic"}}, "would record nothing: LAMBC acts on nothing here"),
        (
            {"faults": {"absent_workers": [1], "leave_round": 2, "return_round": 4}},
            "faults.absent_workers = [1] make none while away; remove one of the two",
        ),
        (
            {"phases": {"replicas": {"rounds": 2, "batch_size": 4, "lr": 0.05}}},
            "[phases] changes the rule that [trust_ratios] measures; remove one of the two",
        ),
        ({"algorithm": {"name": "ad-psgd"}}, "[trust_ratios] has no meaning"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(home, changes, words):
    given = {**LAMBC_RUN, "trust_ratios": {}, **changes}
    file = write(home / "x.toml", **{key: value for key, value in given.items() if value is not None})
    told = decentral("run", file, "--out", "out")
    assert (told.code, words in told.err, told.err.count("\n"), len(told.err) < 300) == (2, True, 1, True), (
        told.err
    )
    assert not (home / "out").exists()


def test_a_rule_without_them_says_so():
    with pytest.raises(NotImplementedError, match="NovoGrad has no trust ratios"):
        RULES[-1].trust_ratios(X, None, G[0], LAYOUT, 0.1)


# --------------------------------------------------------------------------------------------------------------- drawn


def left(folder, layers):
    """An experiment whose first run left ratios 1, 2, 3 times those of the layer in rounds 0, 5, 10."""
    (folder / "runs" / "pmsgd-seed0" / "trust_ratios.csv").write_text(
        "round,layer,ratio,ratio_min,ratio_max\n"
        + "".join(
            f"{t},{layer},{f * r},{f * r / 2},{f * r * 2}\n"
            for t, f in ((0, 1), (5, 2), (10, 3))
            for layer, r in layers.items()
        )
    )
    return read_experiment(folder)


def test_a_panel_for_a_run_has_a_line_and_a_band_for_each_layer(tmp_path):
    experiment = left(small(tmp_path / "out"), {"a.weight": 1e-3, "b.weight": 10.0})
    (axis,) = figure_of(experiment).axes
    assert axis.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1e-3, 2e-3, 3e-3], [10.0, 20.0, 30.0]]
    assert [line.get_xdata().tolist() for line in axis.lines] == [[0, 5, 10]] * 2
    bands = [collection.get_paths()[0].get_extents() for collection in axis.collections]
    assert [(band.y0, band.y1) for band in bands] == [pytest.approx((5e-4, 6e-3)), pytest.approx((5.0, 60.0))]
    assert len({line.get_color() for line in axis.lines}) == 2


def test_a_deep_network_s_legend_names_some_layers_and_all_are_told_apart(tmp_path):
    layers = {f"layer{k}.conv.weight": 0.1 * (k + 1) for k in range(40)}
    figure = figure_of(left(small(tmp_path / "out"), layers))
    (axis,), (legend,) = figure.axes, figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == NAMED
    assert (names[0], names[-1]) == ("layer0.conv.weight", "layer39.conv.weight")
    assert len({line.get_color() for line in axis.lines}) == 40
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_nothing_is_drawn_of_runs_that_left_none(tmp_path):
    assert figure_of(read_experiment(small(tmp_path / "out"))) is None


def test_the_report_shows_them(tmp_path):
    done = decentral(
        "run", write(tmp_path / "x.toml", **LAMBC_RUN, trust_ratios={}), "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "figures" / "trust_ratios.png").stat().st_size > 5_000
    assert "What the trust ratio of each layer was" in (tmp_path / "out" / "report.html").read_text()


def test_the_table_of_the_experiments_counts_them():
    """Two seeds, two layers, eight rounds of two workers."""
    spec = importlib.util.spec_from_file_location("ratios", ROOT / "experiments" / "ratios.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    t, ones = np.arange(8.0), np.ones(8)
    a, b = np.array([1, 2, 4, 8, 8, 8, 1, 3.0]), np.array([3, 1, 1, 1, 1, 1, 5, 7.0])
    one, two = (
        {"a": np.stack([t, mean, mean / 2, mean * 3]), "b": np.stack([t, ones, ones, ones])}
        for mean in (a, b)
    )
    found = table.numbers([one, two])
    assert found["a"] == pytest.approx((2, 1, 7.5, 4, 7 / 16, 1 / 4, 24, 6, 6, 2.5, 8))
    assert found["b"] == pytest.approx((1, 1, 1, 1, 1, 1, 1, 1, 1, 2.5, 8))
