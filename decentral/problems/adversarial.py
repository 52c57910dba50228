"""``[adversarial]``: training on adversarial examples beside the samples, made one after the other or concurrently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decentral.errors import UserError


@dataclass(frozen=True)
class Adversarial:
    """ConAdv (``stale = 1``), and its synchronous form DisAdv (``stale = 0``); theta_t is a worker's model in round t.

        x_adv = clip( Proj_eps( x + step sign( grad_x L(theta_{t - stale}; x, y) ) ) ),    theta_{-1} = theta_0
        loss  = L(theta_t; x, y | main statistics) + weight L(theta_t; x_adv, y | auxiliary statistics)

    ``eps``: how far a pixel may move, of its range 0 to 1, and an input that is no pixel in its own unit. ``step``: by
    how much it moves, by default ``eps``, and by no more than that in any case. Images stay in the range of pixels.
    ``stale = 1``: examples of round t + 1 are made from theta_t, while the gradient of round t is computed.
    ``attackers``: each rank of workers has a rank beside it that makes its examples; the numbers are the same.
    ``weight = 0`` trains on samples alone, and measures the same.

    Samples and examples go through the model apart, so each are normalised by the statistics of their own batch, and
    have running statistics (all buffers) of their own; scales and shifts are shared. Models are judged with the main
    ones. ``grad_x`` is taken as in training, and leaves no running statistics behind.
    Reference: Liu, Chen, Cheng, Hsieh, You, ICLR 2022 (arXiv 2106.00221); two sets of statistics as in Xie et al., CVPR
    2020 (arXiv 1911.09665), who keep two sets of scales and shifts as well.
    """

    eps: float
    step: float | None = None
    weight: float = 1.0
    stale: Literal[0, 1] = 1
    attackers: bool = False

    def __post_init__(self) -> None:
        for key in ("eps", "step", "weight"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(
                    f"adversarial.{key} = {value} must be finite and not negative; set it to 0 or more"
                )

    @property
    def moves_by(self) -> float:
        """The projection of one step onto the ball: min(step, eps)."""
        return self.eps if self.step is None else min(self.step, self.eps)
