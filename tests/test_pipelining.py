"""Our pipelines against those of torch.distributed.pipelining, on real ranks over gloo."""

import json

import pytest
import torch
from ranks import run_ranks

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")

COMPARE = """
import json
from benchmarks import pipelining
pipelining.STEPS, pipelining.WIDTH, pipelining.BATCH = 1, 64, 32
found = pipelining.compare()
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(found))
"""


@pytest.mark.mpi
def test_gpipe_and_1f1b_have_the_gradients_of_torch_distributed_pipelining():
    done = run_ranks(2, "-c", COMPARE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["difference"] < 1e-7
