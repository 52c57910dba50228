"""Asynchronous training of networks of nodes: autograd's gradients, when it is SGD, how stale gradients get, drains."""

import itertools
import random
import signal
from contextlib import contextmanager

import pytest
import torch
from dataflow_networks import (
    CASES,
    CLASSES,
    IN,
    WIDTH,
    Chain,
    Lists,
    distance,
    linear,
    play,
    same_bits,
    seeded,
)

from decentral.dataflow.edges import InvariantError
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Group
from decentral.dataflow.replicas import add_replicated
from decentral.dataflow.transforms import Linear
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.errors import UserError
from decentral.runtime import DeadlockError


def sgd(lr=0.1, momentum=0.0, **settings):
    """Updates of all nodes alike; ``every`` may be a number for each node, by name."""
    every = settings.pop("every", 1)

    def of_node(name, parameters):
        count = every.get(name, 1) if isinstance(every, dict) else every
        return Updates(torch.optim.SGD(parameters, lr, momentum), count, **settings)

    return of_node


def synchronous(case, every=1, lr=0.1, momentum=0.0):
    """Modules after SGD in plain torch, with the mean gradient of ``every`` instances, at last of those left."""
    modules = case.modules()
    optimizer = torch.optim.SGD([p for m in modules.values() for p in m.parameters()], lr, momentum)
    for key in range(case.count):
        case.loss(modules, key).backward()
        gathered = key % every + 1
        if gathered == every or key + 1 == case.count:
            for p in optimizer.param_groups[0]["params"]:
                p.grad = None if p.grad is None else p.grad / gathered
            optimizer.step()
            optimizer.zero_grad()
    return modules


def delays(seed):
    """A link model under which messages of different channels overtake each other."""
    draw, fixed = random.Random(seed), {}
    return lambda channel, size: (5 * draw.random(), fixed.setdefault(channel, 20 * draw.random()))


@pytest.mark.parametrize("kind", CASES)
def test_gradients_are_those_of_autograd_whatever_the_order(kind):
    case = kind()
    expected = case.reference()
    for active, workers, most, link in (
        (1, 1, 1, None), (4, 1, 3, None), (50, 1, 1000, None), (1, 2, 1000, delays(0)),
        (5, 3, 1, delays(1)), (50, 3, 1000, delays(2)), (50, 4, 2, None),
    ):  # fmt: skip
        ran = play(case, active, workers, most, link=link)
        assert distance(ran.modules, expected, lambda p: p.grad) < 1e-12
        assert ran.controller.most_under_way == min(active, case.count)
        for worker in ran.workers:
            assert worker.network.held() == {}
            assert not any(edge.waiting for edge in worker.crossing.values())


@pytest.mark.parametrize("kind", CASES)
def test_sums_in_the_order_of_states_have_the_same_bits_whatever_the_timing(kind):
    case = kind()
    options = {"updates": sgd(lr=1.0, every=10**9, reduce="sum", ordered=True)}  # one update, at the drain
    expected = play(case, **options).modules
    assert distance(expected, case.modules()) > 0.1
    for active, workers in ((3, 1), (50, 1), (1, 3), (7, 3)):
        ran = play(case, active, workers, link=delays(active) if workers > 1 else None, **options)
        assert same_bits(ran.modules, expected)
    unordered = play(case, 50, updates=sgd(lr=1.0, every=10**9, reduce="sum")).modules
    assert distance(unordered, expected) < 1e-12


@pytest.mark.parametrize("every", [1, 4])
def test_one_active_key_on_a_chain_is_synchronous_sgd_bit_for_bit(every):
    case = Chain(14)
    expected = synchronous(case, every, momentum=0.9)
    for workers in (1, 2, 3):
        ran = play(case, 1, workers, updates=sgd(momentum=0.9, every=every))
        assert same_bits(ran.modules, expected)
        assert all(ran.nodes[name].updates.staleness == {0: 14} for name in "abc")
    assert not same_bits(play(case, 3, updates=sgd(momentum=0.9, every=every)).modules, expected)


@pytest.mark.parametrize("every", [1, 4])
def test_the_written_out_derivative_of_an_affine_layer_has_the_bits_of_autograd(every):
    case = Chain(14)
    ran = play(case, updates=sgd(every=every), kind=dict.fromkeys("abc", Linear))
    expected = synchronous(case, every)
    assert distance(ran.modules, expected) < 1e-14
    assert same_bits(ran.modules, expected)


def of_length(length, count):
    """Lists that are all as long."""
    case = Lists(count)
    case.rows = [length] * count
    case.x = [torch.randn(length, IN, generator=seeded(k), dtype=torch.float64) for k in range(count)]
    return case


