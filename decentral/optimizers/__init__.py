"""Local update rules: how a stage turns a gradient into a step. Each is torch's own, by its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: m = momentum m + g, w = w - lr m (torch.optim.SGD)."""

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be in [0, 1); 0.9 is usual")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum > 0; 0.9 is usual")

    def build(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
        """The optimizer of these parameters."""
        import torch

        return torch.optim.SGD(
            parameters, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=weight_decay
        )


@dataclass(frozen=True)
class Adam:
    """Adam (torch.optim.Adam): weight decay joins the gradient. Reference: arXiv 1412.6980."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1)")
        if self.eps <= 0:
            raise ValueError(f"eps = {self.eps} must be positive; 1e-8 is usual")

    def build(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
        """The optimizer of these parameters."""
        import torch

        betas = self.beta1, self.beta2
        return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=self.eps, weight_decay=weight_decay)


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW (torch.optim.AdamW): weight decay shrinks the weights directly. Reference: arXiv 1711.05101."""

    def build(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
        """The optimizer of these parameters."""
        import torch

        betas = self.beta1, self.beta2
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=self.eps, weight_decay=weight_decay)


OPTIMIZERS: dict[str, type[Any]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""By name, as ``[optimizer] name = ...`` has it."""
