from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from decentral.errors import UserError
from decentral.problems.data import TEXTS, load_text
from decentral.problems.data.text import text_batches, text_windows
from decentral.problems.models.convolutional import resnet20
from decentral.problems.models.initialise import initialise
from decentral.problems.models.language import lstm, transformer
from decentral.problems.models.vision import resnet, vgg
from decentral.runtime import VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.heads.local_losses import cross_entropy
from decentral.stages.layers import network_of
from decentral.stages.programs.backprop import BackProp
from decentral.stages.shapes import boundary_shapes
from decentral.stages.stage import Stage

ROOT = os.environ.get("DECENTRAL_DATA", "")


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------------------------------------ images


def test_resnet_of_depth_20_is_the_one_there_was_parameter_for_parameter():
    ours = initialise(lambda: resnet((3, 32, 32), 10), 3)
    theirs = initialise(lambda: resnet20((3, 32, 32), 10), 3)
    assert num_parameters(ours) == 269_722
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    x = torch.randn(4, 3, 32, 32)
    a, b = ours(x), theirs(x)
    assert torch.equal(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in pairs)
    assert len(network_of(ours).layers) == 10


def test_resnet_of_depth_20_has_its_outputs_when_parameters_are_copied():
    ours, theirs = resnet((1, 8, 8), 5), resnet20((1, 8, 8), 5)
    with torch.no_grad():
        for to, source in zip(ours.parameters(), theirs.parameters(), strict=True):
            to.copy_(source)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))  # running statistics too


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (110, 1_727_962)])
def test_deeper_resnets_have_the_layers_and_parameters_counted_by_hand(depth, parameters):
    # by hand: stem 3*9*16 + 32; a block of c channels 18 c^2 + 4 c, the first of a width from c/2: 13.5 c^2 + 4 c
    n = (depth - 2) // 6
    by_hand = 3 * 9 * 16 + 32 + 65 * 10
    for channels, first in ((16, 18), (32, 13.5), (64, 13.5)):
        by_hand += int(first * channels**2) + 4 * channels + (n - 1) * (18 * channels**2 + 4 * channels)
    network = resnet((3, 32, 32), 10, depth)
    assert num_parameters(network) == by_hand == parameters
    assert len(network.layers) == 3 * n + 1


@pytest.mark.parametrize("depth", [2, 19, 0, -4, 33])
def test_a_resnet_of_another_depth_is_refused(depth):
    with pytest.raises(UserError, match=f"depth = {depth} must be 6 n"):
        resnet((3, 8, 8), 10, depth)


def test_vgg_is_vgg8b_at_its_width():
    network = initialise(lambda: vgg((3, 32, 32), 10, width=128, hidden=1024), 0)
    channels = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [128, 256, 256, 512, 512, 512]
    shapes = boundary_shapes(network_of(network), torch.zeros(3, 32, 32))
    assert shapes == [
        (128, 32, 32), (256, 16, 16), (256, 16, 16), (512, 8, 8), (512, 4, 4), (512, 2, 2), (1024,),
    ]  # fmt: skip


