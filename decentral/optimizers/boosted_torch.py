"""SEBOOST as a torch optimizer: over the one of its base, and with a closure that evaluates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decentral.optimizers.rule import Mean
from decentral.optimizers.subspace import OneBatch


class Boosts(Protocol):
    """What is asked of a :class:`decentral.optimizers.seboost.SEBOOST` here."""

    @property
    def every(self) -> int:
        """Steps from a boost to the next."""

    def begun(self, x: Tensor) -> Any:
        """What boosts remember at first."""

    def boost_(self, x: Tensor, past: Any, boosts: int, evaluate: OneBatch, mean: Mean) -> Any:
        """A boost, made on x (1, d); how many evaluations it took, (1,)."""


class BoostedOptimizer(Optimizer):
    """``base`` steps; after every ``every``-th step, ``rule`` boosts all parameters, as one vector.

    ``step(closure)``: the closure zeroes the gradients, computes the loss and its gradients, and gives the loss; in a
    boost it is called at other parameters, at most ``evaluations`` times, and should look at one batch.
    ``evaluations``: so far. The groups are the base's.
    """

    def __init__(self, rule: Boosts, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.rule, self.base, self.param_groups = rule, base, base.param_groups
        self.steps = self.evaluations = 0
        self.past = rule.begun(self._row())

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """One step of the base; the boost, where it is time. Gives what the closure gave first."""
        if not callable(closure):
            raise ValueError("SEBOOST evaluates the loss in its boosts; call step(closure)")
        with torch.enable_grad():
            loss = closure()
        self.base.step()
        self.steps += 1
        boosts, rest = divmod(self.steps, self.rule.every)
        if not rest:
            x = self._row()
            more = self.rule.boost_(x, self.past, boosts, lambda y: self._evaluated(y, closure), lambda v: v)
            self.evaluations += int(more[0])
            self._put(x)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {
            "base": self.base.state_dict(),
            "past": self.past._asdict(),
            "steps": self.steps,
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups
        like, past = self._row(), state_dict["past"]

        def own(part: Any) -> Any:
            return part.to(like, copy=True) if isinstance(part, Tensor) else tuple(map(own, part))

        self.past = type(self.past)(**{name: own(part) for name, part in past.items()})
        self.steps, self.evaluations = state_dict["steps"], state_dict["evaluations"]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _row(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self._parameters()])[None]

    @torch.no_grad()
    def _put(self, row: Tensor) -> None:
        parameters = self._parameters()
        for p, part in zip(parameters, row[0].split_with_sizes([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view_as(p))

    def _evaluated(self, y: Tensor, closure: Callable[[], Any]) -> tuple[Tensor, Tensor]:
        self._put(y)
        with torch.enable_grad():
            loss = closure()
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in self._parameters()]
        return torch.as_tensor(loss).detach().reshape(1), torch.cat([g.reshape(-1) for g in gradients])[None]
