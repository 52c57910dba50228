"""Adversarial examples: one signed step of the inputs against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.problems.losses import Loss, cross_entropy
from decentral.problems.models.worker_state import standing_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decentral.problems.adversarial import Adversarial
    from decentral.problems.data.dataset import Scale


class Attack:
    """Makes x_adv = clip(x + min(step, eps) sign(grad_x L(theta; x, y))), see :class:`Adversarial`.

    ``scale``: what pixels from 0 to 1, in which eps and step are counted, are as inputs; None: eps and step are the
    inputs' own, and nothing is clipped. ``like``: a tensor where and in the numbers that inputs are.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, settings: Adversarial, scale: Scale | None, like: Tensor,
        loss: Loss = cross_entropy,
    ) -> None:  # fmt: skip
        self.module, self.layout, self.loss = module, layout, loss
        std = np.float64(1) if scale is None else np.array(scale.std).reshape(-1, 1, 1)
        self.step = torch.as_tensor(settings.moves_by / std).to(like)
        # in the numbers of the data set, so that black and white are where its own are
        self.range = (
            None if scale is None else [torch.from_numpy(scale.of(end)).to(like) for end in (0.0, 1.0)]
        )

    def examples(
        self, model: Tensor, buffers: Mapping[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> Tensor:
        """Examples like ``inputs`` (B, ...) against a model (d,), in the mode that the module is in.

        The module and its buffers, and ``buffers``, are as they were afterwards. Raises UserError where autograd sees
        no way from the loss to the inputs.
        """
        x = inputs.detach().clone().requires_grad_()
        with torch.enable_grad(), standing_for(self.module, self.layout.views(model.clone()), buffers):
            (slope,) = torch.autograd.grad(self.loss(self.module(x), labels), x, allow_unused=True)
        if slope is None:
            raise UserError(
                "[adversarial] moves inputs along their gradient, and the model lets none through to them; mend it, or "
                "remove the section"
            )
        moved = inputs + self.step * slope.sign()
        return moved if self.range is None else torch.clamp(moved, *self.range)
