"""SEBOOST: now and then the best step in the space of the steps so far, on top of any rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from decentral.optimizers.rule import Evaluate, Mean, Rule
from decentral.optimizers.subspace import OneBatch, descend, products
from decentral.tables import fields_of, named
from topologies.settings import plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.optim import Optimizer

    from decentral.comm.layout import Layout

_STILL = 1e-5  # a shorter way since the last boost is no direction


class Past(NamedTuple):
    """What boosts remember, all (h, d): x after the ``last``; ``history`` directions; sum ``momentum``; ``anchors``."""

    last: Tensor
    history: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]


class Boosted(NamedTuple):
    """``base``: the rule's own state; ``evaluations`` (h, 1) in boosts so far; ``steps`` of all workers."""

    base: Any
    past: Past
    evaluations: Tensor
    steps: int


@dataclass(frozen=True)
class SEBOOST(Rule):
    """``every`` steps of the rule ``base``, then one in x + span(P) on a batch of its own. Reference: arXiv 1609.00629.

        P = [ history directions | momentum direction | (x - a_i) / |x - a_i| for anchors a_i ]
        n = x - x_last;    where |n| > 1e-5 it takes the place of the oldest of the ``history`` directions
        alpha = argmin f_B(x + P alpha), by conjugate gradients of at most ``evaluations`` evaluations
        x = x + P alpha,    that direction = it + P alpha,    m = momentum m + it,    x_last = x
        a_i = x in boosts 1, 1 + p_i, 1 + 2 p_i, ... for p_i in ``anchors``

    f_B: the mean loss, without weight decay, of one batch of each boost, whose statistics of batch norm are left alone;
    it never rises. Each worker for itself; where a method averages gradients, f_B is the mean over workers, and so are
    its slopes along P: m + 1 numbers an evaluation. x_last and P see the mixing too. A boost is a step of x, so it is
    for methods that step and then mix. ``base``: a name, or a table of a name and its keys. ``momentum`` 0: without.
    """

    layers: ClassVar[bool] = True
    evaluates: ClassVar[bool] = True
    bases: ClassVar[
        Mapping[str, Any]
    ] = {}  # filled by the room's door, whose table this rule stands in itself

    every: int = 100
    history: int = 5
    momentum: float = 0.9
    anchors: tuple[int, ...] = ()
    evaluations: int = 25
    base: Any = "sgd"

    def __post_init__(self) -> None:
        plain_settings(self)
        for name, least in (("every", 1), ("history", 1), ("evaluations", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"momentum = {self.momentum} must be in [0, 1); 0.9 is usual, and 0 is without it"
            )
        object.__setattr__(self, "anchors", tuple(self.anchors))
        if bad := [p for p in self.anchors if p < 1]:
            raise ValueError(
                f"anchors = {shown(bad)} must be numbers of boosts, at least 1, such as [10, 50]"
            )
        object.__setattr__(self, "base", self._made())

    def _made(self) -> Rule:
        base = self.base
        if isinstance(base, str | Mapping):
            table = {"name": base} if isinstance(base, str) else dict(base)
            base = named(table, "optimizer.base", self.bases)
        if not isinstance(base, Rule):
            raise ValueError(
                f'base = {shown(base)} must be a rule: a name, or a table such as {{ name = "sgd", momentum = 0.9 }}'
            )
        if base.rescale is not None:
            raise ValueError(
                f"base = {shown(base.title)} rescales weights, and boosts keep models; leave rescale out"
            )
        if base.hears or base.evaluates:
            raise ValueError(
                f"base = {shown(base.title)} asks for losses itself; use a rule that takes the gradient only"
            )
        return base

    def resolved(self) -> dict[str, Any]:
        """Its keys in TOML."""
        base = self.base.resolved() if hasattr(self.base, "resolved") else fields_of(self.base)
        names = (name for name, kind in self.bases.items() if kind is type(self.base))
        name = next(names, None) or self.base.path
        return {**fields_of(self), "base": {"name": name, **base}}

    def decayed(self, weight_decay: float) -> Self:
        """See :class:`Rule`: the base's."""
        rule = super().decayed(weight_decay)
        if rule is not self:
            object.__setattr__(rule, "base", self.base.decayed(weight_decay))
        return rule

    def refuse(self, layout: Callable[[], Layout], numbers: dtype) -> None:
        """See :class:`Rule`: where the base cannot."""
        self.base.refuse(layout, numbers)

    def build(self, parameters: Iterable[Any], lr: float, weight_decay: float) -> Optimizer:
        """See :class:`Rule`; its ``step`` needs a closure that computes the loss and the gradients anew."""
        from decentral.optimizers.boosted_torch import BoostedOptimizer

        self._refuse_rescaling()
        return BoostedOptimizer(self, self.base.build(parameters, lr, weight_decay))

    def init(self, x: Tensor, layout: Layout) -> Boosted:
        """No directions yet; all anchors are where it begins."""
        import torch

        counts = torch.zeros(len(x), 1, dtype=torch.int64)
        return Boosted(self.base.init(x, layout), self.begun(x), counts, 0)

    def begun(self, x: Tensor) -> Past:
        """What boosts remember at first."""
        return Past(
            x.clone(),
            tuple(x.new_zeros(x.shape) for _ in range(self.history)),
            (x.new_zeros(x.shape),) if self.momentum else (),
            tuple(x.clone() for _ in self.anchors),
        )

    def direction(
        self, x: Tensor, state: Boosted, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Boosted]:
        """See :class:`Rule`: the base's."""
        d, base = self.base.direction(x, state.base, g, layout, lr)
        return d, state._replace(base=base, steps=state.steps + 1)

    def step_(self, x: Tensor, state: Boosted, g: Tensor, layout: Layout, lr: float) -> Boosted:
        """See :class:`Rule`: the base's; the boost comes with :meth:`evaluated`."""
        base = self.base.step_(x, state.base, g, layout, lr)
        return state._replace(base=base, steps=state.steps + 1)

    def evaluated(self, x: Tensor, state: Boosted, evaluate: Evaluate, mean: Mean) -> Boosted:
        """See :class:`Rule`: after every ``every``-th step, the boost."""
        boosts, rest = divmod(state.steps, self.every)
        if rest:
            return state
        more = self.boost_(x, state.past, boosts, lambda y: evaluate(y, boosts), mean)
        return state._replace(evaluations=state.evaluations + state.evaluations.new_tensor(more)[:, None])

    def boost_(self, x: Tensor, past: Past, boosts: int, evaluate: OneBatch, mean: Mean) -> NDArray[np.int64]:
        """Boost number ``boosts`` = 1, 2, ..., made on x (h, d) and on what is remembered; evaluations of each (h,)."""
        newest = past.history[(boosts - 1) % self.history]
        way = x - past.last
        newest.copy_(way.where((products(way, way) > _STILL**2)[:, None], newest))
        best = descend(
            x, [*past.history, *past.momentum, *_units(x, past.anchors)], evaluate, mean, self.evaluations
        )
        newest.add_(best.x - x)
        x.copy_(best.x)
        for total in past.momentum:
            total.mul_(self.momentum).add_(newest)
        past.last.copy_(x)
        for anchor, period in zip(past.anchors, self.anchors, strict=True):
            if (boosts - 1) % period == 0:
                anchor.copy_(x)
        return best.evaluations


def _units(x: Tensor, anchors: Iterable[Tensor]) -> Iterator[Tensor]:
    """(x - a) / |x - a| of each, 0 where that is 0."""
    for anchor in anchors:
        apart = x - anchor
        sizes = products(apart, apart).sqrt_()
        yield apart.div_(sizes.where(sizes > 0, 1.0).to(x.dtype)[:, None])
