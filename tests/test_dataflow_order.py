"""In which order an AMPNet worker takes its queues: that of a plain search over all messages and their arrivals."""

import random
from collections import deque

import pytest
import torch
from dataflow_networks import CLASSES, IN, Lists, distance, play, seeded

from decentral.dataflow.graph import Network
from decentral.dataflow.queues import Queue, Queued, taken
from decentral.dataflow.worker import Worker

PATIENCE = 8


class Idle(Queued):
    """Takes messages and does nothing with them but to fill its own queue again, ``refills`` times."""

    def __init__(self, log, turns=False, refills=0):
        super().__init__()
        self.log, self.refills = log, refills
        self.turns = turns

    def run_forward(self, most):
        self.log.append((self.name, "forward", [state for state, _ in taken(self.waiting, most)]))
        if self.refills:
            self.refills -= 1
            self.forward(0, [((-self.refills,), None)])

    def run_backward(self, most):
        self.log.append((self.name, "backward", [state for state, _ in taken(self.answers, most)]))


def worker_of(nodes, most):
    net = Network()
    for name, node in nodes.items():
        node.name = name
        net.nodes[name] = node
    return Worker(0, net, dict.fromkeys(nodes, 0), most)


def drive(worker):
    for request in worker.work():
        request.work(*request.args)


def expected(boxes, turning, batches, most):
    """(node, kind) of what is next: ``boxes[node, kind]`` are (batches then, arrival) of what waits there."""
    urgent = {
        key: box
        for key, box in boxes.items()
        if box and (key[1] == "backward" if key[0] not in turning else key[1] == "forward")
    }
    choice = urgent or {key: box for key, box in boxes.items() if box}
    oldest = min(choice, key=lambda key: min(choice[key]))
    if batches - min(choice[oldest])[0] >= PATIENCE:
        return oldest
    return min(choice, key=lambda key: (-min(most, len(choice[key])), min(choice[key])))


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_a_search_over_all_messages(seed, most):
    draw, log = random.Random(seed), []
    nodes = {str(i): Idle(log, turns=i == 4) for i in range(5)}
    worker = worker_of(nodes, most)
    boxes = {(name, kind): [] for name in nodes for kind in ("forward", "backward")}
    arrivals = 0
    for batches in range(400):
        while draw.random() < 0.6 or not worker.ready:
            name, kind = draw.choice("01234"), draw.choice(["forward", "backward"])
            kind = "forward" if name == "4" else kind
            many = draw.choice([1, 1, 1, 2, 5])
            messages = [((arrivals + k,), None) for k in range(many)]
            getattr(nodes[name], kind)(0, messages)
            boxes[name, kind] += [(batches, arrivals + k) for k in range(many)]
            arrivals += many
        name, kind = expected(boxes, {"4"}, batches + 1, most)
        drive(worker)
        box = boxes[name, kind]
        assert log[-1] == (name, kind, [(arrival,) for _, arrival in box[:most]])
        del box[:most]


@pytest.mark.parametrize(
    ("refilling", "size", "most"), [(1, 1, 1), (2, 1, 1), (1, 3, 1), (3, 5, 1), (1, 4, 2), (1, 4, 3)]
)
def test_who_fills_its_own_queue_keeps_nobody_waiting(refilling, size, most):
    log: list[tuple[str, str, list[tuple[int, ...]]]] = []
    nodes = {f"long {i}": Idle(log, refills=200) for i in range(refilling)} | {"head": Idle(log)}
    worker = worker_of(nodes, most)
    for i in range(refilling):
        nodes[f"long {i}"].forward(0, [((k,), None) for k in range(size)])
    nodes["head"].forward(0, [((7,), None)])
    for _ in range(2 * PATIENCE):
        drive(worker)
    turn = [name for name, _, _ in log].index("head")
    assert turn == (
        refilling * size if most == 1 else sum(size - k * (most - 1) > 1 for k in range(PATIENCE))
    )


def test_a_queue_knows_since_when_its_oldest_message_waits():
    queue, now = Queue(), [0]
    queue.now = lambda: (now[0], 0)
    for when, many in ((3, 2), (5, 1), (8, 3)):
        now[0] = when
        queue += [((k,), None) for k in range(many)]
    seen = []
    while queue:
        seen.append(queue.since[0])
        queue.popleft()
    assert seen == [3, 3, 5, 8, 8, 8]
    queue += [((0,), None)]
    assert queue.since == (8, 0)
    assert isinstance(queue, deque)


class Given(Lists):
    def __init__(self, rows):
        super().__init__(len(rows))
        self.rows = rows
        self.x = [torch.randn(n, IN, generator=seeded(k), dtype=torch.float64) for k, n in enumerate(rows)]
        self.y = [torch.randint(CLASSES, (n,), generator=seeded(99 + k)) for k, n in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "active", "most"),
    [
        ([50] + [1] * 60, 2, 1),
        ([50] + [1] * 60, 2, 99),
        ([50, 50] + [1] * 60, 3, 1),
        ([50, 50] + [1] * 60, 3, 99),
    ],
)
def test_short_lists_go_by_while_a_long_one_is_under_way(rows, active, most):
    case = Given(rows)
    ran = play(case, active, 1, most)
    spans = [span.tag for span in ran.trace.spans if span.kind in ("forward", "backward")]
    # long lists make a hundred visits to the cell: while they do, short ones come to the head and go
    assert spans[:90].count("head") > 12
    assert distance(ran.modules, case.reference(), lambda p: p.grad) < 1e-12
