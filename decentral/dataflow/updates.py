"""When a node updates its parameters, and with what: as soon as it has enough gradients, whatever other nodes do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from decentral.dataflow.edges import State


class Updates:
    """The updates of one node's parameters, by an optimizer of its own.

    ``every``: gradients that make an update. ``unit``: what is counted, "messages" that came back here, or "instances"
    that have gone through the whole network. ``reduce``: the update is that of their "sum" or "mean". A batch may bring
    more than are missing; all of them are in the update. ``clip``: to this norm, if not 0.
    ``anneal``: if not 0, the learning rate of update k is lr / tau^(1 - min(k / anneal, 1)) with tau the mean
    staleness so far, or 1 if that is less: small steps at first, as in PipeMare (arXiv 1910.05124; tau is ours).
    ``ordered``: gradients are summed by ascending state and not as they come, so that timing does not change the bits;
    each is kept until the update.
    ``staleness``: updates between a message's forward and backward pass -> messages.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 1,
        unit: Literal["messages", "instances"] = "messages",
        reduce: Literal["sum", "mean"] = "mean",
        clip: float = 0.0,
        anneal: int = 0,
        ordered: bool = False,
    ) -> None:
        self.optimizer, self.every, self.unit, self.reduce = optimizer, every, unit, reduce
        self.clip, self.anneal, self.ordered = clip, anneal, ordered
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.lr: float = optimizer.param_groups[0]["lr"]
        self._shares = [group["lr"] / self.lr if self.lr else 1.0 for group in optimizer.param_groups]
        self.count = 0  # updates so far
        self.gathered = 0  # units since the last one
        self.staleness: Counter[int] = Counter()
        self._apart: list[tuple[State, list[Tensor | None]]] = []

    def gradients_of(self, states: Sequence[State]) -> None:
        """The gradients of these messages were added to ``grad``."""
        if self.ordered:
            self._apart.append((min(states), [p.grad for p in self.parameters]))
            self.optimizer.zero_grad(set_to_none=True)
        if self.unit == "messages":
            self._gather(len(states))

    def instance_done(self) -> None:
        """An instance has gone through the network and back."""
        if self.unit == "instances":
            self._gather(1)

    def drained(self) -> None:
        """Nothing is under way: an update with what is left."""
        if self.gathered:
            self._update()

    def _gather(self, units: int) -> None:
        self.gathered += units
        if self.gathered >= self.every:
            self._update()

    def _update(self) -> None:
        self._sum_apart()
        learning = [p for p in self.parameters if p.grad is not None]
        if self.reduce == "mean" and self.gathered > 1:
            for p in learning:
                p.grad.div_(self.gathered)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(learning, self.clip)
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            group["lr"] = self.lr * share * self._damping()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.count += 1
        self.gathered = 0

    def _sum_apart(self) -> None:
        for _, gradients in sorted(self._apart, key=lambda part: part[0]):
            for p, g in zip(self.parameters, gradients, strict=True):
                if g is not None:
                    p.grad = g if p.grad is None else p.grad.add_(g)
        self._apart.clear()

    def _damping(self) -> float:
        if self.count >= self.anneal:
            return 1.0
        tau = sum(lag * many for lag, many in self.staleness.items()) / max(1, self.staleness.total())
        factor: float = max(1.0, tau) ** (self.count / self.anneal - 1)
        return factor