def test_one_active_key_on_a_loop_is_synchronous_sgd_only_where_updates_fall_between_instances():
    case = of_length(6, 8)
    expected = synchronous(case)

    def error(stash=False, **settings):
        ran = play(case, updates=sgd(reduce="sum", **settings), stash=stash)
        return distance(ran.modules, expected)

    assert error(every={"cell": 6}) == 0.0
    assert error(unit="instances") == 0.0
    assert error(stash=True) < 1e-13
    assert error() > 0.1
    assert error(every={"cell": 4}) > 0.01
    assert error(every={"cell": 4}, stash=True) > 0.01


def test_instances_of_differing_structure_are_synchronous_sgd_where_instances_are_counted():
    links = (None, lambda channel, size: (0, 30 * (channel.name == "control")))  # told late: all wait for it
    for kind in CASES:
        case = kind()
        for every, link in itertools.product((1, 5), links):
            ran = play(case, 1, 3, link=link, updates=sgd(momentum=0.9, every=every, unit="instances"))
            assert distance(ran.modules, synchronous(case, every, momentum=0.9)) < 1e-12


class LossAtOnce(Loss):
    """Turns a message round when it comes, as work of the node before it: it costs nothing."""

    def forward(self, port, messages):
        self.waiting += messages
        self.run_forward(len(messages))


class Four(Chain):
    """Four affine layers, each on a worker of its own."""

    place = {"in": 0, "0": 0, "1": 1, "2": 2, "3": 3, "loss": 3}  # noqa: RUF012

    def modules(self):
        return {str(i): linear(WIDTH if i else IN, WIDTH if i < 3 else CLASSES, i) for i in range(4)}

    def network(self, make):
        net = Network()
        node = net.add("in", Input(lambda k: [(0, (k,), self.x[k])]))
        for i in range(4):
            node = net.add(str(i), make(str(i)), node)
        net.add("loss", LossAtOnce(lambda state: self.y[state[0]]), node)
        return net

    def timed(self, active, forward=(1, 1, 1, 1), backward=(1, 1, 1, 1)):
        """Seconds an instance, and the stalenesses of the four, where work takes so many seconds."""
        costs = {"forward": forward, "backward": backward, "inject": (0, 0, 0, 0)}
        ran = play(
            self,
            active,
            4,
            place=self.place,
            cost=lambda worker, kind: costs[kind][worker],
            updates=sgd(0.01),
        )
        assert ran.controller.most_under_way == active
        return ran.trace.makespan_s / self.count, [ran.nodes[str(i)].updates.staleness for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("active", "ticks", "stalest"),
    [
        (1, 8.00, [0, 0, 0, 0]), (2, 4.01, [1, 1, 1, 0]), (3, 2.68, [2, 2, 2, 0]), (4, 2.03, [3, 3, 2, 0]),
        (6, 2.03, [5, 4, 2, 0]), (8, 2.03, [6, 4, 2, 0]), (12, 2.03, [6, 4, 2, 0]),
    ],
)  # fmt: skip
def test_an_equal_cost_chain_is_full_with_as_many_keys_as_nodes(active, ticks, stalest):
    seconds, staleness = Four(200).timed(active)
    assert seconds == pytest.approx(ticks, abs=0.03)
    assert seconds >= max(8 / active, 2)
    assert [max(lags) for lags in staleness] == stalest
    if active == 4:
        mean = [sum(lag * many for lag, many in lags.items()) / 200 for lags in staleness]
        assert mean == pytest.approx([2.98, 1.99, 1.00, 0.0], abs=0.02)


@pytest.mark.parametrize(("active", "ticks"), [(1, 12.0), (2, 7.0), (3, 6.0), (4, 6.0)])
def test_the_dearest_node_of_an_unequal_chain_bounds_it(active, ticks):
    seconds, _ = Four(200).timed(active, forward=(1, 2, 1, 1), backward=(1, 4, 1, 1))
    assert seconds == pytest.approx(ticks, abs=0.05)
    assert seconds >= max(12 / active, 6)


def test_in_a_loop_gradients_are_staler_than_active_keys_let_one_think():
    def stalest(lengths, active):
        case = Lists(len(lengths))
        case.rows = lengths
        case.x = [torch.randn(n, IN, generator=seeded(n), dtype=torch.float64) for n in lengths]
        return max(play(case, active, updates=sgd(0.001)).nodes["cell"].updates.staleness)

    assert stalest([5] * 4, 1) == 4  # its own later visits
    assert stalest([50] + [1] * 60, 2) > 49


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("unit", ["messages", "instances"])
def test_more_keys_than_instances_one_instance_or_none_end(workers, unit):
    case = Lists()
    start = case.modules()
    for phases in ([], [[]], [[5]], [[], [3, 1], [7], []]):
        ran = play(case, 50, workers, phases=phases, updates=sgd(every=3, unit=unit), link=delays(3))
        longest = max(map(len, phases), default=0)
        assert ran.controller.most_under_way == longest
        assert (distance(ran.modules, start) > 0) == (longest > 0)  # with what a drain finds left
        assert all(worker.network.held() == {} for worker in ran.workers)


