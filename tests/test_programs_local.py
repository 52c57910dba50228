"""Local programs against plain torch: what they equal, what they send, what they cost."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from decentral.runtime import VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.layers import network_of
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.gpipe import GPipe
from decentral.stages.programs.interlocking import Interlocking
from decentral.stages.programs.last_layers import LastLayers
from decentral.stages.programs.local import Local
from decentral.stages.programs.one_forward_one_backward import OneForwardOneBackward
from decentral.stages.stage import Stage

DEPTH, WIDTH, BATCH, CLASSES, INPUTS, STEPS = 4, 8, 6, 3, 5, 12


class Linear(nn.Linear):
    """A linear local head."""

    def loss(self, h, labels, inputs):
        del inputs
        return cross_entropy(self(h), labels)


def module(dtype=torch.float32, depth=DEPTH, width=WIDTH, inputs=INPUTS, classes=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = []
        for k in range(depth):
            layers += [nn.Linear(inputs if k == 0 else width, width), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(width, classes)).to(dtype)


def make_head(name, layer, dtype=torch.float32, width=WIDTH, classes=CLASSES):
    assert name == "linear"
    with torch.random.fork_rng():
        torch.manual_seed(100 + layer)
        return Linear(width, classes).to(dtype)


def data(dtype=torch.float32, steps=STEPS, batch=BATCH, inputs=INPUTS, classes=CLASSES):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(steps, batch, inputs, generator=generator, dtype=dtype)
    y = torch.randint(classes, (steps, batch), generator=generator)
    return lambda t: (x[t], y[t])


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def train(program, stages, dtype=torch.float32, optimizer=sgd, steps=STEPS):
    """The trained module, the trace, and the stages, after the program ran on the virtual clock."""
    whole = module(dtype)
    network = network_of(whole)
    spans = cut_evenly(DEPTH, stages)
    if hasattr(program, "check"):
        program.check(spans, network.layers)
    made = [
        Stage(k, spans, network, optimizer, data(dtype), steps, make_head=lambda n, i: make_head(n, i, dtype))
        for k in range(stages)
    ]
    trace = VirtualClock(
        {s.index: program.run(s) for s in made}, lambda stage, kind: float(kind != "update")
    ).run()
    return whole, trace, made


def same(a, b, tolerance=0.0):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        if tolerance:
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(p, q)


def backprop_by_torch(dtype=torch.float32, optimizer=sgd):
    whole, batches = module(dtype), data(dtype)
    step = optimizer(whole.parameters())
    for t in range(STEPS):
        x, y = batches(t)
        step.zero_grad()
        cross_entropy(whole(x), y).backward()
        step.step()
    return whole


def local_by_torch(blocks, dtype=torch.float32):
    """Blocks of layers one after the other in plain torch; a layer's gradient is the mean over its blocks."""
    whole, batches = module(dtype), data(dtype)
    network = network_of(whole)
    heads = [make_head("linear", b.stop - 1, dtype) if b.stop < DEPTH else network.head for b in blocks]
    step = sgd([*whole.parameters(), *(p for h in heads[:-1] for p in h.parameters())])
    for t in range(STEPS):
        x, y = batches(t)
        step.zero_grad()
        losses, inputs = [], {0: x}
        for i, layer in enumerate(network.layers):
            inputs[i + 1] = layer(inputs[i]).detach()
        for block, head in zip(blocks, heads, strict=True):
            h = inputs[block.start]
            for i in block:
                h = network.layers[i](h)
            losses.append(cross_entropy(head(h), y))
        sum(losses).backward()
        for i, layer in enumerate(network.layers):
            for p in layer.parameters():
                p.grad /= sum(i in block for block in blocks)
        step.step()
    return whole


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("optimizer", [sgd, lambda p: torch.optim.Adam(p, lr=0.01)])
def test_back_propagation_over_stages_has_the_bits_of_autograd_and_torch_optim(stages, optimizer):
    whole, trace, _ = train(BackProp(), stages, optimizer=optimizer)
    same(whole, backprop_by_torch(optimizer=optimizer))
    for channel, size in trace.channel_bytes.items():
        assert size == STEPS * BATCH * WIDTH * 4, channel
    assert len(trace.channel_bytes) == 2 * (stages - 1)


