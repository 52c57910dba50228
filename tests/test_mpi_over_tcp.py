"""Ranks that only TCP joins: a block of columns leaves before its receiver has asked for it."""

import json

import pytest
from ranks import run_ranks

from decentral.comm import launch

OVER_TCP = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,tcp", "OMPI_MCA_btl_tcp_if_include": "lo"}
LEAVES = """
import json, time
import numpy as np
from decentral.blocks import block_width
from decentral.comm.mpi import MPI
world, left = MPI.COMM_WORLD, {}
for elements in (block_width(1, 10**9), 2 * block_width(1, 10**9)):
    block = np.full(elements, world.rank, np.float64)
    if world.rank == 0:
        sent, began = world.Isend(block, dest=1), time.perf_counter()
        while not (gone := sent.Test()) and time.perf_counter() - began < 2:
            time.sleep(0.01)
        left[elements] = gone
    world.Barrier()  # before it nobody receives
    if world.rank == 1:
        world.Recv(block, source=0)
        assert not block.any()
    elif not gone:
        sent.Wait()
if world.rank == 0:
    print(json.dumps([MPI.get_vendor()[0], *left.values()]))
"""


@pytest.mark.mpi
def test_a_block_of_columns_leaves_before_it_is_asked_for_and_what_is_longer_does_not():
    done = run_ranks(2, "-c", LEAVES, **OVER_TCP)
    assert done.returncode == 0, done.stderr
    vendor, *left = json.loads(done.stdout)
    if vendor != "Open MPI":
        pytest.skip(f"{vendor} has other limits")
    assert left == [True, False]


def test_a_limit_that_is_set_is_left(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_btl_tcp_eager_limit", "70000")
    launch.send_without_asking()
    assert launch.os.environ["OMPI_MCA_btl_tcp_eager_limit"] == "70000"
