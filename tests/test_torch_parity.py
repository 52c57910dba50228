"""The third world: ranks of torch.distributed have the bits, the bytes and the endings of one process and of MPI."""

import pytest
import test_dataflow_mpi
import test_drop_in
import test_mpi_faults
import test_mpi_parity
import tomli_w
from command import QUADRATIC
from cut_short import run_all
from test_mpi_parity import compare, metrics
from torch_ranks import run_torch

from decentral.algorithms import ALGORITHMS

pytestmark = pytest.mark.mpi

NOISY = {
    "problem": {"name": "quadratic", "dimension": 7, "noise": 0.1},
    "train": {"lr": 0.05, "rounds": 10, "record_every": 2, "checkpoint_every": 4, "weight_decay": 0.01},
    "seeds": [3],
}
NETWORK = {
    **NOISY,
    "problem": {"name": "cnn", "data": "digits", "width": 2, "partition": "dirichlet"},
    "train": {**NOISY["train"], "batch_size": 4, "oracle": "loop", "eval_samples": 50},
    "topology": {"name": "ring", "workers": 8},
}
CUT = {
    "faults": {
        **NOISY,
        "topology": {"name": "erdos-renyi", "workers": 8},
        "algorithm": {"name": "gradient-tracking"},
        "faults": {"loss": 0.2, "late": 0.4, "late_rounds": 2},
    },
    "differences": {
        **NETWORK, "algorithm": {"name": "choco", "gamma": 0.3}, "compression": {"name": "top-k", "fraction": 0.05}
    },
    "gradients": {
        **NETWORK,
        "algorithm": {"name": "pmsgd", "momentum": 0.0},
        "compression": {"name": "adacomp"},
        "train": {**NETWORK["train"], "dtype": "float32"},
    },
}  # fmt: skip
"""Runs of rounds, which are also cut short twice."""

DIGITS = {"name": "mlp", "data": "digits", "hidden": [8, 8]}
EXACT = {"max_active_keys": 1, "unit": "instances", "batching": False, "ordered": True}
RL = {
    "name": "rl", "width": 6, "warmup": 8, "replay": 60, "episodes": 2, "episode_steps": 12, "actors": 2, "envs": 2,
    "pull_every": 3, "actor_ranks": 1,
}  # fmt: skip
TIMES = {"wall_s", "simulated_s", "instances_per_s", "occupancy", "mpi_bytes_sent"}
SHORT = {"lr": 0.05, "rounds": 6, "record_every": 3, "dtype": "float64"}
WHOLE = {  # name -> (numbers of ranks, table)
    "methods": ((4,), {**NOISY, "topology": {"name": "tree", "workers": 8}, "train": {**NOISY["train"], "rounds": 6},
                       "sweep": {"algorithm": [{"name": n} for n in ALGORITHMS]}}),
    "stages": ((2, 4), {"problem": DIGITS, "program": {"name": "backprop"}, "stages": {"count": 2}, "train": SHORT,
                        "topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "decentlam"}}),
    "local": ((2,), {"problem": {**DIGITS, "hidden": [300, 300]}, "program": {"name": "local"}, "stages": {"count": 2},
                     "train": {**SHORT, "batch_size": 64}}),
    "nodes": ((2,), {"problem": DIGITS, "dataflow": {"workers": 2, **EXACT},
                     "train": {**SHORT, "rounds": 2, "record_every": 1, "batch_size": 20}}),
    "assisted": ((2,), {"problem": {"name": "cnn", "data": "digits", "width": 4}, "optimizer": {"name": "sgd"},
                        "assistant": {"lr": 1.0, "synchronous": True}, "train": {**SHORT, "eval_samples": 50}}),
    "actors": ((2, 4), {"problem": RL, "topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dmsgd"},
                        "train": {**SHORT, "batch_size": 6}}),
    "attackers": ((2, 4), {"problem": DIGITS, "topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dsgd"},
                           "adversarial": {"eps": 0.1, "attackers": True}, "train": SHORT}),
}  # fmt: skip

