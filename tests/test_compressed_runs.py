"""Runs with [compression]: what a table may say, what is refused, columns, resuming, divergence."""

import itertools

import numpy as np
import pytest
import torch
from command import decentral, metrics, read_csv, write
from linked_workers import (
    LAYOUT,
    go,
    layered,
)
from test_methods import gradients
from test_methods_directed import digraph, refused
from test_methods_relay import check_that_resuming_changes_nothing

import topologies
from decentral.algorithms import (
    ALGORITHMS,
    CHOCO,
    DSGD,
    PmSGD,
    SlowMo,
)
from decentral.comm.compression import (
    QSGD,
    AdaComp,
    ErrorFeedback,
    MomentumCorrection,
    RandomK,
    TopK,
)
from decentral.rounds.advance import advance
from decentral.rounds.trials.needs import unmet
from decentral.runs.sections.compression import Compression

pytestmark = pytest.mark.usefixtures("home")


def chosen(method, **table):
    return Compression.from_table(table, method)


def test_error_feedback_is_around_biased_compressors_of_gradients_unless_said_otherwise():
    for name in ("top-k", "random-k", "sign", "low-rank"):
        assert isinstance(chosen(PmSGD(), name=name).compressor(), ErrorFeedback)
        assert chosen(PmSGD(), name=name).resolved()["error_feedback"] is True
        assert not chosen(PmSGD(), name=name, error_feedback=False).error_feedback
        assert not chosen(CHOCO(0.1), name=name).error_feedback
    for method in (PmSGD(), DSGD(), CHOCO(0.1)):
        assert chosen(method, name="qsgd").compressor() == QSGD()
    for method in (PmSGD(), DSGD()):
        assert chosen(method, name="random-k", unbiased=True).compressor() == RandomK(unbiased=True)
    assert isinstance(chosen(PmSGD(), name="qsgd", error_feedback=True).compressor(), ErrorFeedback)
    assert chosen(PmSGD(0.0), name="dgc").compressor() == MomentumCorrection(TopK(0.001), 0.9)
    assert chosen(PmSGD(), name="adacomp").compressor() == AdaComp()
    assert chosen(PmSGD()) is None
    assert chosen(PmSGD(), name="none") is None


MODELS = [
    "dsgd", "dmsgd", "decentlam", "quasi-global", "d2", "extra", "gradient-tracking", "diging", "local-sgd",
    "gossip-pga", "slowmo", "diloco", "push-sum", "push-diging",
]  # fmt: skip


