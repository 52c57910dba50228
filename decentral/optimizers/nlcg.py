"""Preconditioned nonlinear conjugate gradients on batches, whose step is shortened when the loss rises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from decentral.optimizers.dots import dots
from decentral.optimizers.rule import Rule, check_choices
from topologies.settings import finite_settings, plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.layout import Layout

Update = Literal["fletcher-reeves", "polak-ribiere"]
Monitor = Literal["step", "online"]
_EPS = 1e-8
_LEAST, _MEMORY = 1e-4, 0.7  # of base; of the mean of losses
_GROWTH = {"step": 1.05, "online": 1.02}
_WORSE = (
    (0.01, 1.0, 0.1),
    (0.025, 0.975, 0.1),
    (0.05, 0.95, 0.2),
    (0.075, 0.9, 0.3),
    (0.1, 0.8, 0.5),
    (0.125, 0.7, 0.7),
    (0.15, 0.5, 0.9),
)
"""Where losses have risen by more than this share: what ``base`` is multiplied by, and how much is taken back."""


class Conjugate(NamedTuple):
    """What is left of the step before, of each worker; the parts that a rule without them needs not are ().

    d, g, z, h (h, d): direction, gradient, preconditioned residual z, preconditioner; rz (h, 1): r'z;
    base (h, 1): the factor of lr; loss (h, 1): told last; mean, checked (h, 1): the running mean of losses, and as it
    was when it was last compared, 0 where none was told yet; ``steps`` that were made, alike for all workers.
    """

    d: Tensor
    g: Tensor | tuple[()]
    z: Tensor | tuple[()]
    h: Tensor | tuple[()]
    rz: Tensor
    base: Tensor
    loss: Tensor
    mean: Tensor
    checked: Tensor
    steps: int


@dataclass(frozen=True)
class NLCG(Rule):
    """Nonlinear conjugate gradients of a worker's whole model as one vector. Reference: arXiv 1812.02886.

        g = g + decay x,    r = -g,    z = r / (h + eps)                                  (eps = 1e-8; h = 1 at first)
        b = r'z / (r'z of the step before)  or, with ``update = "polak-ribiere"``,  (r'z - r'z_before) / the same
        d = z + min(max(b, 0), 1) d_before,    x = x + lr base d                          (base = 1 at first)

    ``precondition``: h is the diagonal of BFGS with s = lr base d_before and y = g - g_before, where y's and s'hs are
    not below eps, and else stays:  h = |h - ((h s)^2 + eps) / (s'hs + eps) + (y^2 + eps) / (y's + eps)|.
    ``monitor``: there is no line search; the losses L of the batches, which must be positive, say how far to go, by
    their running mean  m = 0.7 m + 0.3 L.  "step": every ``period`` steps m is compared with what it was then;
    "online": L with m in every step. Where the ratio is below 1 + 0.01 ``threshold``, base grows by 5 (online: 2)
    percent, up to 1; above it base shrinks, by a half at most and to 1e-4 at least, and a part q of the last step is
    taken back in this one:  x = x + lr ((1 - q) base d - q base_before d_before);  q is 0.1 to 0.9.

    b is cut to [0, 1], so that on a quadratic this is not linear CG. It has momentum of its own: behind it a method
    without is meant. Where workers gossip, or average between a gradient and its step, x has moved by more than s says.
    State: d, with the preconditioner g and h, for Polak-Ribiere z; and six numbers a worker.
    """

    joint: ClassVar[bool] = True
    hears: ClassVar[bool] = True

    update: Update = "fletcher-reeves"
    precondition: bool = True
    monitor: Monitor = "step"
    period: int = 5
    threshold: float = 1.0

    def __post_init__(self) -> None:
        plain_settings(self)
        check_choices(self, update=Update, monitor=Monitor)
        if self.period < 1:
            raise ValueError(f"period = {self.period} must be at least 1; 5 is usual")
        if self.threshold <= 0:
            raise ValueError(f"threshold = {self.threshold} must be positive; 1 is usual")
        finite_settings(self)

    def init(self, x: Tensor, layout: Layout) -> Conjugate:
        """No direction yet."""
        del layout
        none, number = (), x.new_zeros((len(x), 1))
        return Conjugate(
            x.new_zeros(x.shape),
            x.new_zeros(x.shape) if self.precondition else none,
            x.new_zeros(x.shape) if self.update == "polak-ribiere" else none,
            x.new_ones(x.shape) if self.precondition else none,
            number, number + 1, number.clone(), number.clone(), number.clone(), 0,
        )  # fmt: skip

    def heard(self, state: Conjugate, losses: Tensor) -> Conjugate:
        """See :class:`Rule`."""
        return state._replace(loss=losses.to(state.loss, copy=True).reshape(-1, 1))

    def direction(
        self, x: Tensor, state: Conjugate, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Conjugate]:
        """See :class:`Rule`."""
        del layout
        g = self._joined(g, x)
        z, h = self._residual(state, g, lr)
        rz = dots(g, z).neg_().to(x.dtype)
        b = rz if isinstance(state.z, tuple) else rz + dots(g, state.z).to(x.dtype)
        d = z.addcmul(state.d, (b / (state.rz + _EPS)).clamp_(0, 1))
        mean, checked, base, back = self._monitored(state)
        step = d * (base * (back - 1))
        if back.any():
            step.addcmul_(state.d, state.base * back)
        of_g = state.g if isinstance(state.g, tuple) else state.g.copy_(g)
        of_z = state.z if isinstance(state.z, tuple) else z
        return step, Conjugate(d, of_g, of_z, h, rz, base, state.loss, mean, checked, state.steps + 1)

    def _residual(self, state: Conjugate, g: Tensor, lr: float) -> tuple[Tensor, Tensor | tuple[()]]:
        """z and h."""
        if isinstance(state.h, tuple) or isinstance(state.g, tuple):
            return g.neg(), ()
        s, y = state.d * (state.base * lr), g - state.g
        hs = state.h * s
        ys, shs = dots(y, s), dots(s, hs)
        moved = (ys >= _EPS) & (shs >= _EPS)
        if moved.any():
            ys, shs = (ys + _EPS).to(g.dtype), (shs + _EPS).to(g.dtype)
            h = state.h - hs.square_().add_(_EPS).div_(shs) + y.square_().add_(_EPS).div_(ys)
            state = state._replace(h=h.abs_().where(moved, state.h))
        assert not isinstance(state.h, tuple)
        return (g / (state.h + _EPS)).neg_(), state.h

    def _monitored(self, state: Conjugate) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mean of losses, the one to compare the next with, base, and the share of the last step to take back."""
        loss, none = state.loss, state.base * 0
        mean = (_MEMORY * state.mean + (1 - _MEMORY) * loss).where(state.mean != 0, loss)
        checked = state.checked.where(state.checked != 0, mean)
        if self.monitor == "online" and state.steps:
            ratio = loss / mean
        elif self.monitor == "step" and state.steps and state.steps % self.period == 0:
            ratio, checked = mean / checked, mean
        else:
            return mean, checked, state.base, none
        shrink, back = none + 1, none
        for above, factor, share in _WORSE:
            worse = ratio > 1 + above * self.threshold
            shrink, back = (none + factor).where(worse, shrink), (none + share).where(worse, back)
        better = ratio < 1 + _WORSE[0][0] * self.threshold
        grown = (state.base * _GROWTH[self.monitor]).clamp_(max=1.0)
        return mean, checked, grown.where(better, (state.base * shrink).clamp_(min=_LEAST)), back