MORE = """
Journal.keep, command._one = keep, one
for file in sorted(home.glob(f"whole/{whole}-*.toml")):
    code = command.run(file, (), home / "whole" / file.stem, False)
    assert code == 0, (file, code)
file = home / "asynchronous.txt"
if whole == "4":
    assert command.run(file, (), home / "asynchronous", False) == 0
"""
ON_RANKS = """
import decentral.runtime.ranks as of_ranks
from decentral.comm.distributed.joining import joined
def MPIDriver(programs, host, **more):
    return of_ranks.RanksDriver(programs, host, joined(), **more)
def gathered(trace):
    return of_ranks.gathered(trace, joined())
"""


def over_torch(script):
    """A script of MPI's tests, for ranks of torch."""
    for line in ("from mpi4py import MPI", "from decentral.runtime.mpi import MPIDriver, gathered"):
        script = script.replace(line, "")
    script = script.replace(
        "decentral.comm.mpi_world import MPIWorld", "decentral.comm.distributed.world import TorchWorld"
    )
    for mpi, torch in (("MPIComm", "TorchComm"), ("MPIWorld", "TorchWorld"), ("MPI.COMM_WORLD", "joined()")):
        script = script.replace(mpi, torch)
    return ON_RANKS + script


SCRIPTS = {  # name -> (numbers of ranks, script)
    "mixing": ("24", test_mpi_parity.WITHIN),
    "faults": ("4", test_mpi_faults.WITHIN),
    "nodes": ("2", test_dataflow_mpi.BEGIN + test_dataflow_mpi.PARITY + test_dataflow_mpi.MANY),
    "drop-in": ("2", test_drop_in.TOML),
}


def start(ranks, *args):
    return run_torch(ranks, *args, timeout=280)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of their runs: see cut_short; and under whole, RANKS-NAME."""
    home = tmp_path_factory.mktemp("torch")
    (home / "whole").mkdir()
    for name, (worlds, table) in WHOLE.items():
        for ranks in (1, *worlds):
            (home / "whole" / f"{ranks}-{name}.toml").write_text(tomli_w.dumps({"name": name, **table}))
    table = QUADRATIC | {"algorithm": {"name": "ad-psgd"}, "train": {**QUADRATIC["train"], "rounds": 40}}
    (home / "asynchronous.txt").write_text(tomli_w.dumps(table))
    more = MORE
    for worlds, script in SCRIPTS.values():
        more += f"\nif whole in {worlds!r}:\n    exec({over_torch(script)!r}, {{}})\n"
    return run_all(home, CUT, start, more)


@pytest.mark.parametrize("ranks", ["2", "4", "cut"])
@pytest.mark.parametrize("name", CUT)
def test_rounds_have_the_bits_and_bytes_of_one_process_also_where_other_ranks_went_on(done, name, ranks):
    compare(metrics(done / "1" / name), metrics(done / ranks / name), tolerance=0)


def numbers(folder):
    """Run id -> its rows without those of clocks, which ranks have of their own."""
    found = metrics(folder).items()
    return {name: [{k: v for k, v in row.items() if k not in TIMES} for row in rows] for name, rows in found}


@pytest.mark.parametrize(
    "case", [f"{ranks}-{name}" for name, (worlds, _) in WHOLE.items() for ranks in worlds]
)
def test_all_kinds_have_the_bits_and_bytes_of_one_process(done, case):
    name = case.partition("-")[2]
    alone, other = numbers(done / "whole" / f"1-{name}"), numbers(done / "whole" / case)
    assert alone == other
    assert all(len(rows) > 1 for rows in alone.values())


def test_asynchronous_workers_come_to_their_end(done):
    (rows,) = metrics(done / "asynchronous").values()
    assert int(rows[-1]["round"]) >= 40
    assert int(rows[-1]["mpi_bytes_sent"]) > 0