@pytest.mark.parametrize("program", [GPipe(3), OneForwardOneBackward(3), GPipe(4), OneForwardOneBackward(5)])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_micro_batches_of_any_size_sum_to_the_gradient_of_the_batch(program, stages):
    whole, trace, _ = train(program, stages, torch.float64)  # 4 and 5 do not divide the batch
    same(whole, backprop_by_torch(torch.float64), 1e-12)
    assert all(size == STEPS * BATCH * WIDTH * 8 for size in trace.channel_bytes.values())


@pytest.mark.parametrize(("stages", "parts"), [(2, 4), (4, 8), (4, 16), (3, 2)])
@pytest.mark.parametrize("make", [GPipe, OneForwardOneBackward])
def test_bubbles_have_their_closed_form(make, stages, parts):
    depth = 4
    network = network_of(module(depth=depth))
    spans = cut_evenly(depth, stages)
    batches = data(batch=16)
    made = [Stage(k, spans, network, sgd, batches, 5) for k in range(stages)]
    trace = VirtualClock(
        {s.index: make(parts).run(s) for s in made}, lambda _, kind: float(kind != "update")
    ).run()
    assert trace.idle_fraction() == pytest.approx((stages - 1) / (parts + stages - 1), abs=1e-12)


def test_one_forward_one_backward_keeps_fewer_passes_than_gpipe():
    def most_kept(program, stages=4):
        _, trace, made = train(program, stages)
        most = {}
        for s in made:
            kept = 0
            for span in trace.spans:
                if span.stage == s.index and span.kind in ("forward", "backward"):
                    kept += 1 if span.kind == "forward" else -1
                    most[s.index] = max(most.get(s.index, 0), kept)
        return [most[k] for k in range(stages)]

    assert most_kept(GPipe(6)) == [6, 6, 6, 6]
    assert most_kept(OneForwardOneBackward(6)) == [4, 3, 2, 1]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_greedy_equals_blocks_trained_one_after_the_other(stages):
    whole, trace, _ = train(Local("greedy"), stages)
    same(whole, local_by_torch([range(i, i + 1) for i in range(DEPTH)]))
    names = {channel.name for channel in trace.channel_bytes}
    assert names <= {"activations"}
    assert all(size == STEPS * BATCH * WIDTH * 4 for size in trace.channel_bytes.values())


@pytest.mark.parametrize("stages", [1, 2])
def test_chunked_equals_its_blocks_and_one_chunk_is_back_propagation(stages):
    whole, _, _ = train(Local("chunked", size=2), stages)
    same(whole, local_by_torch([range(0, 2), range(2, 4)]))
    whole, _, _ = train(Local("chunked", size=DEPTH), 1)
    same(whole, backprop_by_torch())


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_overlapping_averages_its_duplicates(stages, window):
    whole, _, _ = train(Local("overlapping", window=window), stages, torch.float64)
    blocks = [range(j, j + window) for j in range(DEPTH - window + 1)]
    same(whole, local_by_torch(blocks, torch.float64), 1e-12)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_window_over_all_layers_is_back_propagation(stages):
    whole, _, _ = train(Local("overlapping", window=DEPTH), stages)
    same(whole, backprop_by_torch())


def test_borrowed_layers_travel_once_each_way():
    _, trace, _ = train(Local("overlapping", window=2), 2)
    layer = (WIDTH * WIDTH + WIDTH) * 4
    assert {c.name: size for c, size in trace.channel_bytes.items()} == {
        "activations": STEPS * BATCH * WIDTH * 4,
        "gradients of borrowed layers": STEPS * layer,
        "parameters of lent layers": STEPS * layer,
    }


@pytest.mark.parametrize("stages", [1, 4])
def test_a_global_step_each_time_is_back_propagation(stages):
    for blocks in ("greedy", "overlapping"):
        whole, _, _ = train(Local(blocks, global_every=1), stages)
        same(whole, backprop_by_torch())
    mixed, _, _ = train(Local("greedy", global_every=2), stages)
    serial, _, _ = train(Local("greedy", global_every=2), 2)
    same(mixed, serial)


