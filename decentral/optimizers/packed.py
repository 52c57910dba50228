"""Parameters of a torch optimizer as one row, for rules that look at layers: a few calls for all of them."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

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
        self.parameters: list[Tensor] = [*parameters]
        self.joint = joint
        self.layout = Layout.of((str(k), p) for k, p in enumerate(parameters))
        self.holders = self.parameters[:1] if joint else self.parameters
        self.state: Any = None
        self._views: list[dict[str, Any]] = [{} for _ in self.holders]
        self._handed: dict[str, Any] = {}

    def step(self, rule: Steps, kept: Kept, lr: float) -> None:
        """A step of the rule, from and into the parameters, and what is kept of them."""
        x = self._row(self.parameters)
        g = self._row([_grad(p) for p in self.parameters])
        self._begin(rule, x, kept)
        self.state = rule.step_(x, self.state, g, self.layout, lr)
        self._hand_out(kept)
        parts: tuple[Tensor, ...] = _unflatten_dense_tensors(x[0], self.parameters)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(self.parameters, parts)

    def tell(self, rule: Steps, kept: Kept, losses: Tensor) -> None:
        """The loss of the batch, before the step."""
        if self.state is None:
            self._begin(rule, self._row(self.parameters), kept)
        self.state = rule.heard(self.state, losses)
        self._hand_out(kept)

    def is_own(self, kept: Kept) -> bool:
        """Whether what is kept is what this has left, and not loaded or made by others since."""
        of_each = zip(map(kept.__getitem__, self.holders), self._views, strict=True)
        return all(of_one.get(name) is value for of_one, views in of_each for name, value in views.items())

    def _row(self, tensors: Sequence[Tensor]) -> Tensor:
        row: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        return row[None]

    def _begin(self, rule: Steps, x: Tensor, kept: Kept) -> None:
        """The state before the first step, or that which is kept."""
        if self.state is not None:
            return
        self.state = state = rule.init(x, self.layout)
        of_each = [kept[p] for p in self.holders]
        if not of_each[0] or not state:
            return
        whole = dict(of_each[0])
        for name, begun in state._asdict().items():
            if not self.joint and not isinstance(begun, int | float):
                whole[name] = torch.cat([of_one[name].reshape(1, -1) for of_one in of_each], dim=1)
        self.state = type(state)(**whole)

    def _hand_out(self, kept: Kept) -> None:
        """What has changed: numbers, and tensors that are not written to in place."""
        fields = self.state._asdict() if self.state else {}
        changed = {name: value for name, value in fields.items() if value is not self._handed.get(name)}
        of_each = [kept[p] for p in self.holders] if changed else []
        for name, value in changed.items():
            for views, of_one, part in zip(self._views, of_each, self._parts(value), strict=True):
                views[name] = of_one[name] = part
        self._handed = fields

    def _parts(self, value: Any) -> Iterable[Any]:
        if isinstance(value, int | float) or self.joint:
            return [value] * len(self.holders)
        if value.shape[1] == self.layout.d:
            parts: list[Any] = value.split_with_sizes(self.layout.sizes, 1)
            return parts
        return list(value.split(1, dim=1))


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
