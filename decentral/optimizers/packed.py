"""Parameters of a torch optimizer as one row, for rules that look at layers: a few calls for all of them."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch

from decentral.comm.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

Kept = MutableMapping[Any, dict[str, Any]]
"""Parameter -> what a torch optimizer keeps of it."""


class Steps(Protocol):
    """What is asked of a :class:`decentral.optimizers.rule.Rule` here."""

    layers: ClassVar[bool]
    joint: ClassVar[bool]
    hears: ClassVar[bool]

    @property
    def whole(self) -> bool:
        """Whether it is given all parameters at once."""

    def decayed(self, weight_decay: float) -> Self:
        """With that weight decay."""

    def init(self, x: Tensor, layout: Layout) -> Any:
        """The state before the first step."""

    def heard(self, state: Any, losses: Tensor) -> Any:
        """The state when the loss (1,) is told."""

    def step_(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Any:
        """A step, made on x."""


class Packed:
    """``parameters`` of one dtype on one device, as a row x (1, d); the rule's state is of all of them.

    What is kept of a parameter are views of that state, by the state's names: its columns of (1, d), its number of
    (1, L), and numbers. What a ``joint`` rule has is no parameter's own, and is kept with the first.
    """

    def __init__(self, parameters: Sequence[Parameter], joint: bool) -> None:
        self.parameters, self.joint = list(parameters), joint
        self.layout = Layout.of((str(k), p) for k, p in enumerate(parameters))
        self.state: Any = None
        self._views: list[dict[str, Any]] = []
        self._handed: dict[str, Any] = {}

    def step(self, rule: Steps, kept: Kept, lr: float) -> None:
        """A step of the rule, from and into the parameters, and what is kept of them."""
        row = [p.detach().reshape(-1) for p in self.parameters]
        x = torch.cat(row)[None]
        g = torch.cat([_grad(p).reshape(-1) for p in self.parameters])[None]
        if not self._is_own(kept):
            self.state = self._gathered(rule.init(x, self.layout), kept)
        self.state = rule.step_(x, self.state, g, self.layout, lr)
        self._hand_out(kept)
        parts = x[0].split_with_sizes(self.layout.sizes)
        torch._foreach_copy_(
            [p.detach() for p in self.parameters],
            [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)],
        )

    def tell(self, rule: Steps, kept: Kept, losses: Tensor) -> None:
        """The loss of the batch, before the step."""
        if not self._is_own(kept):
            x = torch.cat([p.detach().reshape(-1) for p in self.parameters])[None]
            self.state = self._gathered(rule.init(x, self.layout), kept)
        self.state = rule.heard(self.state, losses)
        self._hand_out(kept)

    def _is_own(self, kept: Kept) -> bool:
        """Whether what is kept is still what this step left, and not loaded from elsewhere."""
        if self.state is None:
            return False
        holders = zip(self._holders(), self._views, strict=True)
        return all(kept[p].get(name) is value for p, views in holders for name, value in views.items())

    def _holders(self) -> list[Parameter]:
        return self.parameters[:1] if self.joint else self.parameters

    def _gathered(self, state: Any, kept: Kept) -> Any:
        """The state before the first step, or that which is kept."""
        first = kept[self.parameters[0]]
        self._views, self._handed = [], {}
        if not first or not state:
            return state
        whole = {}
        for name, begun in state._asdict().items():
            if isinstance(begun, int | float) or self.joint:
                whole[name] = first[name]
                continue
            whole[name] = torch.cat([kept[p][name].reshape(1, -1) for p in self.parameters], dim=1)
        return type(state)(**whole)

    def _hand_out(self, kept: Kept) -> None:
        """What has changed: numbers, and tensors that are not written to in place."""
        fields = self.state._asdict() if self.state else {}
        changed = {name: value for name, value in fields.items() if value is not self._handed.get(name)}
        if not self._views:
            self._views = [{} for _ in self._holders()]
        for name, value in changed.items():
            for views, p, part in zip(self._views, self._holders(), self._parts(value), strict=True):
                views[name] = kept[p][name] = part
        self._handed = fields

    def _parts(self, value: Any) -> Iterable[Any]:
        if isinstance(value, int | float) or self.joint:
            return [value] * len(self._holders())
        if value.shape[1] == self.layout.d:
            parts: list[Any] = value.split_with_sizes(self.layout.sizes, 1)
            return parts
        return list(value.split(1, dim=1))


def _grad(p: Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
