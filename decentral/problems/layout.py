"""The flat layout of a model: which columns of (h, d) are which parameter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Trainable parameters of a module in the order of ``named_parameters``, one after the other.

    ``entries``: (name, columns, shape).
    """

    entries: tuple[tuple[str, slice, torch.Size], ...]
    d: int

    @cached_property
    def sizes(self) -> list[int]:
        """Columns of each entry."""
        return [columns.stop - columns.start for _, columns, _ in self.entries]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of the parameters that require a gradient."""
        entries, offset = [], 0
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                entries.append((name, slice(offset, offset + parameter.numel()), parameter.shape))
                offset += parameter.numel()
        return cls(tuple(entries), offset)

    def flatten(self, module: nn.Module) -> Tensor:
        """A copy of the module's parameters, (d,)."""
        named = dict(module.named_parameters())
        return torch.cat([named[name].detach().reshape(-1) for name, _, _ in self.entries])

    def views(self, x: Tensor) -> dict[str, Tensor]:
        """Name -> view of x: (d,) gives the parameter's shape, (h, d) gives (h, *shape)."""
        lead, parts = x.shape[:-1], x.split_with_sizes(self.sizes, -1)
        return {
            name: part.view(lead + shape) for (name, _, shape), part in zip(self.entries, parts, strict=True)
        }