REFUSALS = {
    **{f"top-k of {name}": ({"name": name}, {"name": "top-k"}, "sends models; use an unbiased") for name in MODELS},
    "sign of models": ({"name": "dsgd"}, {"name": "sign"}, "or algorithm.name = choco"),
    "dgc of models": ({"name": "dsgd"}, {"name": "dgc"}, "or pmsgd, which sends gradients"),
    "feedback of models": (
        {"name": "dsgd"}, {"name": "qsgd", "error_feedback": True}, "set compression.error_feedback = false",
    ),
    "feedback of differences": (
        {"name": "choco"}, {"name": "top-k", "error_feedback": True}, "set compression.error_feedback = false",
    ),
    "residues of differences": ({"name": "choco"}, {"name": "adacomp"}, "use algorithm.name = pmsgd"),
    "dgc of differences": ({"name": "choco"}, {"name": "dgc"}, "CHOCO sends it again itself; use top-k"),
    "links of its own": ({"name": "relay-sgd"}, {"name": "qsgd"}, "RelaySGD has links of its own; remove"),
    "factors": ({"name": "power-gossip"}, {"name": "top-k"}, "PowerGossip has links of its own; remove"),
    "momentum twice": ({"name": "pmsgd"}, {"name": "dgc"}, "has momentum itself and algorithm.momentum = 0.9"),
    "feedback twice": (
        {"name": "pmsgd", "momentum": 0.0}, {"name": "dgc", "error_feedback": True}, "has error feedback already",
    ),
    "residues twice": ({"name": "pmsgd"}, {"name": "adacomp", "error_feedback": True}, "adacomp keeps a residue"),
    "feedback of what overshoots": (
        {"name": "pmsgd"}, {"name": "random-k", "unbiased": True, "error_feedback": True}, "set unbiased = false",
    ),
    "feedback of coarse levels": (
        {"name": "pmsgd"}, {"name": "qsgd", "levels": 1, "error_feedback": True}, "may enlarge the error",
    ),
    "differences that would grow": (
        {"name": "choco"}, {"name": "random-k", "unbiased": True}, "CHOCO feeds errors back: random-k with unbiased",
    ),
    "unknown": ({"name": "choco"}, {"name": "topk"}, "compression.name = 'topk' is not known; did you mean 'top-k'?"),
    "unknown key": ({"name": "choco"}, {"name": "top-k", "rank": 2}, "unknown key compression.rank of top-k"),
    "key of none": ({"name": "choco"}, {"name": "none", "rank": 2}, "unknown key compression.rank of none"),
    "no name": ({"name": "choco"}, {"fraction": 0.1}, "missing key compression.name"),
    "fraction 0": ({"name": "choco"}, {"name": "top-k", "fraction": 0.0}, "fraction = 0.0 must be above 0"),
    "text for a switch": (
        {"name": "pmsgd"}, {"name": "top-k", "error_feedback": "yes"}, "error_feedback = 'yes' should be true or false",
    ),
    "gamma 0": ({"name": "choco", "gamma": 0.0}, {"name": "top-k"}, "gamma = 0.0 must be above 0 and at most 1"),
    "gamma 2": ({"name": "choco", "gamma": 2.0}, {"name": "top-k"}, "gamma = 2.0 must be above 0 and at most 1"),
    "rank 0": ({"name": "power-gossip", "rank": 0}, {}, "rank = 0 must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_compressed_is_refused_with_the_remedy(home, case):
    algorithm, compression, complaint = REFUSALS[case]
    assert complaint in refused(home, algorithm=algorithm, compression=compression)


@pytest.mark.parametrize("name", ["choco", "power-gossip"])
def test_graphs_on_which_a_sum_of_copies_would_be_wrong_are_refused(home, name):
    said = refused(home, topology={"name": "one-peer-hypercube", "workers": 4}, algorithm={"name": name})
    assert "needs the same W in every round" in said
    said = refused(home, topology={"name": "exponential", "workers": 8}, algorithm={"name": name})
    assert "needs a symmetric W" in said


def test_what_cannot_be_compiled_or_has_no_rounds_is_refused(home):
    for changes in (
        {"algorithm": {"name": "dsgd"}, "compression": {"name": "qsgd"}},
        {"algorithm": {"name": "power-gossip"}},
        {"algorithm": {"name": "push-sum"}},
    ):
        said = refused(home, train={"compile": True}, **changes)
        assert "train.compile = true is for methods of arithmetic, mixing and means alone" in said
    said = refused(home, stages={"count": 2}, program={"name": "backprop"}, compression={"name": "top-k"})
    assert "section [compression] has no meaning where there is [stages]" in said


MLP = {"name": "mlp", "data": "digits", "hidden": [8]}


PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10


PACKETS = {  # bytes, from the formulas of tests/test_compression.py
    "top-k": (
        {"name": "top-k", "fraction": 0.05},
        30 * 4 + 30 * 2,
    ),  # 610 entries: 30 of them, at 2-byte places
    "random-k": ({"name": "random-k", "fraction": 0.05}, 30 * 4),
    "qsgd": ({"name": "qsgd"}, 5 * 4 + 5 * 77),
    "sign": ({"name": "sign"}, 4 * 4 + 77),
    "low-rank": ({"name": "low-rank", "rank": 2}, 4 * (2 * (8 + 64) + 8 + 2 * (10 + 8) + 10)),
}


@pytest.mark.parametrize("name", PACKETS)
def test_the_column_of_a_run_is_the_ratio_of_the_bytes(home, name):
    compression, packet = PACKETS[name]
    file = write(
        home / "x.toml",
        problem=MLP,
        topology={"name": "star", "workers": 4},
        sweep={"algorithm": [{"name": "choco", "gamma": 0.2}, {"name": "pmsgd"}]},
        compression=compression,
        train={"lr": 0.02, "rounds": 7, "dtype": "float32", "record_every": 2, "batch_size": 8},
    )
    assert decentral("run", file, "--out", "out").code == 0
    for run, rows in metrics(home / "out").items():
        mean, most, count = (1.5, 3, 6) if "choco" in run else (3, 3, 12)  # a star's degrees; n - 1
        assert [row["round"] for row in rows] == ["0", "2", "4", "6", "7"]
        assert rows[0]["compression_ratio"] in ("", "nan")
        for row in rows:
            t = int(row["round"])
            assert float(row["bytes_sent_mean"]) == mean * t * packet
            assert float(row["bytes_sent_max"]) == most * t * packet
            assert int(row["messages"]) == count * t
            if t:
                assert float(row["compression_ratio"]) == pytest.approx(PARAMETERS * 4 / packet, rel=1e-15)


def test_the_ratios_of_adacomp_agree_with_the_ledger(home):
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm={"name": "pmsgd"},
        compression={"name": "adacomp"},
        train={"lr": 0.02, "rounds": 8, "dtype": "float32", "record_every": 2, "batch_size": 8},
    )
    assert decentral("run", file, "--out", "out").code == 0
    (rows,) = metrics(home / "out").values()
    for before, row in itertools.pairwise(rows):
        packets = (float(row["bytes_sent_mean"]) - float(before["bytes_sent_mean"])) / 3  # to three others
        assert float(row["compression_ratio"]) == pytest.approx(2 * PARAMETERS * 4 / packets, rel=1e-12)
        if "compression_ratio_dense" in row:
            assert (
                row["compression_ratio_dense"] == row["compression_ratio"]
            )  # weights and biases of dense layers
    assert len({row["compression_ratio"] for row in rows[1:]}) == 4  # it adapts


SWEEPS = {
    "gradients": ({"name": "pmsgd", "momentum": 0.0}, ["top-k", "adacomp", "low-rank", "dgc"]),
    "differences": ({"name": "choco", "gamma": 0.2}, ["low-rank", "qsgd"]),
    "factors": ({"name": "power-gossip", "rank": 2}, ["none"]),
}


@pytest.mark.parametrize("case", SWEEPS)
def test_runs_that_were_interrupted_go_on_with_what_was_not_sent(home, monkeypatch, case):
    algorithm, compressors = SWEEPS[case]
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm=algorithm,
        sweep={"compression": {"name": compressors}},
        schedule={"name": "cosine"},
        train={"lr": 0.05, "rounds": 7, "record_every": 2, "checkpoint_every": 3, "batch_size": 8},
    )
    check_that_resuming_changes_nothing(home, monkeypatch, file)