@contextmanager
def cpu_limit(seconds):
    """Raises TimeoutError in a loop that runs on and on."""

    def stop(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class NeverFull(Chain):
    """Groups of two, of instances that send one."""

    def modules(self):
        return {"a": linear(IN, CLASSES, 0)}

    def network(self, make):
        net = Network()
        source = net.add("in", Input(lambda k: [(0, (k, 0), self.x[k])]))
        group = net.add("group", Group(lambda s: s[:1], lambda s: 2), net.add("a", make("a"), source))
        net.add("loss", Loss(lambda s: self.y[s[0]]), group)
        return net


@pytest.mark.parametrize("workers", [1, 2])
def test_a_group_that_never_fills_up_is_an_error_and_no_endless_wait(workers):
    with cpu_limit(0.5), pytest.raises((DeadlockError, InvariantError)):
        play(NeverFull(), 2, workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_active_keys_are_an_error_and_no_endless_wait(workers):
    with cpu_limit(0.5), pytest.raises((UserError, InvariantError)):
        play(Chain(), 0, workers)


class Evaluated(Chain):
    """Odd keys are only evaluated."""

    def network(self, make):
        net = super().network(make)
        net.nodes["loss"].learns = lambda key: key % 2 == 0
        return net


def test_instances_that_are_only_evaluated_leave_no_trace_but_their_score():
    case, learned = Evaluated(), Chain()
    learned.count, learned.x, learned.y = 6, case.x[::2], case.y[::2]
    ran = play(case, 1, 2, updates=sgd(every=2))
    assert same_bits(ran.modules, synchronous(learned, 2))
    ran = play(case, 7, 2, updates=sgd(lr=0.0))
    score = ran.nodes["loss"].score
    modules, logits = case.modules(), []
    with torch.no_grad():
        total = sum(float(case.loss(modules, k)) for k in range(case.count))
        chain = torch.nn.Sequential(*modules.values())
        logits = torch.cat([chain(x) for x in case.x])
    assert score.loss == pytest.approx(total, abs=1e-12)
    assert score.correct == int((logits.argmax(1) == torch.cat(case.y)).sum())
    assert (score.rows, score.messages) == (sum(case.rows), case.count)


def test_only_instances_that_are_learned_from_count_for_updates():
    case, learned = Evaluated(), Chain()
    learned.count, learned.x, learned.y = 6, case.x[::2], case.y[::2]
    ran = play(case, updates=sgd(every=2, unit="instances"))
    assert ran.nodes["a"].updates.count == 3
    assert same_bits(ran.modules, synchronous(learned, 2))


def test_replicas_share_the_instances_and_their_mean_is_what_they_all_become():
    class Replicated(Chain):
        def modules(self):
            return {"heavy": linear(IN, CLASSES, 0), "copy": linear(IN, CLASSES, 0)}

        def network(self, make):
            net = Network()
            source = net.add("in", Input(lambda k: [(0, (k,), self.x[k])]))
            replica = lambda name, kind, i=0: make(("heavy", "copy")[i])  # noqa: E731
            net.add("loss", Loss(lambda s: self.y[s[0]]), add_replicated(net, "heavy", replica, source, 2))
            return net

        def loss(self, m, key):
            return torch.nn.functional.cross_entropy(m[("heavy", "copy")[key % 2]](self.x[key]), self.y[key])

    case = Replicated()
    expected = case.reference()
    for active in (1, 5):
        ran = play(case, active, 2)
        assert distance(ran.modules, expected, lambda p: p.grad) < 1e-12
        assert list(ran.nodes) == ["in", "heavy?", "heavy.0", "heavy.1", "heavy!", "loss"]
    start = case.modules()["heavy"]
    for workers in (1, 3):
        apart, together = (
            play(case, 1, workers, updates=sgd(), averages=lambda number, on=on: on).modules
            for on in (False, True)
        )
        for p, a, b, c, d in zip(
            start.parameters(),
            *(m.parameters() for run in (apart, together) for m in run.values()),
            strict=True,
        ):
            assert torch.equal(c, d)
            assert torch.equal(c, (a + b) / 2)
            assert not torch.equal(a, p)
            assert not torch.equal(a, b)


@pytest.mark.parametrize("kind", CASES)
def test_what_is_kept_is_bounded_by_the_active_keys_and_not_by_the_instances(kind, monkeypatch):
    peaks = []
    work = Worker.work

    def watched(self):
        yield from work(self)
        peaks[-1] = max(peaks[-1], sum(self.network.held().values()))

    def peak(count, active):
        peaks.append(0)
        play(kind(count), active)
        return peaks[-1]

    monkeypatch.setattr(Worker, "work", watched)
    alone = peak(24, 1)
    for active in (2, 6):
        assert peak(12, active) <= active * alone
        assert peak(24, active) <= active * alone
    assert peak(24, 24) > peak(24, 6)
