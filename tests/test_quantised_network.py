"""The network of few bits: its rounding, its gradients, and the network of integers that it becomes, by loops."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional, grad

from decentral.errors import UserError
from decentral.problems.data import load
from decentral.problems.models.quantised_cnn import (
    QuantisedBlock,
    QuantisedInput,
    integer_weight,
    quantised_cnn,
    worst_case,
)
from decentral.problems.models.rounding import floor_of_sum, passed_through
from decentral.problems.objective import Place
from decentral.problems.quantised import QuantisedCNN
from decentral.quantised.conversion import converted, first_difference, fixed_map
from decentral.quantised.stored import load as read
from decentral.quantised.stored import save

RNG = np.random.default_rng(3)
HALF = Fraction(1, 2)


def test_a_float_sum_is_rounded_as_exact_arithmetic_does_it():
    """Also where the sum of two doubles falls on a half, or just beside it, that the exact sum does not."""
    p = np.concatenate([RNG.normal(size=200) * 1e4, [0.5, 2.5, -1.5, 1e6 + 0.5, 0.0, 0.0]])
    b = np.concatenate([RNG.normal(size=200), [-1e-20, 1e-20, -1e-17, -1e-12, 0.5, 0.5 - 2**-54]])
    wanted = [floor(Fraction(x) + Fraction(y) + HALF) for x, y in zip(p, b, strict=True)]
    np.testing.assert_array_equal(floor_of_sum(torch.from_numpy(p), torch.from_numpy(b)).numpy(), wanted)
    plain = np.floor(p + b + 0.5)
    assert (plain != wanted).sum() >= 2  # what doubles alone would give


def test_rounding_gives_integers_and_is_the_identity_to_the_gradient():
    x = torch.tensor([-2.5, -0.4999, 0.5, 0.7, 1.5, 126.51, 3.0], requires_grad=True)
    y = passed_through(x)
    assert y.tolist() == [-2, 0, 0, 1, 2, 127, 3]
    y.square().sum().backward()
    assert x.grad.tolist() == [-4, 0, 0, 2, 4, 254, 6]
    assert passed_through(x, 4).tolist() == [-2.5, -0.5, 0.5, 0.75, 1.5, 126.5, 3.0]


def test_weights_are_integers_of_their_bits_whose_step_follows_their_size():
    w = torch.from_numpy(RNG.normal(size=(4, 3, 3, 3)))
    q, step = integer_weight(w, 3)
    assert float(step) == pytest.approx(np.abs(w.numpy()).mean(), rel=1e-14)
    wanted = [max(-3, min(3, round(float(x) / float(step)))) for x in w.flatten()]
    assert q.flatten().tolist() == wanted
    assert {-3.0, 3.0} <= set(wanted)
    same, twice = integer_weight(2 * w, 3)
    assert torch.equal(same, q)
    assert twice == 2 * step
    assert not integer_weight(torch.zeros(3), 2)[0].any()


def block_of(bits=3, weight_bits=3, fraction=2, seed=0):
    torch.manual_seed(seed)
    block = QuantisedBlock(2, 4, 2, weight_bits, bits, fraction).double()
    with torch.no_grad():
        for p in (block.norm.weight, block.norm.bias, block.norm.running_mean):
            p.copy_(torch.from_numpy(RNG.normal(size=4)))
        block.norm.running_var.copy_(torch.from_numpy(RNG.uniform(0.5, 9, size=4)))
        block.conv.weight[1, 0, 2, 2] = 2.0  # is clipped
        block.norm.weight[0] = -block.norm.weight[0].abs()
    return block


def test_a_blocks_training_pass_and_gradients_are_those_written_out():
    """The gradient passes rounding where nothing is clipped: dL/dw = (dL/dq) / s, dL/dz = 2^f dL/dy 2^-f."""
    block = block_of()
    x = torch.from_numpy(RNG.integers(0, 8, size=(5, 2, 6, 6)) / 4.0)
    out = block(x)
    w = block.conv.weight.detach()
    step = w.abs().mean()
    q = (w / step).clamp(-3, 3).round().requires_grad_()
    sums = functional.conv2d(x, q, stride=2, padding=1)
    assert torch.equal(sums * 4, (sums * 4).round())
    z = functional.batch_norm(sums, None, None, block.norm.weight, block.norm.bias, training=True)
    assert torch.equal(out.detach(), (z * 4).clamp(0, 7).round() / 4)
    g = torch.from_numpy(RNG.normal(size=tuple(out.shape)))
    out.backward(g)
    (of_sums,) = torch.autograd.grad(z, sums, g * ((z * 4 > 0) & (z * 4 < 7)))
    of_q = grad.conv2d_weight(x, q.shape, of_sums, stride=2, padding=1)
    wanted = of_q / step * ((w / step).abs() <= 3)
    torch.testing.assert_close(block.conv.weight.grad, wanted, rtol=1e-10, atol=1e-12)
    assert not wanted.all()


@pytest.mark.parametrize(("bits", "reach"), [(1, 300), (4, 1000)])
def test_a_block_its_integers_and_exact_arithmetic_agree_at_every_sum(bits, reach):
    block = block_of(bits, fraction=3).eval()
    fixed, (a, b) = fixed_map(block, reach), (one.detach() for one in block.affine())
    block.conv = nn.Identity()
    x = np.arange(-reach, reach + 1)
    sums = torch.from_numpy(x / 8.0).expand(1, 4, 1, -1)
    most, unit = 2**bits - 1, 2 ** (bits - 1)
    found = (block(sums)[0, :, 0] * unit).detach().numpy()
    norm = block.norm
    parts = [t.detach() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    for c in range(4):
        gamma, beta, mean, var = (float(t[c]) for t in parts)
        assert float(a[c]) == np.float32(gamma / (var + 1e-5) ** 0.5)
        assert float(b[c]) == np.float32(beta - float(a[c]) * mean)
        exact = [
            floor(unit * (Fraction(float(a[c])) * Fraction(int(s), 8) + Fraction(float(b[c]))) + HALF)
            for s in x
        ]
        np.testing.assert_array_equal(found[c], np.clip(exact, 0, most))
        integers = (fixed.scale[c] * x + fixed.shift[c]) >> fixed.bits
        np.testing.assert_array_equal(np.clip(integers, 0, most), found[c])
    assert fixed.scale[0] < 0


def test_both_oracles_pass_the_rounding():
    found = {}
    for oracle in ("batched", "loop"):
        place = Place(2, range(2), 3, torch.float64, torch.device("cpu"), 8, 0.0, oracle, 200)
        objective = QuantisedCNN(width=2).build(place)
        x = objective.start().expand(2, -1) * torch.tensor([[1.0], [0.9]], dtype=torch.float64)
        assert objective.oracle == oracle
        found[oracle] = torch.cat([g for _, g in objective.gradient(x, 1)], dim=1).clone()
    torch.testing.assert_close(found["batched"], found["loop"], rtol=1e-9, atol=1e-12)
    assert (found["loop"] != 0).float().mean() > 0.9


def trained(weight_bits, bits, dtype=torch.float32, width=3):
    """A network with statistics of its own, and scales of both signs."""
    torch.manual_seed(2)
    module = quantised_cnn((1, 8, 8), 10, width, weight_bits, bits).to(dtype)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    images = load("digits").train_x.to(dtype)
    for k in range(10):
        module(images[64 * k : 64 * k + 64])
    return module.eval()


@pytest.mark.parametrize(
    ("weight_bits", "bits", "dtype"),
    [(2, 1, torch.float32), (4, 4, torch.float32), (8, 8, torch.float32), (3, 2, torch.float64)],
)
def test_the_integers_give_the_networks_bits_on_all_test_images(tmp_path, weight_bits, bits, dtype):
    module, images = trained(weight_bits, bits, dtype), load("digits").test_x.to(dtype)
    network = converted(module)
    assert first_difference(module, network, images) == ""
    sums = network(images.numpy())
    assert sums.dtype == np.int64
    with torch.no_grad():
        np.testing.assert_array_equal(
            (sums * network.step).astype(images.numpy().dtype), module(images).numpy()
        )
    save(network, tmp_path / "x.npz")
    np.testing.assert_array_equal(read(tmp_path / "x.npz")(images.numpy()), sums)


def convolved(x, weight, stride):
    """Sums of a 3x3 convolution padded with zeros, in Python's integers: (C, H, W) nested lists to the same."""
    height, columns = len(x[0]), len(x[0][0])
    return [
        [
            [
                sum(
                    kernel[c][i][j] * x[c][row + i - 1][column + j - 1]
                    for c in range(len(x))
                    for i in range(3)
                    for j in range(3)
                    if 0 <= row + i - 1 < height and 0 <= column + j - 1 < columns
                )
                for column in range(0, columns, stride)
            ]
            for row in range(0, height, stride)
        ]
        for kernel in weight
    ]


