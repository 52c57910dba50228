"""Losses of a stage's own: local heads by name, local losses, and how they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from topologies.places import all_loaded

if TYPE_CHECKING:
    from torch import nn

HEADS: dict[str, Callable[..., nn.Module]] = all_loaded(
    {
        "linear": "decentral.stages.heads.classifiers:linear",
        "mlp": "decentral.stages.heads.classifiers:mlp",
        "mlp-sr": "decentral.stages.heads.classifiers:mlp_sr",
        "conv": "decentral.stages.heads.classifiers:conv",
        "token-softmax": "decentral.stages.heads.classifiers:token_softmax",
        "auglocal": "decentral.stages.heads.auglocal:auglocal",
    }
)
"""Name -> constructor(shape, classes, further parameters by name) of the classifier.

One that has the parameters ``layer`` and ``shapes`` is also told after which layer it is, and all layers' outputs.
"""