def gradients(loss, part):
    parameters = list(part.parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


def interlocked_by_torch(window):
    """Each layer is a stage: its gradient is that of the loss ``window - 1`` layers above it."""
    whole, batches = module(torch.float64), data(torch.float64)
    network = network_of(whole)
    heads = [*(make_head("linear", i, torch.float64) for i in range(DEPTH - 1)), network.head]
    step = sgd([*whole.parameters(), *(p for h in heads[:-1] for p in h.parameters())])
    for t in range(STEPS):
        x, y = batches(t)
        step.zero_grad()
        losses = []
        for layer, head in zip(network.layers, heads, strict=True):
            x = layer(x)
            losses.append(cross_entropy(head(x), y))
        found = {}
        for k, layer in enumerate(network.layers):
            loss = losses[min(k + window - 1, DEPTH - 1)]
            for p, g in zip(
                layer.parameters(),
                torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True),
                strict=True,
            ):
                found[p] = g
        for loss, head in zip(losses, heads, strict=True):
            for p, g in zip(
                head.parameters(),
                torch.autograd.grad(loss, list(head.parameters()), retain_graph=True),
                strict=True,
            ):
                found[p] = g
        for p, g in found.items():
            p.grad = g
        step.step()
    return whole


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_interlocking_stages_learn_from_the_loss_above_them(window):
    whole, trace, _ = train(Interlocking(window), DEPTH, torch.float64)
    same(whole, interlocked_by_torch(window), 1e-12)
    down = {c.target: m for c, m in trace.channel_messages.items() if c.name == "gradients"}
    assert (
        down == {k: STEPS * (min(k + window - 1, DEPTH - 1) - k) for k in range(DEPTH - 1)} | {}
        or window == 1
    )


def test_interlocking_over_all_stages_is_back_propagation():
    whole, _, _ = train(Interlocking(DEPTH), DEPTH)
    same(whole, backprop_by_torch())


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("trained", [1, 2])
def test_last_layers_learn_and_the_others_stay(stages, trained):
    whole, trace, _ = train(LastLayers(trained), stages)
    reference, batches = module(), data()
    learning = [*reference.children()][-1:] if trained == 1 else [*reference.children()][-3:]
    step = sgd(p for part in learning for p in part.parameters())
    for t in range(STEPS):
        x, y = batches(t)
        step.zero_grad()
        cross_entropy(reference(x), y).backward()
        step.step()
    same(whole, reference)
    assert {channel.name for channel in trace.channel_bytes} <= {"activations"}


def flops_of(program, depth, width, batch, inputs, classes):
    network = network_of(module(depth=depth, width=width, inputs=inputs, classes=classes))
    spans = cut_evenly(depth, 1)
    stage = Stage(
        0, spans, network, sgd, data(steps=1, batch=batch, inputs=inputs, classes=classes), 1,
        make_head=lambda n, i: make_head(n, i, width=width, classes=classes),
    )  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        VirtualClock({0: program.run(stage)}, lambda *_: 0.0).run()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("program", "expected"),
    [(BackProp(), 752_640), (Local("greedy"), 630_784), (Local("overlapping", window=2), 1_238_016)],
)
def test_flops_are_those_of_the_accounting(program, expected):
    assert flops_of(program, depth=8, width=64, batch=4, inputs=48, classes=10) == expected


@pytest.mark.parametrize(
    ("program", "stages", "says"),
    [
        (Local("chunked", size=3), 2, "lies on two stages"),
        (Local("overlapping", window=9), 2, "window = 9 is wider"),
        (LastLayers(4), 2, "trained = 4 is more than the 3 layers of the last stage"),
        (Interlocking(3), 2, "window = 3 is more than the 2 stages"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(program, stages, says):
    with pytest.raises(ValueError, match=says):
        train(program, stages)


def test_batch_norm_and_duplicates_are_refused():
    layers = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), copy.deepcopy(nn.Linear(3, 3))]
    with pytest.raises(ValueError, match="batch-norm"):
        Local("overlapping").check([range(2)], layers)
