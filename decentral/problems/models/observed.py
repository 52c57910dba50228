"""What one pass of a module does: found by making it, in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decentral.problems.models.draws import GENERATORS, Generators


@dataclass(frozen=True)
class Observed:
    """``loss``, and by the names of the module's parameters and buffers:

    ``gradients`` of the parameters that require one, dense, zeros where the loss does not depend on it. ``parameters``
    (those) and ``buffers``: as the pass leaves them; ``before``: the buffers as it found them. ``draws``: the names of
    the global generators that it moved.
    """

    loss: Tensor
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]
    before: dict[str, Tensor]
    buffers: dict[str, Tensor]
    draws: frozenset[str]

    @property
    def misshapen(self) -> list[str]:
        """Buffers that have appeared, gone, or changed their shape or type."""
        now, before = self.buffers, self.before
        both = now.keys() & before.keys()
        changed = {k for k in both if (now[k].shape, now[k].dtype) != (before[k].shape, before[k].dtype)}
        return sorted(changed | (now.keys() ^ before.keys()))


def observed(
    module: nn.Module, loss_of: Callable[[nn.Module], Tensor], device: torch.device | None = None
) -> Observed:
    """One forward and backward pass of ``loss_of(module)``, a scalar, in the mode that the module is in.

    It moves generators and writes buffers, as any pass; the parameters' ``grad`` is None before and after. Raises what
    the module raises.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    module.zero_grad(set_to_none=True)
    generators = Generators(GENERATORS, device)
    before, state = _buffers(module), generators.state()
    loss = loss_of(module)
    if trained:
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: _dense(p) for name, p in trained.items()}
    module.zero_grad(set_to_none=True)
    left = {name: p.detach().clone() for name, p in module.named_parameters() if name in trained}
    return Observed(loss.detach(), gradients, left, before, _buffers(module), generators.moved(state))


def _dense(p: nn.Parameter) -> Tensor:
    if p.grad is None:
        return torch.zeros_like(p.detach())
    return p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
