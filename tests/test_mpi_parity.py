"""One text, two worlds: one process, 2 ranks and 4 ranks give the same metrics and the same ledgers."""

import pytest
from command import metrics
from everywhere import compare, run_all_everywhere
from ranks import decentral, run_ranks

import topologies

pytestmark = pytest.mark.mpi

METHODS = """
[[sweep.algorithm]]
name = "pmsgd"
[[sweep.algorithm]]
name = "pmsgd"
nesterov = true
[[sweep.algorithm]]
name = "pmsgd"
momentum = 0.0
[[sweep.algorithm]]
name = "dsgd"
[[sweep.algorithm]]
name = "dsgd"
variant = "awc"
[[sweep.algorithm]]
name = "dmsgd"
[[sweep.algorithm]]
name = "dmsgd"
variant = "awc"
[[sweep.algorithm]]
name = "dmsgd"
variant = "nesterov"
[[sweep.algorithm]]
name = "dmsgd"
variant = "doubly-averaged"
[[sweep.algorithm]]
name = "decentlam"
[[sweep.algorithm]]
name = "matcha"
"""

QUADRATIC = """
seeds = [3]
[problem]
name = "quadratic"
dimension = 5
noise = 0.1
[topology]
name = "{topology}"
workers = {workers}
[network]
latency_s = "1 ms"
bandwidth_bytes_s = 1e4
compute = {{ name = "lognormal", median_s = 0.01, sigma = 1.0 }}
[train]
lr = 0.02
rounds = 23
dtype = "float64"
record_every = 5
weight_decay = 0.01
[schedule]
name = "cosine"
warmup_rounds = 4
"""

NETWORK = """
[problem]
name = "{problem}"
data = "digits"
partition = "dirichlet"
alpha = 0.3
[topology]
name = "ring"
workers = 8
[train]
lr = 0.05
rounds = 12
batch_size = {batch}
dtype = "float64"
oracle = "{oracle}"
record_every = 4
[[sweep.algorithm]]
name = "decentlam"
[[sweep.algorithm]]
name = "pmsgd"
"""

FAMILY = "".join(
    f'[[sweep.algorithm]]\nname = "{name}"\n{more}\n'
    for name, more in [
        ("quasi-global", ""), ("quasi-global", "nesterov = true"), ("d2", ""), ("exact-diffusion", ""), ("extra", ""),
        ("gradient-tracking", ""), ("gradient-tracking", "momentum = 0.5"), ("diging", ""), ("momentum-tracking", ""),
        ("local-sgd", "every = 4"), ("gossip-pga", "every = 4"), ("slowmo", "every = 4"), ("diloco", "every = 4"),
    ]
)  # fmt: skip


SCHEDULES = list(topologies.SCHEDULES)
GRAPHS = {"ring": 4, "torus": 8, "erdos-renyi": 12}
PROBLEMS = {"mlp": 16, "cnn": 16, "logistic-regression": '"full"'}
LAZY = QUADRATIC.format(topology="erdos-renyi", workers=8).replace("workers =", 'weights = "lazy"\nworkers =')
ALIKE = {
    **{name: QUADRATIC.format(topology=name, workers=n) + METHODS for name, n in GRAPHS.items()},
    **{name: NETWORK.format(problem=name, batch=batch, oracle="loop") for name, batch in PROBLEMS.items()},
    "family": LAZY + FAMILY,
    "schedules": QUADRATIC.format(topology="ring", workers=8)
    + f'[algorithm]\nname = "dmsgd"\n[sweep]\ntopology.name = {SCHEDULES}\n',
}
RUNS = {"family": 13, "schedules": len(SCHEDULES)} | dict.fromkeys(GRAPHS, 11) | dict.fromkeys(PROBLEMS, 2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs."""
    chosen = NETWORK.format(problem="mlp", batch=16, oracle="auto")
    return run_all_everywhere(tmp_path_factory.mktemp("parity"), {**ALIKE, "chosen": chosen})


@pytest.mark.parametrize("name", ALIKE)
def test_every_method_and_schedule_has_the_same_bits_and_bytes_on_one_two_and_four_ranks(done, name):
    alone, *others = (metrics(done / f"out{ranks}" / name) for ranks in (1, 2, 4))
    assert len(alone) == RUNS[name]
    for other in others:
        compare(alone, other, tolerance=0)


def test_networks_agree_to_rounding_where_ranks_choose_their_oracle(done):
    alone, *others = (metrics(done / f"out{ranks}" / "chosen") for ranks in (1, 2, 4))
    for other in others:
        compare(alone, other, tolerance=1e-12)


WITHIN = """
import numpy as np, torch, topologies
from decentral.comm import LocalComm, MPIComm
for graph in (topologies.ring(8), topologies.exponential(8), topologies.star(8), topologies.complete(8),
              topologies.erdos_renyi(8, p=0.3, seed=2)):  # some ranks want all rows of another, some want a few
    w = topologies.mixing_matrix(graph)
    local, comm = LocalComm(w), MPIComm(w)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 1001)))
    mine = slice(comm.rows.start, comm.rows.stop)
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype)
        assert torch.equal(comm.mix(y[mine]), local.mix(y)[mine])
        assert torch.equal(comm.mix(y[mine, 10:500]), local.mix(y[:, 10:500])[mine])
        given = y[mine].clone()
        taken = comm.mix_(given)
        assert torch.equal(taken, local.mix_(y.clone())[mine])
        if comm.h == 1 and not comm.plan.exact:
            assert taken.data_ptr() == given.data_ptr()  # no second array a round
        assert torch.equal(comm.mean(y[mine]), local.mean(y))
        edges = torch.from_numpy(comm.edges_out).to(dtype)
        assert torch.equal(comm.exchange(edges), torch.from_numpy(comm.edges_in).to(dtype))
        local.exchange(torch.from_numpy(local.edges_out).to(dtype))
    first, second = comm.start(x[mine]), comm.start(2 * x[mine])
    assert torch.equal(comm.finish(second), local.mix(2 * x)[mine])
    assert torch.equal(comm.finish(first), local.mix(x)[mine])
    assert np.array_equal(comm.ledger.bytes_sent, local.ledger.bytes_sent[mine])
    assert comm.observe(np.full(comm.h, comm.ledger.messages / comm.h)).sum() == local.ledger.messages
    assert comm.ledger.mpi_bytes > 0
