"""First parameters: a function of the seed alone, wherever a module trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from decentral.problems.models.draws import GENERATORS, Generators


def initialise(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The module ``factory()`` builds, its random numbers from the stream (seed, "init").

    Built on the CPU, so the numbers are the same wherever it trains. The global generators of torch, numpy and Python
    are as they were afterwards.
    """
    generators = Generators(GENERATORS)
    with generators.kept(), torch.device("cpu"):
        generators.seed(seed, "init")
        return factory()
