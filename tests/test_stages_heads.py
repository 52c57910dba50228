from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from decentral.errors import UserError
from decentral.problems.models.initialise import initialise
from decentral.problems.models.vision import resnet, vgg
from decentral.stages.heads import HEADS
from decentral.stages.heads.auglocal import pyramidal_depth, sampled_layers
from decentral.stages.heads.head_maker import head_maker
from decentral.stages.heads.local_head import make_head
from decentral.stages.heads.local_losses import LOSSES, PredSim, cross_entropy, make_loss, similarity
from decentral.stages.layers import network_of
from decentral.stages.shapes import boundary_shapes

MAP, VECTOR, TOKENS = (6, 9, 8), (12,), (5, 12)
TAKES = {
    "linear": {MAP, VECTOR, TOKENS},
    "mlp": {MAP, VECTOR},
    "mlp-sr": {MAP},
    "conv": {MAP},
    "token-softmax": {TOKENS},
    "auglocal": {MAP, VECTOR},
}
LATER = {MAP: [(6, 9, 8), (10, 5, 4), (7,)], VECTOR: [(8,)], TOKENS: [(5, 12)]}  # for AugLocal
PAIRS = [(name, shape) for name in TAKES for shape in (MAP, VECTOR, TOKENS)]


def head_of(name, shape, classes=4, **parameters):
    if name == "auglocal":
        parameters |= {"layer": 0, "shapes": [shape, *LATER[shape]], "depth": 3}
    return initialise(lambda: make_head(name, shape, classes, **parameters), 0).double()


def batch_of(shape, classes=4, size=6):
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size, *shape[:1]) if len(shape) == 2 else (size,), generator=generator)
    return h, labels


def no_inputs():
    raise AssertionError("this loss has no use for the inputs")


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------------------------------------ heads


def test_every_head_is_tested_here():
    assert set(HEADS) == set(TAKES)


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_a_head_gives_logits_or_is_refused_with_the_shape_and_a_remedy(name, shape):
    h, labels = batch_of(shape)
    if shape in TAKES[name]:
        assert head_of(name, shape)(h).shape == (*labels.shape, 4)
        return
    with pytest.raises(UserError, match=name) as error:
        head_of(name, shape)
    assert str(shape) in str(error.value)
    assert "; use " in str(error.value)


@pytest.mark.parametrize(("name", "shape"), [pair for pair in PAIRS if pair[1] in TAKES[pair[0]]])
def test_the_gradient_of_a_head_s_loss_is_that_of_finite_differences_and_reaches_every_parameter(name, shape):
    head, (h, labels) = head_of(name, shape), batch_of(shape)
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h.requires_grad_()
    loss = head.loss(h, labels, no_inputs)
    loss.backward()
    slope, epsilon = (h.grad * direction).sum(), 1e-6
    with torch.no_grad():
        ends = [head.loss(h + sign * epsilon * direction, labels, no_inputs) for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * epsilon), slope, rtol=1e-5, atol=1e-8)
    assert slope.abs() > 1e-6
    for which, parameter in head.named_parameters():
        assert parameter.grad is not None, which
        assert parameter.grad.abs().max() > 0, which


def test_linear_heads_are_one_matrix():
    (h, _), (vectors, _), (tokens, _) = batch_of(MAP), batch_of(VECTOR), batch_of(TOKENS)
    for name, parameters, x, features in (
        ("linear", {}, h, h.mean((2, 3))),
        ("linear", {"flatten": True}, h, h.reshape(6, -1)),
        ("linear", {}, vectors, vectors),
        ("linear", {}, tokens, tokens),
        ("token-softmax", {}, tokens,
         (tokens - tokens.mean(2, True)) / (tokens.var(2, correction=0, keepdim=True) + 1e-5).sqrt()),
    ):  # fmt: skip
        head = head_of(name, tuple(x.shape[1:]), **parameters)
        matrix, bias = [*head.parameters()][-2:]
        torch.testing.assert_close(head(x), features @ matrix.T + bias, rtol=1e-12, atol=1e-12)


