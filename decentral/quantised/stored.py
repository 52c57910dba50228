"""A network of integers as a file: an .npz of integer arrays, and what they are as a JSON text among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decentral.disk import write_whole
from decentral.errors import UserError
from decentral.quantised.integer_network import IntegerConvolution, IntegerNetwork

_ARRAYS = ("weight", "scale", "shift")
_NUMBERS = ("stride", "bits", "weight_bits", "activation_bits", "reach", "fan_in_reach")
_OF_ALL = ("input_bits", "input_fraction", "step")


def save(network: IntegerNetwork, path: Path) -> None:
    """Write it: layer_0_weight, layer_0_scale, ... and head, and ``network``, a JSON text with the numbers."""
    facts: dict[str, Any] = {name: getattr(network, name) for name in _OF_ALL}
    facts["layers"] = [{name: getattr(layer, name) for name in _NUMBERS} for layer in network.layers]
    arrays = {
        f"layer_{i}_{name}": getattr(layer, name)
        for i, layer in enumerate(network.layers)
        for name in _ARRAYS
    }

    def write(file: BinaryIO) -> None:
        np.savez(file, network=np.array(json.dumps(facts)), head=network.head, **arrays)

    write_whole(path, write)


def load(path: Path) -> IntegerNetwork:
    """The network that :func:`save` wrote. Raises UserError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["network"]))
            layers = tuple(
                IntegerConvolution(**{name: arrays[f"layer_{i}_{name}"] for name in _ARRAYS}, **numbers)
                for i, numbers in enumerate(facts.pop("layers"))
            )
            return IntegerNetwork(layers, arrays["head"], **facts)
    except Exception as error:
        raise UserError(
            f"{path} is no network of integers; write it again with `decentral quantise`"
        ) from error
