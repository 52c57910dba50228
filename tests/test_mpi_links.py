"""State on edges, pushed weights and compressed links: the same bits on 1, 2 and 4 ranks, wherever a run goes on."""

import pytest
from command import metrics
from cut_short import run_all
from everywhere import compare
from ranks import run_ranks

pytestmark = pytest.mark.mpi

QUADRATIC = {
    "problem": {"name": "quadratic", "dimension": 7, "noise": 0.1},
    "train": {"lr": 0.05, "rounds": 11, "record_every": 2, "checkpoint_every": 4, "weight_decay": 0.01},
    "schedule": {"name": "cosine", "warmup_rounds": 3},
    "seeds": [3],
}
NETWORK = {  # 685 parameters: rows of a matrix of models begin anywhere in memory
    **QUADRATIC,
    "problem": {"name": "mlp", "data": "digits", "hidden": [9], "partition": "dirichlet"},
    "train": {**QUADRATIC["train"], "batch_size": 8, "oracle": "loop", "eval_samples": 100},
}
RELAY, GRADIENTS = {"name": "relay-sgd"}, {"name": "relay-sgd", "form": "gradient"}
SPARSE = {"fraction": 0.05}
EXPERIMENTS = {
    "tree": {
        **QUADRATIC,
        "topology": {"name": "tree", "workers": 8},
        "sweep": {"algorithm": [RELAY, GRADIENTS, *({"name": n} for n in ("push-sum", "push-diging", "choco"))]},
    },
    "directed": {
        **QUADRATIC,
        "topology": {"name": "file", "path": "g.edgelist", "directed": True},
        "sweep": {"algorithm": {"name": ["push-sum", "push-diging"]}},
        "train": {**QUADRATIC["train"], "dtype": "float32"},
    },
    "changing": {
        **QUADRATIC,
        "topology": {"name": "one-peer-exponential", "workers": 8},
        "sweep": {"algorithm": {"name": ["push-sum", "dsgd"]}, "compression": {"name": ["none", "qsgd"]}},
    },
    "differences": {
        **NETWORK,
        "topology": {"name": "ring", "workers": 8},
        "algorithm": {"name": "choco", "gamma": 0.3},
        "sweep": {
            "compression": [
                {"name": "top-k", **SPARSE},
                {"name": "random-k", **SPARSE},
                *({"name": n} for n in ("qsgd", "sign", "low-rank", "none")),
            ]
        },
    },
    "gradients": {
        **NETWORK,
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "pmsgd", "momentum": 0.0},
        "sweep": {
            "compression": [
                *({"name": n, **SPARSE} for n in ("top-k", "dgc")),
                *({"name": n} for n in ("adacomp", "sign", "low-rank", "qsgd")),
            ]
        },
    },
    "models": {
        **NETWORK,
        "topology": {"name": "erdos-renyi", "workers": 8},
        "algorithm": {"name": "dsgd"},
        "sweep": {"compression": [{"name": "qsgd"}, {"name": "random-k", "fraction": 0.3, "unbiased": True}]},
        "train": {**NETWORK["train"], "dtype": "float32"},
    },
    "factors": {
        **NETWORK,
        "topology": {"name": "erdos-renyi", "workers": 8},
        "sweep": {"algorithm": [{"name": "power-gossip"}, {"name": "power-gossip", "rank": 3}]},
    },
    "diverging": {
        **NETWORK,
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "dsgd", "allow_unstable": True},
        "compression": {"name": "qsgd"},
        "train": {**NETWORK["train"], "lr": 1e30, "dtype": "float32", "checkpoint_every": "never"},
        "schedule": {"name": "constant"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs: see cut_short."""
    return run_all(tmp_path_factory.mktemp("links"), EXPERIMENTS)


@pytest.mark.parametrize("ranks", ["2", "4"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_has_the_same_bits_and_bytes_on_one_two_and_four_ranks(done, name, ranks):
    alone, other = metrics(done / "1" / name), metrics(done / ranks / name)
    axes = EXPERIMENTS[name].get("sweep", {}).values()
    assert len(alone) >= max([1, *(len(axis) for axis in axes if isinstance(axis, list))])
    compare(alone, other, tolerance=0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_that_were_cut_short_twice_end_in_the_same_bits_on_other_numbers_of_ranks(done, name):
    compare(metrics(done / "1" / name), metrics(done / "cut" / name), tolerance=0)


WITHIN = """
import numpy as np, torch, topologies
from decentral.comm import LocalComm, MPIComm
from decentral.comm.links import Links
from decentral.comm.compression import Layout, LowRank, QSGD, RandomK, Span, TopK
layout = Layout((Span("a", 0, 13 * 7, (13, 7), "dense"), Span("b", 91, 99, (8,), "other")))
for graph in (topologies.ring(8), topologies.exponential(8), topologies.star(8), topologies.complete(8),
              topologies.erdos_renyi(8, p=0.3, seed=2)):
    w = topologies.mixing_matrix(graph, "push")
    for compressor in (TopK(0.1), QSGD(), LowRank(1), RandomK(0.3)):
        local, comm = LocalComm(w), MPIComm(w)
        for one in (local, comm):
            one.links = Links(compressor, layout, 1, one.rows)
        mine = slice(comm.rows.start, comm.rows.stop)
        crossing = 0
        for t, dtype in enumerate((torch.float64, torch.float32)):
            x = torch.from_numpy(np.random.default_rng(t).standard_normal((8, layout.d))).to(dtype)
            if t:  # a state has one dtype
                for one in (local, comm):
                    one.links.states.clear()
            here, there = comm.at(t), local.at(t)
            for ours, theirs in zip(here.mix_sent(x[mine]), there.mix_sent(x), strict=True):
                assert torch.equal(ours, theirs[mine])
            assert torch.equal(here.mix(x[mine]), there.mix(x)[mine])
            assert torch.equal(here.mix_(x[mine].clone()), there.mix_(x.clone())[mine])
            assert torch.equal(here.mean(x[mine]), there.mean(x))
            assert torch.equal(here.along.mix(x[mine, :1]), there.along.mix(x[:, :1])[mine])
            assert torch.equal(here.departing(x[mine]), x[comm.edges_out[:, 0]])
            y = torch.from_numpy(np.random.default_rng(9).standard_normal((len(local.edges_in), 5)))
            edges = slice(comm.edges_before, comm.edges_before + len(comm.edges_in))
            assert np.array_equal(comm.edges_in, local.edges_in[edges])
            assert np.array_equal(comm.weights_in, local.weights_in[edges])
            assert torch.equal(here.arrived(y[edges]), there.arrived(y)[mine])
        assert np.array_equal(comm.ledger.bytes_sent, local.ledger.bytes_sent[mine])
        assert comm.observe(np.full(comm.h, comm.ledger.messages / comm.h)).sum() == local.ledger.messages
        total = comm.observe(np.full(comm.h, 1.0 * comm.links.counts[""][1] / comm.h)).sum()
        assert total == local.links.counts[""][1]
x = torch.arange(8.0)[:, None].repeat(1, 3)  # packets cross ranks once each, with a head of 8 (1 + packets) bytes
comm = MPIComm(topologies.mixing_matrix(topologies.ring(8)))
comm.links = Links(TopK(1.0), Layout.whole(3), 1, comm.rows)
comm.at(0).mix(x[comm.rows.start : comm.rows.stop])
packet, others = 3 * 4 + 1, (2 if comm.ranks > 2 else 1)
rows = 2 if comm.h > 1 and others == 1 else 1
assert comm.ledger.mpi_bytes == others * (8 * (1 + rows) + rows * packet), comm.ledger.mpi_bytes
print("rank", comm.rank, "agrees")
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_packets_and_edges_are_bit_equal_between_the_worlds(ranks):
    done = run_ranks(ranks, "-c", WITHIN)
    assert done.stdout.count("agrees") == ranks, done.stderr