def test_an_image_goes_through_the_integers_as_loops_say():
    module = trained(4, 3, width=2)
    network, images = converted(module), load("digits").test_x[:2].numpy()
    for image, sums in zip(images, network(images), strict=True):
        x = [[[max(-128, min(127, round(float(p) * 32))) for p in row] for row in part] for part in image]
        for layer in network.layers:
            raw = convolved(x, layer.weight.tolist(), layer.stride)
            assert (
                max(abs(s) for part in raw for row in part for s in row) <= layer.reach <= layer.fan_in_reach
            )
            x = [
                [[max(0, min(7, (a * s + b) >> layer.bits)) for s in row] for row in part]
                for part, a, b in zip(raw, layer.scale.tolist(), layer.shift.tolist(), strict=True)
            ]
        flat = [value for part in x for row in part for value in row]
        wanted = [sum(w * v for w, v in zip(row, flat, strict=True)) for row in network.head.tolist()]
        assert sums.tolist() == wanted


def test_a_difference_is_found_and_named():
    module, images = trained(4, 4), load("digits").test_x
    network = converted(module)
    network.layers[1].shift[0] += 1 << network.layers[1].bits
    assert first_difference(module, network, images).startswith("layer 1 of image")
    network = converted(module)
    network.head[3] += 1
    assert first_difference(module, network, images).startswith("the logits of image")


def test_worst_cases_are_reached():
    assert worst_case(9, 4, 8, signed=True) == 9 * 7 * 128
    assert worst_case(18, 2, 4, signed=False) == 18 * 1 * 15
    x = QuantisedInput()(torch.tensor([-9.0, -4.0, 0.015625, 0.046875, 3.96, 7.0]))
    assert (x * 32).tolist() == [-128, -128, 0, 2, 127, 127]


def test_what_cannot_be_integers_is_refused(tmp_path):
    with pytest.raises(UserError, match="no network of few bits"):
        converted(nn.Sequential(nn.Linear(2, 2)))
    module = trained(4, 4)
    with torch.no_grad():
        module.layers[1].norm.running_var[0] = float("nan")
    with pytest.raises(UserError, match="layer 1 is not finite"):
        converted(module)
    with pytest.raises(UserError, match="lower width = 40, weight_bits or activation_bits"):
        quantised_cnn((1, 8, 8), 10, 40, 8, 8)
    with pytest.raises(UserError, match="needs images"):
        quantised_cnn((32,), 10)
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="no network of integers"):
        read(tmp_path / "x.npz")