def test_dgl_s_heads_have_the_parameters_counted_by_hand():
    # on 32 maps of 16 x 16: 2 x 2 x 32 = 128 features, three layers 128 -> 128 with batch norm, then 10 classes
    hidden = 3 * (128 * 128 + 2 * 128) + 129 * 10
    assert num_parameters(make_head("mlp", (32, 16, 16), 10)) == hidden
    assert num_parameters(make_head("mlp-sr", (32, 16, 16), 10)) == hidden + 3 * (32 * 32 + 2 * 32)
    assert num_parameters(make_head("conv", (32, 16, 16), 10)) == 2 * (9 * 32 * 32 + 2 * 32) + 129 * 10
    assert num_parameters(make_head("mlp", (32,), 10, layers=1, width=7)) == 32 * 7 + 2 * 7 + 8 * 10


def test_maps_are_averaged_over_windows_before_the_mlp():
    h, _ = batch_of((3, 8, 8))
    pooled = h.reshape(6, 3, 2, 4, 2, 4).mean((3, 5)).reshape(6, 12)
    classifier = head_of("mlp", (3, 8, 8)).classifier
    torch.testing.assert_close(classifier[:2](h), pooled, rtol=1e-12, atol=1e-12)
    assert classifier[2].in_features == 12


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 5), (2, 3, 2), (2, 7, 7), (2, 9, 5), (1, 33, 17)])
def test_maps_of_any_size_have_a_head(shape):
    h, labels = batch_of(shape)
    for name in ("linear", "mlp", "mlp-sr", "conv"):
        assert head_of(name, shape)(h).shape == (len(labels), 4)


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "said"),
    [
        ("linaer", MAP, {}, "did you mean 'linear'"),
        ("linear", (), {}, r"shape \(\)"),
        ("linear", (1, 2, 3, 4), {}, "boundary has shape"),
        ("mlp", VECTOR, {"layers": 0}, "layers = 0 must be at least 1"),
        ("mlp", VECTOR, {"width": -1}, "width = -1"),
        ("conv", MAP, {"convolutions": 0}, "convolutions = 0"),
        ("auglocal", MAP, {"layer": 0, "shapes": [MAP]}, "last stage"),
        ("auglocal", VECTOR, {"layer": 0, "shapes": [VECTOR, MAP]}, "use linear"),
        ("mlp", VECTOR, {"layres": 2}, "head.layres of mlp; did you mean 'layers'"),
        ("mlp", VECTOR, {"layers": 2.5}, "head.layers = 2.5"),
    ],
)
def test_a_wrong_head_is_refused_in_words(name, shape, parameters, said):
    with pytest.raises(UserError, match=said):
        make_head(name, shape, 4, **parameters)


# ------------------------------------------------------------------------------------------------ losses


def numpy_similarity(x):
    if x.ndim == 4 and x.shape[1] > 3 and x.shape[2] > 1:
        x = x.reshape(*x.shape[:2], -1).std(axis=2, ddof=1)
    x = x.reshape(len(x), -1)
    x = x - x.mean(1, keepdims=True)
    return np.array([[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in x] for a in x])


def numpy_cross_entropy(logits, labels):
    return np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, labels, strict=True)])


@pytest.mark.parametrize("shape", [VECTOR, MAP, (2, 4, 4), (6, 1, 7)])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.99])
def test_predsim_is_the_formula_in_plain_numpy(shape, beta):
    head = head_of("linear", shape, loss=make_loss("predsim", shape, 4, (), beta=beta))
    h, labels = batch_of(shape)
    mapped = head.local_loss.linear(h).detach().numpy()
    matching = (numpy_similarity(mapped) - numpy_similarity(np.eye(4)[labels])) ** 2
    logits = head(h).detach().numpy()
    expected = (1 - beta) * numpy_cross_entropy(logits, labels.tolist()) + beta * matching.mean()
    # 1e-6, for the 1e-8 that the loss adds to the norm
    assert head.loss(h, labels, no_inputs).item() == pytest.approx(expected, rel=1e-6)