@pytest.mark.parametrize(
    ("algorithm", "compression"),
    [
        *(({"name": "choco"}, {"name": name}) for name in ("top-k", "low-rank")),
        *(({"name": "pmsgd"}, {"name": name, "error_feedback": False}) for name in ("sign", "adacomp")),
        ({"name": "dsgd"}, {"name": "qsgd"}),
        ({"name": "power-gossip"}, {}),
    ],
    ids=str,
)
def test_numbers_that_are_not_finite_are_a_divergence_as_without_compression(home, algorithm, compression):
    file = write(
        home / "x.toml",
        problem=MLP,
        algorithm={**algorithm, "allow_unstable": True},
        compression=compression,
        train={"lr": 1e30, "rounds": 60, "dtype": "float32", "record_every": 60, "batch_size": 8},
        seeds=[0, 1],
    )
    said = decentral("run", file, "--out", "out")
    assert said.code == 3
    assert "Traceback" not in said.err
    assert [row["status"] for row in read_csv(home / "out" / "results.csv")] == ["diverged"] * 2
    assert said.err.count("diverged: ") == 2


@pytest.mark.parametrize("base", ["push-sum", "relay-sgd", "choco", "power-gossip"])
def test_slowmo_is_as_particular_as_its_base_method(base, monkeypatch):
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: 7)
    method, inner = SlowMo(base, every=3), ALGORITHMS[base]()
    directed = topologies.constant(topologies.mixing_matrix(digraph(6, 6), "uniform"))
    assert unmet(method, directed) == unmet(inner, directed) is not None
    w = topologies.mixing_matrix(topologies.path(5))
    comm, plain, g = layered(w), layered(w), gradients(5, LAYOUT.d, 6)
    x = torch.zeros(5, LAYOUT.d, dtype=torch.float64)
    state = method.init(x, comm)
    for t, g_t in enumerate(g):
        x, state = advance(method, x, state, [(slice(0, LAYOUT.d), g_t.clone())], comm, t, 0.1)
    torch.testing.assert_close(x, go(method, plain, g, 0.1)[0], rtol=0, atol=1e-13)
    assert np.array_equal(comm.ledger.bytes_sent, plain.ledger.bytes_sent)
