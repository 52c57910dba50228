"""Rules of layers in rounds and in runs of rounds: against loops of their equations, under methods, on ranks."""

import numpy as np
import pytest
import torch
from command import decentral, metrics, write
from everywhere import compare, run_and_go_on
from layered_workers import (
    CLOSE,
    FEW,
    LAYOUT,
    RULES,
    STEADY,
    D,
    G,
    X,
    by_loops,
    rates_of_rounds,  # noqa: F401
    rounds,
    said,
)
from test_methods import gradients
from test_resume import dying  # noqa: F401
from test_rules import DECAY, RING, in_rounds, start

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.algorithms.state import tensors_of
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.optimizers import LARS
from decentral.rounds.advance import advance
from decentral.rounds.ruled import Ruled


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_under_gossip_each_worker_makes_its_step_and_then_they_mix(rule):
    comm = LocalComm(RING)
    expected = by_loops(rule, DECAY, G, STEADY, lambda x, *_: comm.mix(x))
    for width in (None, 7):
        torch.testing.assert_close(rounds(DSGD(), rule, DECAY, width=width), expected, **CLOSE)


@pytest.mark.parametrize("method", [DmSGD(0.5), DecentLaM(0.5), DSGD("awc")], ids=said)
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_methods_that_do_more_with_a_gradient_take_the_direction_for_it(rule, method):
    comm = LocalComm(RING)
    held = [X.clone(), method.init(X.clone(), comm)]

    def step(d, lr, t):
        held[0], held[1] = method.step(held[0], held[1], d, comm.at(t), lr)
        return held[0].clone()

    expected = by_loops(rule, DECAY, G, STEADY, step, directions=True)
    torch.testing.assert_close(rounds(method, rule, DECAY), expected, **CLOSE)


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_all_reduce_averages_and_then_comes_the_rule(rule):
    mean = G.mean(1, keepdim=True).expand(G.shape)
    expected = by_loops(rule, DECAY, mean, STEADY, lambda x, *_: x)
    torch.testing.assert_close(rounds(PmSGD(0.0), rule, DECAY), expected, **CLOSE)


@pytest.mark.parametrize("method", [DSGD(), DecentLaM(), PmSGD(0.0)], ids=said)
@pytest.mark.parametrize("rule", FEW, ids=said)
def test_gradients_in_blocks_and_workers_by_turns_have_the_same_bits_and_bytes(rule, method, monkeypatch):
    def told(blocks, threads=1, laid=torch.clone):
        comm, x, both = LocalComm(RING), X.clone(), Ruled(method, rule.decayed(DECAY))
        comm.layout = LAYOUT
        state = both.init(x, comm)
        torch.set_num_threads(threads)
        for t, (lr, g) in enumerate(zip(STEADY, G, strict=True)):
            given = [(part, laid(g[:, part])) for part in blocks]
            x, state = advance(both, x, state, given, comm, t, lr)
        torch.set_num_threads(1)
        return [x, *tensors_of(state)], comm.ledger.bytes_sent.tolist(), int(comm.ledger.messages)

    whole = told([slice(0, D)])
    blocks = [slice(0, 5), slice(5, 40), slice(40, D)]
    others = [told(blocks)]
    for rows in (1, 3):
        monkeypatch.setattr("decentral.rounds.by_rows.block_height", lambda h, d, threads, rows=rows: rows)
        others += [told(blocks), told([slice(0, D)]), told(blocks, threads=2)]
    spans = [span.columns for span in LAYOUT.spans]
    others += [told(spans), told(spans, laid=lambda g: g.T.contiguous().T)]
    for other in others:
        assert all(map(torch.equal, other[0], whole[0]))
        assert other[1:] == whole[1:]


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_workers_with_batches_of_their_own_are_one_with_all_examples(rule):
    one = rounds(PmSGD(0.0), rule, DECAY, G[:, :1].clone() * 0 + G.mean(1, keepdim=True), np.ones((1, 1)))
    alike = X[:1].expand(4, -1).clone()
    many = in_rounds(PmSGD(0.0), rule, alike, G, DECAY, None, RING, LAYOUT)[0]
    torch.testing.assert_close(many, one.expand(4, -1), rtol=0, atol=1e-12)
    assert torch.equal(many, many[:1].expand(4, -1))


def test_steps_of_workers_scaled_before_their_mean_are_too_short():
    # 8 workers whose gradients are noise: their mean is sqrt(8) times shorter, and LARS makes up for just that
    d, n = 4_000, 8
    layout = Layout((Span("w", 0, d, (40, 100), "dense"),))
    g, x = gradients(n, d, 1), start(1, d).expand(n, -1)
    complete = topologies.mixing_matrix(topologies.complete(n), "uniform")
    moved = {}
    for method in (DSGD(), PmSGD(0.0)):
        after, _ = in_rounds(method, LARS(trust=0.1), x, g, 0.0, None, complete, layout)
        moved[type(method).__name__] = float((after - x)[0].norm())
    assert moved["PmSGD"] == pytest.approx(STEADY[0] * 0.1 * float(x[0].norm()), rel=1e-12)
    # the cosine of two such gradients is about 1 / sqrt(d) = 0.016, so the mean of n unit vectors is 1 / sqrt(n) long
    assert moved["DSGD"] / moved["PmSGD"] == pytest.approx(8**-0.5, rel=0.06)


RUNS = """
seeds = [3]
[problem]
name = "mlp"
hidden = [8]
[topology]
name = "ring"
workers = 4
[train]
lr = 0.02
rounds = 9
batch_size = 8
dtype = "float64"
record_every = 3
checkpoint_every = 4
weight_decay = 0.01
[sweep.optimizer]
name = ["lambc", "lars", "novograd", "muon"]
[[sweep.algorithm]]
name = "dsgd"
[[sweep.algorithm]]
name = "decentlam"
[[sweep.algorithm]]
name = "pmsgd"
momentum = 0.0
"""


@pytest.mark.mpi
@pytest.mark.usefixtures("home")
def test_runs_that_were_killed_go_on_with_the_same_bits_on_two_ranks(tmp_path, dying):  # noqa: F811
    whole, other = map(metrics, run_and_go_on(tmp_path, RUNS, dying))
    assert len(whole) == 12
    compare(whole, other, tolerance=0)
    ends = {run: rows[-1]["train_loss"] for run, rows in whole.items()}
    assert len({*ends.values()}) == 12


@pytest.mark.usefixtures("home")
def test_a_run_of_vectors_only_says_that_the_rule_acts_on_nothing(tmp_path):
    for exclude in ("vectors", "none"):
        file = write(
            tmp_path / "x.toml",
            optimizer={"name": "lars", "exclude": exclude},
            train={"lr": 0.01, "rounds": 2},
        )
        assert decentral("run", file, "--out", tmp_path / exclude).code == 0
        (told,) = (tmp_path / exclude / "runs").glob("*/environment.json")
        assert ("LARS acts on nothing here" in told.read_text()) is (exclude == "vectors")