def test_predsim_s_weight_is_the_paper_s():
    assert PredSim(VECTOR, 4, ()).beta == 0.99


def test_one_hot_labels_are_similar_by_1_or_by_less_than_0():
    expected = torch.where(torch.eye(4) == 1, 1.0, -1 / 3)
    torch.testing.assert_close(similarity(one_hot(torch.arange(4), 4).float()), expected)


@pytest.mark.parametrize("shape", [MAP, VECTOR])
def test_similarity_has_a_finite_gradient_where_an_example_has_no_variance(shape):
    h, labels = batch_of(shape)
    h[0] = 0.0
    head = head_of("linear", shape, loss=make_loss("predsim", shape, 4, ()))
    h.requires_grad_()
    head.loss(h, labels, no_inputs).backward()
    assert torch.isfinite(h.grad).all()
    assert h.grad[1:].abs().max() > 0


@pytest.mark.parametrize("name", ["predsim", "infopro"])
@pytest.mark.parametrize("shape", [MAP, VECTOR])
def test_the_gradient_of_a_loss_is_that_of_finite_differences(name, shape):
    head = head_of("linear", shape, loss=make_loss(name, shape, 4, (3, 10, 11)))
    h, labels = batch_of(shape)
    x = batch_of((3, 10, 11))[0]
    inputs = lambda: x  # noqa: E731
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h.requires_grad_()
    head.loss(h, labels, inputs).backward()
    slope, epsilon = (h.grad * direction).sum(), 1e-6
    with torch.no_grad():
        ends = [head.loss(h + sign * epsilon * direction, labels, inputs) for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * epsilon), slope, rtol=1e-5, atol=1e-8)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


