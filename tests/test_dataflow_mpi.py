"""Networks of nodes over real ranks: the bits of one process, autograd's gradients, every instance back."""

import pytest
from ranks import run_ranks

BEGIN = """
import sys
sys.path.insert(0, "tests")
import torch
from mpi4py import MPI
from dataflow_networks import CASES, built, distance, play, same_bits, scattered
from decentral.dataflow.control import Controller, serve
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.runtime.mpi import MPIDriver, gathered
torch.set_num_threads(1)
world = MPI.COMM_WORLD
rank, ranks = world.rank, world.size

class SGD:  # torch.optim takes a second to import, on each rank
    def __init__(self, parameters, lr):
        self.lr, self.param_groups = lr, [{"params": parameters, "lr": lr}]
    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.sub_(p.grad, alpha=self.lr)
    def zero_grad(self, set_to_none):
        for p in self.param_groups[0]["params"]:
            p.grad = None

def of_node(lr, every, unit):
    return lambda name, parameters: Updates(SGD(parameters, lr), every, unit, ordered=True)

def on_ranks(case, active, most, place, phases, host, updates):
    'The modules of the workers here, by name, after the phases.'
    workers, programs, modules = {}, {}, {}
    for number in [w for w, r in enumerate(host) if r == rank]:
        net, own = built(case, updates=updates)
        worker = workers[number] = Worker(number, net, place, most)
        if number:
            programs[number] = serve(worker)
        else:
            controller = Controller(worker, active, len(host), phases)
            programs[0] = controller.run()
        here = [node.module for node in worker.nodes.values() if hasattr(node, "module")]
        modules |= {name: module for name, module in own.items() if any(module is m for m in here)}
    trace = gathered(MPIDriver(programs, host).run())
    for worker in workers.values():
        assert worker.network.held() == {}
        assert not any(edge.waiting for edge in worker.crossing.values())
    if 0 in workers:
        assert controller.most_under_way == min(active, max(map(len, phases)))
        assert sum(trace.channel_bytes.values()) > 0
    return modules
"""

PARITY = """
for kind in CASES:
    case = kind(8)
    phases = [[3, 0, 7, 5], range(8)]
    updates = of_node(0.2, 3, "instances")
    alone = play(case, 1, 1, 1, phases=phases, updates=updates).modules
    assert distance(alone, case.modules()) > 0.01
    for seed in range(2):
        place = scattered(built(case)[0].nodes, ranks, 10 * ranks + seed)
        mine = on_ranks(case, 1, 1, place, phases, list(range(ranks)), updates)
        assert same_bits(mine, {name: alone[name] for name in mine})
        everywhere = world.allgather(sorted(mine))
        assert sorted(name for names in everywhere for name in names) == sorted(case.modules())
"""

MANY = """
for kind in CASES:
    case = kind()
    expected = case.reference()
    for most, host in ((1, list(range(ranks))), (1000, [*range(ranks), ranks - 1])):
        place = scattered(built(case)[0].nodes, len(host), most)
        mine = on_ranks(case, 8, most, place, [range(case.count)], host, None)
        assert distance(mine, {name: expected[name] for name in mine}, lambda p: p.grad) < 1e-12
        # parameters change meanwhile: the run ends
        on_ranks(case, 8, most, place, [range(case.count), [], [1]], host, of_node(0.1, 2, "messages"))
"""


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_one_active_key_has_the_bits_of_one_process_and_many_the_gradients_of_autograd(ranks):
    script = BEGIN + PARITY + MANY + "print('fine', flush=True)"
    done = run_ranks(ranks, "-m", "mpi4py", "-c", script, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine") == ranks, done.stdout + done.stderr
