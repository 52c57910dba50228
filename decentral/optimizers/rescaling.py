"""Weight rescaling: weights before a batch norm are brought back to norm 1 after a step (arXiv 2102.03497)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from decentral.optimizers.before_norms import Normed

By = Literal["layer", "filter"]
"""Over what a norm is taken: all of a layer's weight, or the part of it that makes one output channel."""


@dataclass(frozen=True)
class Rescaling:
    """After every ``every``-th step, for each layer w x + b whose output y goes into a batch norm and nowhere else,

        w <- w / c,   b <- b / c,   running_mean <- running_mean / c,   running_var <- running_var / c^2

        c = |w|  (``by = "layer"``),  or of each output channel k  c_k = |w_k|  (``by = "filter"``);  1 where that is 0

    A batch norm gives the same for y / c, but for its eps, which then weighs c^2 times as much beside the variance; so
    the network's output stays where it was, in training and, by the running statistics, in evaluation. The gradient of
    such a weight is orthogonal to it and grows as 1 / |w|, so its effective learning rate is lr / |w|^2: with norm 1 it
    is lr, where weight decay holds it up only in balance with the steps. These weights and biases have no weight decay.

    In rounds it comes after all of the round, for a mean of weights of norm 1 is shorter; so each worker's weights have
    norm 1 when the round ends, and the next gradient is taken there.

    Reference: Liu, Cui, Wan, Mao, Chan, arXiv 2102.03497 (weight rescaling in the place of weight decay). That it comes
    after every step by default, the two granularities, that running statistics go along and that a rule's momentum is
    left alone are our form.
    """

    layers: Sequence[Normed]
    by: By
    every: int = 1

    @property
    def spared(self) -> frozenset[str]:
        """The names of the parameters that have no weight decay."""
        return frozenset(name for one in self.layers for name in (one.weight, one.bias) if name)

    def is_due(self, t: int) -> bool:
        """Whether it is to be done after step t, counted from 0."""
        return (t + 1) % self.every == 0

    @torch.no_grad()
    def act(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        weighed: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The tensors, by their names in the model and with a leading axis of h models, change in place.

        ``weighed``: where norms are taken, if the parameters are a multiple of it.
        """
        for one in self.layers:
            w = parameters[one.weight]
            # row by row, so that a model's bits are the same whichever others are beside it
            c = torch.stack([self._norms(row, one) for row in (weighed or parameters)[one.weight]])
            c = c.where(c > 0, 1.0)
            w.div_(_like(c, w, one))
            if one.bias:
                parameters[one.bias].div_(c)
            if one.mean:
                buffers[one.mean].div_(c)
            if one.var:
                buffers[one.var].div_(c * c)

    def act_on(self, model: nn.Module) -> None:
        """:meth:`act`, on the tensors of the model itself."""
        statistics = (name for one in self.layers for name in (one.mean, one.var) if name)
        parameters = {name: model.get_parameter(name).detach()[None] for name in self.spared}
        # .data: a graph that is kept has seen the statistics, but in training mode does not go back through them
        self.act(parameters, {name: model.get_buffer(name).data[None] for name in statistics})

    def _norms(self, w: Tensor, one: Normed) -> Tensor:
        """c of each output channel, (groups outputs,)."""
        groups, inputs, outputs = one.blocks
        if self.by == "layer":
            norm: Tensor = torch.linalg.vector_norm(w)
            return norm.expand(groups * outputs)
        norms: Tensor = torch.linalg.vector_norm(w.reshape(groups, inputs, outputs, -1), dim=(1, 3))
        return norms.reshape(-1)


def _like(c: Tensor, w: Tensor, one: Normed) -> Tensor:
    """c (h, channels), each at all entries of the weights (h, ...) that make its channel."""
    groups, inputs, outputs = one.blocks
    of_each = w[0].numel() // (groups * inputs * outputs)
    c = c.view(len(c), groups, 1, outputs, 1).expand(-1, -1, inputs, -1, of_each)
    return c.reshape(w.shape)
