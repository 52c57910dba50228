"""First parameters: a function of the seed alone, wherever a module trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from decentral.errors import UserError
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


def parameter_count(factory: Callable[[], nn.Module]) -> int:
    """The parameters of the module ``factory()`` would build, without their memory. Raises UserError beyond 64 bits."""
    try:
        with torch.device("meta"), _Unfilled():
            return sum(p.numel() for p in factory().parameters())
    except (RuntimeError, OverflowError, TypeError) as error:  # torch's numbers of bytes have 64 bits
        first = str(error).partition("\n")[0]
        raise UserError(f"[problem] the model is larger than any memory ({first}); make it smaller") from None


class _Unfilled(TorchFunctionMode):
    """What would fill a tensor leaves it: there is nothing to fill, and torch takes seconds to learn how."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