@pytest.mark.parametrize("shape", [MAP, VECTOR])
def test_infopro_adds_the_mean_squared_error_of_the_rebuilt_input(shape):
    head = head_of("linear", shape, loss=make_loss("infopro", shape, 4, (3, 10, 11), reconstruction=0.5))
    h, labels = batch_of(shape)
    x = batch_of((3, 10, 11))[0]
    calls = []
    loss = head.loss(h, labels, lambda: calls.append(0) or x)
    assert len(calls) == 1
    rebuilt = head.local_loss.decoder(h).detach().numpy().reshape(x.shape)
    expected = numpy_cross_entropy(head(h).detach().numpy(), labels.tolist())
    expected += 0.5 * ((rebuilt - x.numpy()) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_of_tokens_is_the_mean_over_all_tokens():
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    labels = torch.randint(7, (3, 5))
    expected = numpy_cross_entropy(logits.reshape(15, 7).numpy(), labels.reshape(15).tolist())
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(
        cross_entropy(logits[:, 0], labels[:, 0]),
        nn.functional.cross_entropy(logits[:, 0], labels[:, 0]),
    )


@pytest.mark.parametrize(
    ("name", "shape", "input_shape", "parameters", "said"),
    [
        ("predsmi", MAP, MAP, {}, "did you mean 'predsim'"),
        ("predsim", TOKENS, (5,), {}, r"predsim.*\(5, 12\).*cross-entropy"),
        ("predsim", MAP, MAP, {"beta": 1.5}, "beta = 1.5"),
        ("infopro", TOKENS, (5,), {}, r"infopro.*\(5, 12\).*cross-entropy"),
        ("infopro", MAP, (20,), {}, "maps of images"),
        ("infopro", MAP, MAP, {"reconstruction": -1.0}, "reconstruction = -1.0"),
        ("infopro", MAP, MAP, {"width": 0}, "width = 0"),
        ("infopro", MAP, MAP, {"width": 1.5}, "loss.width = 1.5"),
        ("predsim", MAP, MAP, {"beta": "much"}, "loss.beta = 'much'"),
        ("predsim", MAP, MAP, {"bta": 0.5}, "did you mean 'beta'"),
    ],
)
def test_a_wrong_loss_is_refused_in_words(name, shape, input_shape, parameters, said):
    with pytest.raises(UserError, match=said):
        make_loss(name, shape, 4, input_shape, **parameters)
    assert {"cross-entropy", "predsim", "infopro"} == set(LOSSES)


# ------------------------------------------------------------------------------------------------ AugLocal


@pytest.mark.parametrize(
    ("layer", "layers", "depth", "expected"),
    [
        (0, 16, 3, [5, 10, 15]),
        (1, 16, 4, [4, 8, 12, 15]),  # 1 + 3.5 i = 4.5, 8, 11.5, 15: halves to even
        (5, 16, 2, [10, 15]),
        (3, 16, 5, [5, 8, 10, 13, 15]),  # 5.4, 7.8, 10.2, 12.6, 15
        (13, 16, 1, [15]),
        (12, 16, 3, [13, 14, 15]),
        (12, 16, 9, [13, 14, 15]),  # no more than there are
        (14, 16, 9, [15]),
        (0, 55, 6, [9, 18, 27, 36, 45, 54]),
    ],
)  # fmt: skip
def test_auglocal_samples_later_layers_evenly(layer, layers, depth, expected):
    assert sampled_layers(layer, layers, depth) == expected


def test_sampled_layers_ascend_after_the_stage_and_end_at_the_last():
    for layers in range(2, 30):
        for layer in range(layers - 1):
            for depth in range(1, layers + 2):
                found = sampled_layers(layer, layers, depth)
                assert found == sorted(set(found))
                assert found[0] > layer
                assert found[-1] == layers - 1
                assert len(found) == min(depth, layers - 1 - layer)


def test_auglocal_s_heads_become_shallower_towards_the_end():
    # d = 9, N = 16, r = 0.5 l / 14: 9 - 8 r = 9 - 2 l / 7
    assert [pyramidal_depth(k, 16, 9, 0.5) for k in range(15)] == [
        9,
        9,
        8,
        8,
        8,
        8,
        7,
        7,
        7,
        6,
        6,
        6,
        6,
        5,
        5,
    ]
    assert [pyramidal_depth(k, 16, 1, 0.5) for k in range(15)] == [1] * 15
    assert pyramidal_depth(0, 2, 4, 0.5) == 4
    assert [pyramidal_depth(k, 5, 5, 0.0) for k in range(4)] == [5] * 4
    assert [pyramidal_depth(k, 5, 5, 1.0) for k in range(4)] == [5, 4, 2, 1]  # 5, 3.67, 2.33, 1


def test_auglocal_refuses_what_has_no_later_layer_and_values_out_of_range():
    with pytest.raises(UserError, match="last stage"):
        sampled_layers(15, 16, 2)
    with pytest.raises(UserError, match="depth = 0"):
        pyramidal_depth(0, 16, 0, 0.5)
    with pytest.raises(UserError, match="decay = 2"):
        pyramidal_depth(0, 4, 4, 2)


def test_auglocal_on_a_resnet_goes_through_the_later_layers_channels_and_sizes():
    network = network_of(initialise(lambda: resnet((3, 16, 16), 10, depth=20), 0))
    shapes = boundary_shapes(network, torch.zeros(3, 16, 16))
    head = make_head("auglocal", shapes[1], 10, layer=1, shapes=shapes, depth=4, decay=0.0)
    later = [(16, 16, 16), (32, 8, 8), (64, 4, 4), (64, 4, 4)]  # those of layers 3, 5, 7, 9
    x = torch.randn(2, *shapes[1])
    for part, shape in zip(head.classifier, later, strict=False):
        x = part(x)
        assert x.shape[1:] == shape

    def block(inputs, outputs, projected):
        plain = 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
        return plain + (inputs * outputs + 2 * outputs) * projected

    expected = block(16, 16, 0) + block(16, 32, 1) + block(32, 64, 1) + block(64, 64, 0) + 65 * 10
    assert num_parameters(head) == expected


# ------------------------------------------------------------------------------------------------ by name


def small_vgg():
    return network_of(initialise(lambda: vgg((3, 16, 16), 10, width=4, hidden=8), 0))


@pytest.mark.parametrize("name", ["linear", "linear+predsim", "mlp+infopro", "auglocal", "auglocal+predsim"])
def test_every_boundary_of_a_vgg_takes_a_head_by_name(name):
    network = small_vgg()
    shapes = boundary_shapes(network, torch.zeros(3, 16, 16))
    make = head_maker(shapes, (3, 16, 16), 10, seed=0)
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 3, 3, 9])
    h = x
    for layer in range(len(network.layers) - 1):
        h = network.layers[layer](h)
        head = make(name, layer)
        assert head(h).shape == (4, 10)
        loss = head.loss(h, labels, lambda: x)
        assert torch.isfinite(loss)
        assert loss.shape == ()


