"""From the trained network of few bits to the network of integers, and the proof that they are one."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from decentral.errors import UserError
from decentral.problems.models.layered import LayeredNetwork
from decentral.problems.models.quantised_cnn import (
    INPUT_BITS,
    INPUT_FRACTION,
    QuantisedBlock,
    QuantisedHead,
    integer_weight,
    worst_case,
)
from decentral.quantised.integer_network import IntegerConvolution, IntegerNetwork, Integers, chunks
from decentral.quantised.shared_shift import FixedPoint, fixed_point

MOST_BITS = 64
"""Of the integer A x + B."""


@torch.no_grad()
def converted(module: nn.Module) -> IntegerNetwork:
    """The integers of ``module``, a :func:`decentral.problems.models.quantised_cnn.quantised_cnn` that has trained.

    Each layer's A, B and n hold for every sum that its integer weights can make of any image. Raises UserError for
    another module, and for parameters that are not finite.
    """
    blocks = [part for part in module.modules() if isinstance(part, QuantisedBlock)]
    head = getattr(module, "head", None)
    if not isinstance(module, LayeredNetwork) or not blocks or not isinstance(head, QuantisedHead):
        raise UserError(
            f"{type(module).__name__} is no network of few bits with batch norms; use quantised-cnn"
        )
    layers, bits = [], INPUT_BITS
    for number, block in enumerate(blocks):
        layers.append(_layer(block, bits, number))
        bits = block.bits
    weight, step = integer_weight(head.linear.weight, head.bits)
    unit = step.double() * 2.0 ** -blocks[-1].fraction
    return IntegerNetwork(tuple(layers), _integers(weight), INPUT_BITS, INPUT_FRACTION, float(unit))


def _layer(block: QuantisedBlock, input_bits: int, number: int) -> IntegerConvolution:
    weight_bits = block.conv.bits
    weight = _integers(integer_weight(block.conv.weight, weight_bits)[0])
    most = 2 ** (input_bits - 1) if number == 0 else 2**input_bits - 1
    reach = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).max()) * most
    found = fixed_map(block, reach, number)
    if (needed := found.width(reach)) > MOST_BITS:
        raise UserError(
            f"the batch norm of layer {number} needs integers of {needed} bits; use fewer activation_bits"
        )
    widest = worst_case(weight[0].size, weight_bits, input_bits, signed=number == 0)
    return IntegerConvolution(
        weight, block.conv.stride[0], np.array(found.scale), np.array(found.shift), found.bits,
        weight_bits, block.bits, reach, widest,
    )  # fmt: skip


def fixed_map(block: QuantisedBlock, reach: int, number: int = 0) -> FixedPoint:
    """A, B and n of a block's batch norm, for sums of integers within ``reach``; ``number``: which layer it is."""
    if not all(one.isfinite().all() for one in block.affine()):
        raise UserError(f"the batch norm of layer {number} is not finite: train at a lower train.lr")
    return fixed_point(*affine_of_sums(block), reach, 0, (1 << block.bits) - 1)


def affine_of_sums(block: QuantisedBlock) -> tuple[list[Fraction], list[Fraction]]:
    """alpha and beta of each channel: the block in evaluation from sums of integers to integers, before rounding."""
    a, b = block.affine()
    # sums are integers times 2^-fraction, activations integers times 2^-(bits - 1): powers of two, and so exact
    unit = Fraction(2) ** (block.fraction - block.conv.fraction)
    alpha = [Fraction(value) * unit for value in a.tolist()]
    return alpha, [Fraction(value) * (1 << block.fraction) for value in b.tolist()]


@torch.no_grad()
def first_difference(module: nn.Module, network: IntegerNetwork, images: Tensor) -> str:
    """Where the two differ in a bit on these images: a layer's activations, or logits; "" if nowhere.

    ``module`` is in evaluation mode, on the CPU; ``images`` (N, C, H, W) in its numbers.
    """
    count = 0
    for part in chunks(images.numpy()):
        for name, ours, theirs in _pairs(module, network, torch.from_numpy(part)):
            if not np.array_equal(ours, theirs):
                wrong = np.argwhere(ours != theirs)[0]
                return f"{name} of image {count + int(wrong[0])}"
        count += len(part)
    return ""


def _pairs(
    module: nn.Module, network: IntegerNetwork, images: Tensor
) -> Iterator[tuple[str, Integers, Integers]]:
    """Of each layer, what the integers give as the floats that the module has, and what that gives."""
    assert isinstance(module, LayeredNetwork)
    *activations, sums = network.outputs(images.numpy())
    x = images
    for number, (layer, ours) in enumerate(zip(module.layers, activations, strict=True)):
        x = layer(x)
        unit = 2.0 ** -(network.layers[number].activation_bits - 1)
        yield f"layer {number}", (ours * unit).astype(x.numpy().dtype), x.numpy()
    logits = module.head(x).numpy()
    yield "the logits", (sums * network.step).astype(logits.dtype), logits


def _integers(weight: Tensor) -> Integers:
    return weight.detach().cpu().numpy().astype(np.int8)
