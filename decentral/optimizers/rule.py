"""What an update rule is: how a gradient becomes a step, one text wherever steps are made.

Rounds and stages that gossip ask it in front of their method (:mod:`decentral.rounds.ruled`), an asynchronous worker
between two gradients, and stages and nodes parameter by parameter, as torch has it (``build``).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeGuard, get_args

from decentral.errors import UserError
from topologies.wording import shown

Evaluate = Callable[["Tensor", int], "tuple[Tensor, Tensor]"]
"""(models (h, d), number of a batch) -> the losses (h,) there, and the gradients (h, d)."""
Mean = Callable[["Tensor"], "Tensor"]
"""Numbers (h, k) of the workers -> those that each goes on with: its own, or the mean of all."""

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.optim import Optimizer

    from decentral.comm.layout import Layout


@dataclass(frozen=True)
class Rule(ABC):
    """A rule is a frozen dataclass whose fields are its keys under ``[optimizer]`` in TOML.

        d, state <- direction(x, state, g, layout, lr),    x <- x - lr d

    on models x (h, d) with gradients g (h, d): a row a worker, and each row, and in it each span of the layout, by
    itself. The state is a NamedTuple of tensors with h rows and of numbers, as methods have them
    (:mod:`decentral.algorithms.state`). x and state are consumed, g is not written to, and neither is d by who gets
    it: it may be g, or lie in the state. lr may change from step to step, and may be 0.

    ``layers``: whether it looks at whole spans, as a norm of each layer does. It is then given whole rows; others act
    alike on every column, and may be given some columns only, with the layout of all. ``apart``: whether g may come as
    its spans (:data:`decentral.optimizers.spans.Spans`), so that nobody has to put them together. ``joint``: whether
    it looks at the whole model as one vector, so that it needs all layers in one place. ``hears``: whether it is told,
    before each step, the loss of the batch that g is of: :meth:`heard`. ``evaluates``: whether it looks, after its step
    of x, at the loss at other models: :meth:`evaluated`. ``trusts``: whether layers have a trust ratio:
    :meth:`trust_ratios`.
    ``weight_decay``: ``[train]`` has it, and :meth:`decayed` puts it in. The rule says what it does: join the gradient,
    shrink the weights by itself, or enter a ratio of norms.

    ``rescale``, ``rescale_every``: options of all rules, which are who makes the steps' to do:
    :mod:`decentral.optimizers.rescaling`. Every step by default.
    """

    layers: ClassVar[bool] = False
    apart: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    hears: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    trusts: ClassVar[bool] = False

    weight_decay: float = field(default=0.0, init=False)
    rescale: Literal["layer", "filter"] | None = field(default=None, kw_only=True)
    rescale_every: int | None = field(default=None, kw_only=True)

    @property
    def is_plain(self) -> bool:
        """Whether d is g with its weight decay, and there is no state: who knows that need not ask."""
        return False

    def decayed(self, weight_decay: float) -> Self:
        """This rule with that weight decay."""
        if weight_decay == self.weight_decay:
            return self
        rule = copy.copy(self)
        object.__setattr__(rule, "weight_decay", weight_decay)
        return rule

    def without_rescaling(self) -> Self:
        """This rule without the option, for who rescales by itself."""
        rule = copy.copy(self)
        object.__setattr__(rule, "rescale", None)
        object.__setattr__(rule, "rescale_every", None)
        return rule

    @abstractmethod
    def init(self, x: Tensor, layout: Layout) -> Any:
        """The state before the first step from x (h, d)."""

    @abstractmethod
    def direction(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> tuple[Tensor, Any]:
        """d (h, d), for the step x - lr d, and the state after it; x stays as it is."""

    def step_(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Any:
        """The step, made on x; the state after it.

        For who does no more with a gradient than this step. A rule whose own form is no multiple of lr, such as Adam's
        quotient in torch or a velocity that has lr in it, writes it here: x - lr d is the same but for rounding.
        """
        d, state = self.direction(x, state, g, layout, lr)
        x.sub_(d, alpha=lr)
        return state

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return type(self).__name__

    def refuse(self, layout: Callable[[], Layout], numbers: dtype) -> None:
        """Raise UserError where it cannot step models of that layout in these numbers; those of this package can."""
        del layout, numbers

    @property
    def whole(self) -> bool:
        """Whether it is given whole rows, with all of their gradient there."""
        return self.layers or self.joint or self.hears

    def heard(self, state: Any, losses: Tensor) -> Any:
        """The state when ``losses`` (h,) of the batches are told, of workers each for itself; if it ``hears``."""
        del losses
        return state

    def evaluated(self, x: Tensor, state: Any, evaluate: Evaluate, mean: Mean) -> Any:
        """After the step, for who ``evaluates``: what more is made of x (h, d), in place; the state after it.

        ``evaluate(y, k)``: the losses (h,) at y (h, d), on the k-th of the batches for this, and the gradients (h, d).
        ``mean``: of numbers (h, k) of the workers, where these share their gradients; else they stay as they are.
        """
        del x, evaluate, mean
        return state

    def trust_ratios(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> Tensor:
        """(h, L): the factors on lr in the step from here, of the L spans; 1 on those that are left to plain steps.

        For who ``trusts``. x, state and g are those that :meth:`direction` would be given, and stay as they are.
        """
        raise NotImplementedError(f"{self.title} has no trust ratios")

    def build(self, parameters: Iterable[Any], lr: float, weight_decay: float) -> Optimizer:
        """The rule as a torch optimizer of these parameters, or groups of them."""
        from decentral.optimizers.as_torch import RuleOptimizer

        self._refuse_rescaling()
        return RuleOptimizer(self, parameters, lr, weight_decay)

    def _refuse_rescaling(self) -> None:
        """For :meth:`build`, whose parameters do not tell what to rescale."""
        if self.rescale is not None:
            raise ValueError(
                f"rescale = {self.rescale!r} needs the model, and an optimizer has its parameters; leave it out, and "
                "say decentral.optimizers.rescaled(optimizer, model, batch)"
            )

    def _joined(self, g: Tensor, x: Tensor) -> Tensor:
        """g with the weight decay in it."""
        return g.add(x, alpha=self.weight_decay) if self.weight_decay else g


def check_choices(settings: Any, **kinds: Any) -> None:
    """Refuse, for ``__post_init__``, a field whose value is none of its Literal's."""
    for name, kind in kinds.items():
        value, choices = getattr(settings, name), get_args(kind)
        if value not in choices:
            raise ValueError(f"{name} = {shown(value)} must be one of {', '.join(choices)}; choose one")


def is_asked(rule: Rule | None) -> TypeGuard[Rule]:
    """Whether there is a rule, and one that does more than add weight decay: to add it oneself costs less."""
    return rule is not None and not (rule.is_plain and rule.rescale is None)


def to_ask(rule: Rule | None, weight_decay: float) -> tuple[Rule | None, float]:
    """(the rule to ask, with this weight decay, or None; the weight decay that is left to who would ask it)."""
    return (rule.decayed(weight_decay), 0.0) if is_asked(rule) else (None, weight_decay)


def refuse_evaluating(rule: Rule | None, why: str) -> None:
    """Raise UserError for a rule that evaluates the loss, where that cannot be; ``why``, in words."""
    if rule is not None and rule.evaluates:
        raise UserError(
            f"{rule.title} evaluates the loss at other models, and {why}; use rounds, such as those of dsgd, or "
            "another rule"
        )


def refuse_to_rescale(rule: Rule, why: str) -> None:
    """Raise UserError for a rule that has the option, where nobody sees to it; ``why``, in words."""
    if rule.rescale is not None or rule.rescale_every is not None:
        raise UserError(
            "optimizer.rescale and optimizer.rescale_every are for weights before a batch norm, and "
            f"{why}; remove the key"
        )