def test_a_head_s_first_parameters_depend_on_seed_and_layer_only():
    shapes = [VECTOR] * 3

    def weight(seed, layer):
        return head_maker(shapes, VECTOR, 4, seed)("linear", layer).classifier.weight

    torch.manual_seed(0)
    one, other = weight(1, 0), weight(1, 1)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert torch.equal(weight(1, 0), one)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(other, one)
    assert not torch.equal(weight(2, 0), one)


def test_tables_reach_the_head_and_the_loss_they_name():
    tables = {"mlp": {"layers": 1, "width": 5}, "predsim": {"beta": 0.25}, "auglocal": {"depth": 1}}
    make = head_maker([VECTOR, (8,), (6,)], VECTOR, 4, 0, tables)
    head = make("mlp+predsim", 0)
    assert head.local_loss.beta == 0.25
    assert num_parameters(head.classifier) == 12 * 5 + 2 * 5 + 6 * 4
    assert num_parameters(make("auglocal", 0)) == 13 * 6 + 7 * 4  # from 12 straight to the last layer's 6
    assert make("linear", 0).classifier.weight.shape == (4, 12)


@pytest.mark.parametrize(
    ("name", "tables", "said"),
    [
        ("linera", {}, "did you mean 'linear'"),
        ("linear+predsmi", {}, "did you mean 'predsim'"),
        ("linear", {"line": {}}, "did you mean 'linear'"),
        ("mlp", {"mlp": {"depth": 2}}, "unknown key head.depth of mlp"),
        ("conv", {}, r"conv.*\(12,\); use"),
    ],
)
def test_a_wrong_name_or_table_is_refused_in_words(name, tables, said):
    with pytest.raises(UserError, match=said):
        head_maker([VECTOR], VECTOR, 4, 0, tables)(name, 0)


# ------------------------------------------------------------------------------------------------ shapes


def test_boundary_shapes_leave_modes_and_running_statistics_alone():
    model = initialise(lambda: vgg((1, 8, 8), 10, width=2, hidden=8), 0)
    model.layers[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    found = boundary_shapes(network_of(model), torch.randn(1, 8, 8))
    assert found == [(2, 8, 8), (4, 4, 4), (4, 4, 4), (8, 2, 2), (8, 1, 1), (8, 1, 1), (8,)]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_that_cannot_go_on_is_named():
    network = network_of(nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2), nn.Linear(2, 2)))
    with pytest.raises(UserError, match=r"layer 1 of the network \(Linear\).*shape \(3,\)"):
        boundary_shapes(network, torch.zeros(4))
    model = nn.Module()
    model.layers, model.head = nn.ModuleList([nn.LSTM(3, 3)]), nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"layer 0.*LSTM.*tuple"):
        boundary_shapes(network_of(model), torch.zeros(2, 3))
    with pytest.raises(UserError, match="the head"):
        boundary_shapes(network_of(nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2))), torch.zeros(4))


def test_a_layer_that_loses_the_batch_is_named():
    class Sum(nn.Linear):
        def forward(self, x):
            return x.sum(0)

    with pytest.raises(UserError, match=r"layer 0 .*first axis"):
        boundary_shapes(network_of(nn.Sequential(Sum(3, 3), nn.Linear(3, 2))), torch.zeros(3))
