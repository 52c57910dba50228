"""How many bits a network of integers needs, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

from decentral.quantised.integer_network import IntegerConvolution, IntegerNetwork


class LayerSize(NamedTuple):
    """Of one layer: bits with their sign; None for what the head, without a batch norm, does not have.

    ``largest_sum``: R, of these weights and any image; ``of_fan_in``: R of any weights of these bits. ``n``: the shared
    power of two; ``scale_bits``, ``shift_bits``: of the widest A and B; ``affine_bits``: of A x + B.
    """

    layer: str
    weights: int
    weight_bits: int
    activation_bits: int | None
    largest_sum: int | None
    of_fan_in: int | None
    n: int | None
    scale_bits: int | None
    shift_bits: int | None
    affine_bits: int | None
    packed_bytes: int


def sizes(network: IntegerNetwork) -> list[LayerSize]:
    """All layers, then the head."""
    head, bits = network.head.size, network.layers[-1].weight_bits
    nothing = (None,) * 7
    return [
        *(_size(f"conv {i}", layer) for i, layer in enumerate(network.layers)),
        LayerSize("head", head, bits, *nothing, packed_bytes=-(-head * bits // 8)),
    ]


def _size(name: str, layer: IntegerConvolution) -> LayerSize:
    of_scale, of_shift = (int(abs(one).max()).bit_length() + 1 for one in (layer.scale, layer.shift))
    bits = layer.weight.size * layer.weight_bits + len(layer.scale) * (of_scale + of_shift)
    return LayerSize(
        name, layer.weight.size, layer.weight_bits, layer.activation_bits, layer.reach, layer.fan_in_reach,
        layer.bits, of_scale, of_shift, layer.width, -(-bits // 8),
    )  # fmt: skip
