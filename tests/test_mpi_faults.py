"""Faults over MPI: the same bits, bytes and losses on 1, 2 and 4 ranks, wherever a run goes on."""

import pytest
from command import metrics
from cut_short import run_all
from everywhere import compare
from ranks import run_ranks

pytestmark = pytest.mark.mpi

AWAY = {"absent_workers": [2, 5], "leave_round": 3, "return_round": 7}
QUADRATIC = {
    "problem": {"name": "quadratic", "dimension": 7, "noise": 0.1},
    "train": {"lr": 0.05, "rounds": 11, "record_every": 2, "checkpoint_every": 4, "weight_decay": 0.01},
    "schedule": {"name": "cosine", "warmup_rounds": 3},
    "seeds": [3],
    "sweep": {
        "faults": [
            {"late": 0.5, "late_rounds": 3},
            {"loss": 0.2, "late": 0.4, "late_rounds": 2, **AWAY},
        ]
    },
}
EXPERIMENTS = {
    "undirected": {
        **QUADRATIC,
        "topology": {"name": "erdos-renyi", "workers": 8},
        "sweep": {
            **QUADRATIC["sweep"],
            "algorithm": {"name": ["decentlam", "gradient-tracking", "push-diging"]},
        },
    },
    "both-directions": {
        **QUADRATIC,
        "topology": {"name": "complete", "workers": 8},
        "faults": {"symmetric": True},
        "algorithm": {"name": "gossip-pga", "every": 3},
        "sweep": {"faults": [{"loss": 0.0}, {"loss": 0.3}, {"late": 0.3}]},
    },
    "directed": {
        **QUADRATIC,
        "topology": {"name": "file", "path": "g.edgelist", "directed": True},
        "algorithm": {"name": "push-sum"},
        "train": {**QUADRATIC["train"], "dtype": "float32"},
    },
    "changing": {
        **QUADRATIC,
        "topology": {"name": "one-peer-exponential", "workers": 8},
        "sweep": {**QUADRATIC["sweep"], "algorithm": {"name": ["push-sum", "dsgd"]}},
    },
    "network": {  # with buffers, which stand still too
        **QUADRATIC,
        "problem": {"name": "cnn", "data": "digits", "width": 2, "partition": "dirichlet"},
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "dmsgd"},
        "faults": {"absent_workers": [1], "leave_round": 2, "return_round": 9},
        "sweep": {"faults": [{"loss": 0.2}]},
        "train": {**QUADRATIC["train"], "batch_size": 4, "oracle": "loop", "eval_samples": 50},
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs: see cut_short."""
    return run_all(tmp_path_factory.mktemp("faults"), EXPERIMENTS)


@pytest.mark.parametrize("ranks", ["2", "4"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_has_the_same_bits_bytes_and_losses_on_one_two_and_four_ranks(done, name, ranks):
    alone, other = metrics(done / "1" / name), metrics(done / ranks / name)
    compare(alone, other, tolerance=0)
    assert any(
        float(row["lost_messages"]) + float(row["late_messages"]) for rows in alone.values() for row in rows
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_that_were_cut_short_twice_end_in_the_same_bits_on_other_numbers_of_ranks(done, name):
    compare(metrics(done / "1" / name), metrics(done / "cut" / name), tolerance=0)


WITHIN = """
import numpy as np, torch, topologies
from decentral.comm import LocalComm, MPIComm
from decentral.comm.faults.links import Faults
from decentral.comm.faults.fates import Fates
for graph in (topologies.star(8), topologies.erdos_renyi(8, p=0.3, seed=2)):
    w = topologies.mixing_matrix(graph, "push")
    for pushes in (False, True):
        for dtype in (torch.float32, torch.float64):
            x = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 101))).to(dtype)
            local, comm = LocalComm(w), MPIComm(w)
            mine = slice(comm.rows.start, comm.rows.stop)
            for one, rows in ((local, x), (comm, x[mine])):
                fates = Fates(one.schedule, 3, 0.3, 0.4, 2, absent=(1, 6), leave=3, back=6)
                one.faults = Faults(fates, pushes, one.rows, rows)
            for t in range(9):
                here, there = comm.at(t), local.at(t)
                for v in (x, 2 * x):
                    assert torch.equal(here.mix_(v[mine].clone()), there.mix_(v.clone())[mine])
                assert torch.equal(here.along.mix(x[mine, :1]), there.along.mix(x[:, :1])[mine])
                x = x + 1
            assert torch.equal(comm.faults.drift, local.faults.drift[mine])
            assert np.array_equal(comm.faults.counts, local.faults.counts)
            assert np.array_equal(comm.ledger.bytes_sent, local.ledger.bytes_sent[mine])
            assert comm.observe(np.full(comm.h, comm.ledger.messages / comm.h)).sum() == local.ledger.messages
print("rank", comm.rank, "agrees")
"""


@pytest.mark.parametrize("ranks", [4])
def test_what_arrives_is_bit_equal_between_the_worlds(ranks):
    done = run_ranks(ranks, "-c", WITHIN)
    assert done.stdout.count("agrees") == ranks, done.stderr