print("rank", comm.rank, "agrees")
"""


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_mixing_means_and_edges_are_bit_equal_between_the_worlds(ranks):
    done = run_ranks(ranks, "-c", WITHIN)
    assert done.stdout.count("agrees") == ranks, done.stderr


RING_BYTES = """
import torch, topologies
from decentral.comm import MPIComm
comm = MPIComm(topologies.mixing_matrix(topologies.ring(8)))
comm.mix(torch.zeros(comm.h, 10))
total = comm.observe(__import__("numpy").full(comm.h, comm.ledger.mpi_bytes / comm.h)).sum()
assert total == 2 * comm.ranks * 10 * 4, total      # two rows leave each rank, whatever it hosts
before = comm.ledger.mpi_bytes
comm.observe_mean(torch.zeros(comm.h, 10))
assert comm.ledger.mpi_bytes == before      # what is measured is no traffic of the method
comm.mean(torch.zeros(comm.h, 10))
assert comm.ledger.mpi_bytes > before
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_mpi_moves_only_the_rows_that_cross_ranks(ranks):
    done = run_ranks(ranks, "-c", RING_BYTES)
    assert done.returncode == 0, done.stderr


def test_ranks_that_do_not_divide_the_workers_are_refused_in_one_line(tmp_path):
    (tmp_path / "x.toml").write_text(
        QUADRATIC.format(topology="ring", workers=8) + '[algorithm]\nname = "dsgd"\n'
    )
    done = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out", ranks=3)
    assert done.returncode == 2
    assert done.stderr.count("topology has 8 workers but MPI has 3 ranks") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_on_one_rank_ends_all_ranks_with_its_text(tmp_path):
    (tmp_path / "breaks.py").write_text(
        "import os, torch\n"
        "class Breaks(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if self.training and os.environ.get('OMPI_COMM_WORLD_RANK', os.environ.get('PMI_RANK')) == '1':\n"
        "            raise RuntimeError('worker of rank 1 caught fire')\n"
        "        return super().forward(x.flatten(1))\n"
        "def make(shape, classes):\n"
        "    return Breaks(64, classes)\n"
    )
    text = NETWORK.format(problem="module", batch=8, oracle="loop").replace(
        'data = "digits"', 'data = "digits"\nfactory = "breaks:make"'
    )
    (tmp_path / "x.toml").write_text(text)
    done = decentral(
        "run", tmp_path / "x.toml", "--out", tmp_path / "out", ranks=2, PYTHONPATH=f"{tmp_path}:.", timeout=60
    )
    assert done.returncode != 0
    assert "rank 1" in done.stderr
    assert "caught fire" in done.stderr


def test_another_mpis_launcher_is_noticed():
    code = "from decentral.comm.launch import check_launch\nfrom decentral.errors import UserError\n"
    code += "try:\n    check_launch(1)\nexcept UserError as e:\n    print(e)\n"
    done = run_ranks(1, "-c", code, OMPI_COMM_WORLD_SIZE="4")
    assert "started 4 processes but the MPI library sees 1 rank" in done.stdout


def test_the_package_works_where_there_is_no_mpi4py():
    code = (
        "import sys\nsys.modules['mpi4py'] = None\nimport decentral.runs.run, decentral.comm\nprint('fine')"
    )
    done = run_ranks(1, "-c", code, fresh=True)
    assert "fine" in done.stdout, done.stderr
