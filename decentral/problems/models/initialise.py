"""First parameters: a function of the seed alone, wherever a module trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from topologies.streams import stream_key


def initialise(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The module ``factory()`` builds, its random numbers from the stream (seed, "init").

    Built on the CPU, so the numbers are the same wherever it trains. torch's global generator is as it
    was afterwards; draws from numpy or `random` inside the factory are not covered.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_key(seed, "init") % 2**63)
        return factory()
