"""Asynchronous programs: delayed gradients are those of a simulation by hand; without delay nothing differs."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from decentral.runtime import VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.layers import Network
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.decoupled import Decoupled, Replay
from decentral.stages.programs.stale_pipeline import StalePipeline
from decentral.stages.stage import Stage

WIDTH, CLASSES, BATCH = 6, 4, 5
CORRECTIONS = ("none", "stashing", "pipemare", "nesterov")
WORK = {"forward": 1.0, "backward": 1.0, "update": 0.0}


class Head(nn.Module):
    """A local head: linear, cross-entropy."""

    def __init__(self, layer):
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES, bias=False).double()
        weights = torch.randn(
            CLASSES, WIDTH, generator=torch.Generator().manual_seed(layer), dtype=torch.float64
        )
        self.linear.weight.data.copy_(weights / 3)

    def loss(self, h, labels, inputs):
        assert len(inputs()) == len(h)
        return cross_entropy(self.linear(h), labels)


def network(layers, *, bias=True, activation=nn.Tanh):
    torch.manual_seed(3)
    body = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=bias), activation()) for _ in range(layers)]
    net = Network(tuple(body), nn.Linear(WIDTH, CLASSES, bias=bias))
    net.modules().double()
    return net


def data(steps):
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(steps, BATCH, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (steps, BATCH), generator=generator)


def sgd(lr=0.2, momentum=0.0, **more):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **more)


def run(program, net, count, x, y, make_optimizer, *, cost=None, steps=None, on_done=None, link=None, **more):
    """The stages after the run, and the trace; a stage of the last costs what WORK says unless ``cost`` does."""
    spans = cut_evenly(len(net.layers), count)
    make = [
        Stage(
            k, spans, net, make_optimizer, lambda t: (x[t], y[t]), steps or len(x),
            make_head=lambda name, layer: Head(layer), **more,
        )
        for k in range(count)
    ]  # fmt: skip
    programs = {s.index: program.run(s) for s in make}
    clock = VirtualClock(programs, cost or (lambda k, kind: WORK[kind]), link=link, on_done=on_done)
    return make, clock.run()


def values(net):
    return [p.detach().clone() for p in net.modules().parameters()]


def assert_same_bits(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


# the asynchronous pipeline without delay


@pytest.mark.parametrize("correction", ["none", "stashing", "pipemare"])
@pytest.mark.parametrize(("count", "in_flight"), [(1, 0), (3, 1)])
def test_one_batch_in_flight_is_back_propagation_bit_for_bit(correction, count, in_flight):
    x, y = data(12)
    net, plain, staged = network(3), network(3), network(3)
    run(StalePipeline(correction, in_flight), net, count, x, y, sgd(0.1, 0.9))
    run(BackProp(), staged, count, x, y, sgd(0.1, 0.9))
    optimizer = sgd(0.1, 0.9)(plain.modules().parameters())
    for t in range(12):
        optimizer.zero_grad()
        cross_entropy(plain(x[t]), y[t]).backward()
        optimizer.step()
    assert_same_bits(values(net), values(plain))
    assert_same_bits(values(net), values(staged))


def test_the_look_ahead_without_delay_is_nesterov_momentum():
    x, y = data(20)
    net, plain = network(2), network(2)
    run(StalePipeline("nesterov", momentum=0.8), net, 1, x, y, sgd(0.3))
    optimizer = sgd(0.3 * (1 - 0.8), 0.8, nesterov=True)(plain.modules().parameters())
    for t in range(20):
        optimizer.zero_grad()
        cross_entropy(plain(x[t]), y[t]).backward()
        optimizer.step()
    for a, b in zip(values(net), values(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


# with delay


def by_hand(program, net, count, x, targets, lr):
    """The delayed gradients of W_K tanh(W_k ... tanh(W_0 x)) and the loss mean (y - target)^2, in numpy.

    Batch by batch, with every stage's history of weights: in no stage's order, and without queues.
    """
    steps = len(x)
    start = [[w.numpy()] for w in values(net)]  # a layer a stage, the head on the last one
    tau = [min(count - k, program.in_flight or count) - 1 for k in range(count)] + [0]
    history, d, v = start, [0.0] * (count + 1), [0.0] * (count + 1)
    for t in range(steps):
        inputs = [x[t].numpy()]
        seen = [history[k][max(0, t - tau[k])] for k in range(count + 1)]
        for k in range(count):
            inputs.append(np.tanh(inputs[-1] @ seen[k].T))
        out = inputs[-1] @ seen[count].T
        dy = 2 * (out - targets[t].numpy()) / out.size
        fresh = []
        for k in reversed(range(count + 1)):
            w = history[k][t]
            used = {"none": w, "pipemare": w - tau[k] * d[k]}.get(program.correction, seen[k])
            if k < count:
                dy = dy * (1 - inputs[k + 1] ** 2)
            g, dy = dy.T @ inputs[k], dy @ used
            if program.correction == "pipemare" and tau[k]:
                c = program.decay ** (1 / tau[k])
                rate = lr / tau[k] ** (1 - min(t / program.anneal_steps, 1))
                d[k] = c * d[k] + (1 - c) * (-rate * g)
                w = w - rate * g
            elif program.correction == "nesterov":
                p = program.momentum + tau[k] * (program.max_momentum - program.momentum) / count
                v[k] = p * v[k] - (1 - p) * lr * g
                w = w - (1 - p) * lr * g + p * v[k]
            else:
                w = w - lr * g
            fresh.append((k, w))
        for k, w in fresh:
            history[k].append(w)
    return [h[-1] for h in history]


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize(("count", "in_flight"), [(4, 0), (4, 2), (2, 0)])
def test_the_trajectory_is_that_of_delayed_gradients_by_hand(correction, count, in_flight):
    program = StalePipeline(correction, in_flight, anneal_steps=15)
    x, _ = data(40)
    targets = torch.randn(40, BATCH, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    net = network(count, bias=False)
    expected = by_hand(program, net, count, x, targets, 0.5)
    before = values(net)
    run(program, net, count, x, targets, sgd(0.5), loss=mse_loss)
    for start, a, b in zip(before, values(net), expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-10, atol=1e-12)
        assert (start - a).abs().max() > 0.01


def test_the_corrections_differ():
    x, y = data(25)
    results = []
    for correction in CORRECTIONS:
        net = network(3)
        run(StalePipeline(correction), net, 3, x, y, sgd(0.3))
        results.append(values(net)[0])
    for a, b in itertools.combinations(results, 2):
        assert (a - b).abs().max() > 1e-5


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.NAdam])
def test_stashing_gives_the_true_gradient_at_each_stage_s_old_weights(make):
    """Against autograd through the whole network with the weights that each stage had."""
    count, steps = 3, 20
    x, y = data(steps)
    net, plain = network(count), network(count)
    run(StalePipeline("stashing"), net, count, x, y, lambda p: make(p, lr=0.02))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = plain.modules()

        def forward(self, x):
            return plain(x)

    whole = Whole()
    history = [{n: p.detach().clone() for n, p in whole.named_parameters()}]
    optimizer = make(whole.parameters(), lr=0.02)
    for t in range(steps):
        old = {
            n: history[max(0, t - (count - 1 - min(int(n.split(".")[1]), count - 1)))][n]
            .clone()
            .requires_grad_()
            for n in history[0]
        }
        loss = cross_entropy(functional_call(whole, old, (x[t],)), y[t])
        for p, g in zip(whole.parameters(), torch.autograd.grad(loss, list(old.values())), strict=True):
            p.grad = g
        optimizer.step()
        history.append({n: p.detach().clone() for n, p in whole.named_parameters()})
    assert_same_bits(values(net), values(plain))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_delayed_gradient_is_stable_up_to_the_known_step(count):
    """loss = L w^2 / 2, with w on the first stage: w_{t+1} = w_t - lr L w_{t - tau}."""
    tau, steps, curvature = count - 1, 300, 2.0
    limit = 2 * np.sin(np.pi / (4 * tau + 2))
    one = torch.ones(steps, 1, 1, dtype=torch.float64)
    largest = {}
    for share in (0.97, 1.03):
        lr = share * limit / curvature
        body = [nn.Linear(1, 1, bias=False).double() for _ in range(count)]
        net = Network(tuple(body), nn.Identity())
        for layer in body:
            layer.weight.data.fill_(1.0)
        for layer in body[1:]:
            layer.weight.requires_grad_(False)
        seen = []
        run(
            StalePipeline("none"), net, count, one, one, sgd(lr),
            loss=lambda out, _: curvature * (out**2).sum() / 2,
            on_done=lambda k, t, w=body[0].weight, seen=seen: seen.append(w.item()) if k == 0 else None,
        )  # fmt: skip
        w = [1.0] * (tau + 1)  # before the first update the weights were the first ones
        for _ in range(steps):
            w.append(w[-1] - lr * curvature * w[-1 - tau])
        np.testing.assert_allclose(seen, w[tau + 1 :], rtol=1e-9, atol=1e-12)
        largest[share] = max(map(abs, seen[-20:]))
    assert largest[0.97] < 0.5
    assert largest[1.03] > 3


# its schedule


@pytest.mark.parametrize(("count", "in_flight"), [(1, 0), (4, 0), (4, 2), (3, 9)])
def test_staleness_is_k_minus_1_minus_k_once_full_and_no_more_is_in_flight(count, in_flight):
    steps = 15
    x, y = data(steps)
    stages, trace = run(StalePipeline("none", in_flight), network(4), count, x, y, sgd())
    for stage in stages:
        tau = min(count - stage.index, in_flight or count) - 1
        assert stage.staleness == Counter([*range(tau), *[tau] * (steps - tau)])
        deepest = under_way = 0
        for span in trace.spans:
            if span.stage == stage.index:
                under_way += {"forward": 1, "backward": -1}.get(span.kind, 0)
                deepest = max(deepest, under_way)
        assert deepest == tau + 1


def test_nobody_waits_once_the_pipeline_is_full():
    steps, count = 50, 4
    x, y = data(steps)
    _, trace = run(StalePipeline("stashing"), network(4), count, x, y, sgd())
    assert trace.makespan_s == 2 * (steps + count - 1)
    _, one = run(BackProp(), network(4), count, x, y, sgd())
    assert one.makespan_s == 2 * count * steps
    boundary = steps * BATCH * WIDTH * 8
    assert set(trace.channel_bytes.values()) == {boundary}
    assert len(trace.channel_bytes) == 2 * (count - 1)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_weights_do_not_depend_on_what_anything_costs(correction):
    x, y = data(12)
    nets = [network(4) for _ in range(3)]
    run(StalePipeline(correction), nets[0], 4, x, y, sgd())
    run(StalePipeline(correction), nets[1], 4, x, y, sgd(), cost=lambda k, kind: (k * 7 % 4 + len(kind)) / 3)
    run(StalePipeline(correction), nets[2], 4, x, y, sgd(), link=lambda channel, size: (size / 1e3, 0.7))
    assert_same_bits(values(nets[0]), values(nets[1]))
    assert_same_bits(values(nets[0]), values(nets[2]))


def test_fewer_steps_than_stages_are_done():
    x, y = data(2)
    done = []
    stages, _ = run(StalePipeline(), network(4), 4, x, y, sgd(), on_done=lambda k, t: done.append((k, t)))
    assert sorted(done) == [(k, t) for k in range(4) for t in range(2)]
    assert stages[0].staleness == {0: 1, 1: 1}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_batch_norm_counts_each_batch_once(correction):
    x, y = data(10)
    net = network(3)
    normal = nn.BatchNorm1d(WIDTH).double()
    net = Network((nn.Sequential(net.layers[0], normal), *net.layers[1:]), net.head)
    run(StalePipeline(correction), net, 3, x, y, sgd(0.0))  # weights stand still, statistics do not
    assert normal.num_batches_tracked == 10
    mean = torch.zeros(WIDTH, dtype=torch.float64)
    for t in range(10):
        mean = 0.9 * mean + 0.1 * net.layers[0][0](x[t]).mean(0).detach()
    torch.testing.assert_close(normal.running_mean, mean, rtol=1e-12, atol=1e-12)


# decoupled greedy learning


def greedy(net, count, x, y, make_optimizer, lr):
    """One stage after another on each batch, each with its own loss: the synchronous greedy pipeline in plain torch."""
    spans = cut_evenly(len(net.layers), count)
    heads = [Head(span.stop - 1) for span in spans[:-1]]
    layers = [[net.layers[i] for i in span] for span in spans]
    layers[-1].append(net.head)
    optimizers = [make_optimizer([p for one in part for p in one.parameters()]) for part in layers]
    optimizers += [make_optimizer(head.parameters()) for head in heads]
    for t in range(len(x)):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr(t)
        h = x[t]
        for k, part in enumerate(layers):
            h = h.detach()
            for layer in part:
                h = layer(h)
            (
                heads[k].loss(h, y[t], lambda t=t: x[t]) if k < len(heads) else cross_entropy(h, y[t])
            ).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def slower(factors):
    """A cost table: stage k takes factors[k] a batch, a quarter forward, half backward, a quarter for the update."""
    return lambda k, kind: factors[k] * {"forward": 0.25, "backward": 0.5, "update": 0.25}[kind]


def updates(trace, stage):
    """Batch -> updates that the stage made on it."""
    return Counter(s.tag for s in trace.spans if s.stage == stage and s.kind == "update")


@pytest.mark.parametrize(
    ("program", "factors"),
    [
        (Decoupled(buffer=1, reuse=1), (1, 1, 1)),
        (Decoupled(buffer=4, reuse=1), (1, 1, 1)),
        (Decoupled(buffer=1, reuse=1), (1, 0.3, 0.1)),
        (Decoupled(buffer=3, reuse=1), (1.1, 0.7, 0.6)),
    ],
)
def test_where_nobody_is_slower_than_the_one_below_it_is_the_synchronous_greedy_pipeline(program, factors):
    x, y = data(15)
    net, plain = network(6), network(6)
    _, trace = run(program, net, 3, x, y, sgd(1.0, 0.9), cost=slower(factors), lr=lambda t: 0.1 / (1 + t / 9))
    greedy(plain, 3, x, y, sgd(1.0, 0.9), lr=lambda t: 0.1 / (1 + t / 9))
    assert_same_bits(values(net), values(plain))
    assert all(updates(trace, k) == Counter(range(15)) for k in range(3))
    assert set(trace.channel_bytes.values()) == {15 * BATCH * WIDTH * 8}


def test_a_fast_stage_trains_again_on_what_it_has_and_no_more_than_allowed():
    steps = 12
    x, y = data(steps)
    for reuse, expected in (
        (8, [4] * (steps - 1) + [3]),
        (2, [2] * steps),
    ):  # the end comes before the fourth
        program = Decoupled(buffer=1, reuse=reuse)
        _, trace = run(program, network(2), 2, x, y, sgd(), cost=slower((4, 1)))
        assert updates(trace, 0) == Counter(range(steps))
        assert updates(trace, 1) == Counter({t: n for t, n in enumerate(expected) if n})


def test_replays_share_the_buffer_and_favour_the_least_used():
    steps = 12
    x, y = data(steps)
    _, trace = run(Decoupled(buffer=3, reuse=99), network(2), 2, x, y, sgd(), cost=slower((4, 1)))
    order = [s.tag for s in trace.spans if s.stage == 1 and s.kind == "update"]
    assert order[:9] == [0, 0, 0, 0, 1, 1, 1, 1, 2]  # the new one catches up, then the most recent wins
    held, times, expected = [], Counter(), []
    for t in range(steps):
        held = [*held, t][-3:]
        for _ in range(4 if t < steps - 1 else 3):
            one = min(reversed(held), key=lambda h: times[h])
            times[one] += 1
            expected.append(one)
    assert order == expected


def test_a_slow_stage_leaves_batches_out_and_slows_nobody_below():
    steps = 40
    x, y = data(steps)
    done = []
    stages, trace = run(
        Decoupled(buffer=1), network(3), 3, x, y, sgd(), cost=slower((1, 4, 1)),
        on_done=lambda k, t: done.append((k, t)),
    )  # fmt: skip
    assert max(s.end_s for s in trace.spans if s.stage == 0) == steps
    assert 10 <= sum(updates(trace, 1).values()) <= 12
    assert steps - 1 in updates(trace, 1)
    assert steps - 1 in updates(trace, 2)
    assert set(updates(trace, 2)) == set(updates(trace, 1))
    assert sum(updates(trace, 2).values()) > 2 * sum(updates(trace, 1).values())
    for k in range(3):
        assert [t for stage, t in done if stage == k] == list(range(steps))
    assert set(stages[2].losses) == set(updates(trace, 2))


def test_every_stage_reports_every_step_even_where_the_last_batch_is_lost():
    """Speeds that vary: between two of its polls the last stage is sent the last batch and then others it had not."""
    steps, lost = 10, 0
    x, y = data(steps)
    for seed in (22, 30, 31):
        draw, done = random.Random(seed), []
        _, trace = run(
            Decoupled(buffer=2, reuse=4), network(4), 4, x, y, sgd(),
            cost=lambda k, kind, draw=draw: (1, 3, 1, 12)[k] * draw.choice([0.1, 0.3, 1, 3]),
            on_done=lambda k, t, done=done: done.append((k, t)),
        )  # fmt: skip
        lost += steps - 1 not in updates(trace, 3)
        for k in range(4):
            assert [t for stage, t in done if stage == k] == list(range(steps))
    assert lost  # else this test shows nothing


@pytest.mark.parametrize("factors", [(1, 3.3, 0.7), (0, 0, 0), (2, 1, 5), (5, 1, 0)])
def test_decoupled_ends_and_repeats_itself(factors):
    x, y = data(10)
    nets = [network(3) for _ in range(2)]
    traces = [run(Decoupled(buffer=2, reuse=3), net, 3, x, y, sgd(), cost=slower(factors))[1] for net in nets]
    assert_same_bits(values(nets[0]), values(nets[1]))
    assert traces[0].spans == traces[1].spans
    assert max(max(updates(traces[0], k).values()) for k in range(3)) <= 3


def test_the_replay_buffer_is_that_of_a_plain_list():
    rng = np.random.default_rng(0)
    for size in (1, 2, 5):
        replay, held = Replay(size), []  # of [t, x, times], oldest first
        assert replay.used(1)
        for i in range(400):
            if not held or rng.random() < 0.4:
                t = int(rng.integers(i // 4, i // 4 + 4))
                times = next((h[2] for h in held if h[0] == t), 0)
                held = [*[h for h in held if h[0] != t], [t, i, times]][-size:]
                replay.put(t, torch.tensor(i))
            else:
                least = min(h[2] for h in held)
                expected = [h for h in held if h[2] == least][-1]
                expected[2] += 1
                t, x = replay.take()
                assert (t, x.item()) == (expected[0], expected[1])
            for times in (1, 2, 3):
                assert replay.used(times) == all(h[2] >= times for h in held)


# refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StalePipeline("newest"), "correction = 'newest' must be one of none, stashing"),
        (lambda: StalePipeline(in_flight=-1), "in_flight = -1 must not be negative"),
        (lambda: StalePipeline(anneal_steps=0), "anneal_steps = 0 must be at least 1"),
        (lambda: StalePipeline(decay=1.0), "decay = 1.0 must be between 0 and 1"),
        (lambda: StalePipeline(momentum=1.0), "momentum = 1.0 and max_momentum = 0.99 must be ascending"),
        (lambda: StalePipeline(momentum=0.9, max_momentum=0.5), "must be ascending"),
        (lambda: Decoupled(buffer=0), "buffer = 0 must be at least 1"),
        (lambda: Decoupled(reuse=0), "reuse = 0 must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