@pytest.mark.parametrize("factory", [vgg, resnet])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 12)])
def test_images_of_any_size_give_logits_and_every_parameter_a_gradient(factory, shape):
    network = initialise(lambda: factory(shape, 7), 0)
    logits = network(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    with pytest.raises(UserError, match=r"needs images.*\(20,\)"):
        factory((20,), 7)


def test_vgg_refuses_widths_below_one():
    with pytest.raises(UserError, match="width = 0"):
        vgg((3, 8, 8), 10, width=0)


# ------------------------------------------------------------------------------------------------ language

MODELS = {
    "transformer": lambda: transformer(11, context=9, width=12, depth=3, heads=3),
    "lstm": lambda: lstm(11, width=12, depth=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_before_a_token_do_not_know_it_and_those_after_do(name):
    network = initialise(MODELS[name], 0).double()
    with torch.no_grad():  # far from the small start, so that attention is not uniform
        for parameter in network.parameters():
            parameter.mul_(5.0)
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = network(tokens)
    assert logits.shape == (2, 9, 11)
    for j in range(9):
        changed = tokens.clone()
        changed[:, j] = (changed[:, j] + 1) % 11
        other = network(changed)
        # equal bits are not promised: the kernels may sum elsewhere in another order
        torch.testing.assert_close(other[:, :j], logits[:, :j], rtol=0, atol=1e-12)
        assert ((other[:, j:] - logits[:, j:]).abs().amax(2) > 1e-9).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_a_language_model_has_a_gradient(name):
    network = initialise(MODELS[name], 0)
    tokens = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(1))
    cross_entropy(network(tokens), tokens.roll(-1, 1)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_a_transformer_is_attention_written_by_hand():
    network = initialise(lambda: transformer(7, context=6, width=8, depth=1, heads=2), 5).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.3)
    embedding, block = network.layers
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    x = torch.stack([embedding.token.weight[i] + embedding.position[t] for t, i in enumerate(tokens[0])])

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    w, b = block.attention.query_key_value.weight, block.attention.query_key_value.bias
    q, k, v = (norm(x, block.norms[0]) @ w.T + b).split(8, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        rows = []
        for t in range(5):
            scores = torch.stack([q[t, part] @ k[s, part] / 2 for s in range(t + 1)])  # sqrt(4) = 2
            rows.append(scores.softmax(0) @ v[: t + 1, part])
        heads.append(torch.stack(rows))
    x = x + torch.cat(heads, 1) @ block.attention.output.weight.T + block.attention.output.bias
    up, down = block.mlp[0], block.mlp[2]
    inner = norm(x, block.norms[1]) @ up.weight.T + up.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    x = x + gelu @ down.weight.T + down.bias
    expected = norm(x, network.head[0]) @ network.head[1].weight.T
    torch.testing.assert_close(network(tokens)[0], expected, rtol=1e-10, atol=1e-10)


def test_a_transformer_starts_as_gpt_2_does_near_the_uniform_distribution():
    network = initialise(lambda: transformer(50, context=16, width=64, depth=4), 0)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            scaled = name.endswith(("attention.output.weight", "mlp.2.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / (8**0.5 if scaled else 1), rel=0.1), name
        else:
            assert parameter.unique().tolist() in ([0.0], [1.0]), name
    tokens = torch.randint(50, (8, 16), generator=torch.Generator().manual_seed(0))
    assert cross_entropy(network(tokens), tokens.roll(-1, 1)).item() == pytest.approx(3.91, abs=0.1)  # ln 50


def test_the_lstm_is_torch_s_of_as_many_layers():
    network = initialise(lambda: lstm(11, width=6, depth=3), 0).double()
    theirs = nn.LSTM(6, 6, num_layers=3, batch_first=True).double()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    with torch.no_grad():
        for i, layer in enumerate(network.layers[1:]):
            for name in names:
                getattr(theirs, f"{name}_l{i}").copy_(getattr(layer.lstm, f"{name}_l0"))
    tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    hidden = theirs(network.layers[0].weight[tokens])[0]
    expected = hidden @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(tokens), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: transformer(5, 8, width=10, heads=4), "heads = 4 must divide width = 10"),
        (lambda: transformer(5, 8, depth=0), "depth = 0"),
        (lambda: lstm(0), "vocabulary = 0"),
        (lambda: transformer(5, 8)(torch.zeros(1, 9, dtype=torch.int64)), "9 tokens exceed context = 8"),
    ],
)
def test_a_language_model_that_cannot_be_is_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()


CUT = {
    "resnet": (lambda: resnet((1, 8, 8), 5), (4, 1, 8, 8), 5, 10),
    "vgg": (lambda: vgg((1, 8, 8), 5, width=4, hidden=16), (4, 1, 8, 8), 5, 7),
    "transformer": (MODELS["transformer"], (4, 9), 11, 4),
    "lstm": (MODELS["lstm"], (4, 9), 11, 3),
}


@pytest.mark.parametrize("name", CUT)
def test_a_network_cut_into_stages_trains_as_in_one_piece(name):
    build, shape, classes, layers = CUT[name]
    generator = torch.Generator().manual_seed(0)
    tokens = len(shape) == 2
    x = [
        torch.randint(classes, shape, generator=generator) if tokens else torch.randn(shape) for _ in range(3)
    ]
    y = [torch.randint(classes, shape if tokens else shape[:1], generator=generator) for _ in range(3)]

    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)

    whole, cut = initialise(build, 0), initialise(build, 0)
    whole_optimizer = optimizer(whole.parameters())
    for t in range(3):
        whole_optimizer.zero_grad()
        cross_entropy(whole(x[t]), y[t]).backward()
        whole_optimizer.step()
    network = network_of(cut)
    assert len(network.layers) == layers
    spans = cut_evenly(layers, 3)
    stages = [
        Stage(k, spans, network, optimizer, lambda t: (x[t], y[t]), 3, loss=cross_entropy) for k in range(3)
    ]
    trace = VirtualClock({s.index: BackProp().run(s) for s in stages}, lambda stage, kind: 1.0).run()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    example = x[0][0]
    shapes = boundary_shapes(network, example)
    for channel, count in trace.channel_bytes.items():
        boundary = spans[min(channel.source, channel.target)].stop - 1
        assert count == 3 * 4 * 4 * torch.Size(shapes[boundary]).numel()  # steps x batch x float32 x numbers


# ------------------------------------------------------------------------------------------------ texts


def test_sums_are_right_all_there_and_none_is_in_both_parts():
    text = load_text()
    train, validation = (text.decode(part).splitlines() for part in (text.train, text.validation))
    assert (len(train), len(validation)) == (9000, 1000)
    assert not set(train) & set(validation)
    pairs = set()
    for line in train + validation:
        left, total = line.split("=")
        a, b = map(int, left.split("+"))
        assert a + b == int(total)
        pairs.add((a, b))
    assert pairs == {(a, b) for a in range(100) for b in range(100)}
    assert text.characters == "\n+0123456789="
    assert text.vocabulary == 13
    assert text.train.dtype == torch.int64


def test_batches_are_windows_of_the_text_and_the_characters_that_follow():
    text = load_text()
    whole = text.decode(text.train)
    inputs, targets = text_batches(text.train, context=20, batch_size=32, seed=0)(5)
    assert (inputs.shape, inputs.dtype) == (targets.shape, targets.dtype) == ((32, 20), torch.int64)
    for a, b in zip(inputs, targets, strict=True):
        assert torch.equal(a[1:], b[:-1])
        assert text.decode(a) + text.decode(b)[-1] in whole
    assert len({tuple(row.tolist()) for row in inputs}) > 28


def test_batches_depend_on_seed_and_step_only():
    tokens = load_text().train
    one, two = (text_batches(tokens, 8, 4, seed=1) for _ in range(2))
    later_first = two(7), two(3)
    for t, batch in ((7, later_first[0]), (3, later_first[1])):
        assert all(torch.equal(a, b) for a, b in zip(one(t), batch, strict=True))
    assert not torch.equal(one(3)[0], one(7)[0])
    assert not torch.equal(one(3)[0], text_batches(tokens, 8, 4, seed=2)(3)[0])


def test_batches_reach_both_ends_of_their_part_and_never_cross():
    tokens = torch.arange(12)
    batch = text_batches(tokens, context=8, batch_size=64, seed=0)
    starts, ends = zip(*((x[:, 0], y[:, -1]) for x, y in map(batch, range(5))), strict=True)
    assert torch.cat(starts).unique().tolist() == [0, 1, 2, 3]
    assert torch.cat(ends).max() == 11
    whole = torch.cat([tokens, torch.full((50,), 99)])
    part = whole[:12]  # a view: what lies behind it is the other part
    assert all((text_batches(part, 8, 64, 0)(t)[1] != 99).all() for t in range(5))


def test_windows_are_all_of_the_part_once():
    inputs, targets = text_windows(torch.arange(23), context=5)
    assert torch.equal(inputs.flatten(), torch.arange(20))
    assert torch.equal(targets, inputs + 1)
    assert len(text_windows(torch.arange(21), 5)[0]) == 4
    assert len(text_windows(torch.arange(20), 5)[0]) == 3
    assert len(text_windows(torch.arange(6), 5)[0]) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: text_batches(torch.arange(8), 8, 2, 0), "8 tokens, too few for context = 8"),
        (lambda: text_windows(torch.arange(8), 8), "8 tokens, too few"),
        (lambda: text_batches(torch.arange(8), 0, 2, 0), "context = 0"),
        (lambda: text_batches(torch.arange(8), 2, 0, 0), "batch_size = 0"),
        (lambda: load_text("sum"), "did you mean 'sums'"),
    ],
)
def test_texts_that_cannot_be_are_refused(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_a_missing_or_damaged_file_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    with pytest.raises(UserError, match="DECENTRAL_DATA"):
        load_text("tiny-shakespeare")
    with pytest.raises(UserError, match=r"no file input\.txt"):
        load_text("tiny-shakespeare", str(tmp_path))
    (tmp_path / "input.txt").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match=r"input\.txt.*byte 3"):
        load_text("tiny-shakespeare", str(tmp_path))


def test_a_file_is_split_by_position_and_its_characters_are_numbered_in_order(tmp_path):
    (tmp_path / "tinyshakespeare").mkdir()
    content = "the quick brown fox\r\njumps over \u00e9\u2603"
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content.encode())
    text = load_text("tiny-shakespeare", str(tmp_path))
    assert text.characters == "".join(sorted(set(content)))
    cut = len(content) * 9 // 10
    assert (text.decode(text.train), text.decode(text.validation)) == (content[:cut], content[cut:])
    assert set(TEXTS) == {"sums", "tiny-shakespeare"}


@pytest.mark.data
@pytest.mark.skipif(not ROOT, reason="DECENTRAL_DATA is not set")
def test_tiny_shakespeare_is_the_file_character_for_character():
    text = load_text("tiny-shakespeare")
    assert (text.vocabulary, len(text.train), len(text.validation)) == (65, 1_003_854, 111_540)
    content = text.decode(torch.cat([text.train, text.validation])).encode()
    file = Path(ROOT, "tinyshakespeare", "input.txt")
    assert hashlib.sha256(content).digest() == hashlib.sha256(file.read_bytes()).digest()
    assert content.startswith(b"First Citizen:\n")
