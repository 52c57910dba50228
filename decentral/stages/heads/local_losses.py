"""Local losses: what a stage with a local head minimises, as modules, for some have parameters of their own.

All are called as ``loss(h, logits, labels, inputs)``: the stage's output h, its local head's logits, the labels, and
a function that gives the batch's original inputs, which only a reconstruction calls. The result is a scalar, the
mean over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from decentral.errors import UserError, nearest
from decentral.tables import from_table
from topologies.wording import shown

Inputs = Callable[[], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits and labels, their mean."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, ..., classes) and labels (B, ...): one per example, or one per token."""
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


class CrossEntropy(nn.Module):
    """Cross-entropy CE(logits, labels), mean over examples and tokens. No parameters."""

    def __init__(self, shape: Sequence[int], classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        del shape, classes, input_shape

    def forward(self, h: Tensor, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The loss; ``h`` and ``inputs`` are not used."""
        del h, inputs
        return cross_entropy(logits, labels)


class OfLogits(nn.Module):
    """A loss of the local head's logits and the labels, whatever these are. No parameters."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.of = loss

    def forward(self, h: Tensor, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The loss; ``h`` and ``inputs`` are not used."""
        del h, inputs
        return self.of(logits, labels)


class PredSim(nn.Module):
    """Prediction and similarity matching; h is (B, features) or (B, C, H, W), labels (B,).

        (1 - beta) CE(logits, labels) + beta mean_ij (S(L h)_ij - S(Y)_ij)^2

    S is :func:`similarity`, Y the one-hot labels (no gradient), L a linear map without bias that is trained along: 3x3
    convolution on maps. Nokland and Eidnes 2019 (arXiv 1901.06656). As in the authors' code: L, S, beta = 0.99. Not
    taken over: their prediction layer that starts at zero; here it is the local head. Cost: B^2 features for S.
    Raises UserError for token sequences and for beta outside 0 .. 1.
    """

    beta: float

    def __init__(
        self, shape: Sequence[int], classes: int, input_shape: Sequence[int], beta: float = 0.99
    ) -> None:
        super().__init__()
        del input_shape
        if not 0 <= beta <= 1:
            raise UserError(f"local loss 'predsim': beta = {beta} must be between 0 and 1")
        if len(shape) not in (1, 3):
            raise UserError(_refusal("predsim", "(features,) or (channels, height, width)", shape))
        self.classes, self.beta, width = classes, beta, shape[0]
        self.linear: nn.Module = (
            nn.Linear(width, width, bias=False)
            if len(shape) == 1
            else nn.Conv2d(width, width, 3, padding=1, bias=False)
        )

    def forward(self, h: Tensor, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The loss; ``inputs`` is not used."""
        del inputs
        target = similarity(functional.one_hot(labels, self.classes).to(h.dtype))
        matching = functional.mse_loss(similarity(self.linear(h)), target)
        loss: Tensor = (1 - self.beta) * cross_entropy(logits, labels) + self.beta * matching
        return loss


def similarity(x: Tensor) -> Tensor:
    """S (B, B): cosines between the examples' features, each example centred by the mean of its own features.

    Of maps (B, C, H, W) with more than 3 channels and more than one row, the features are the C standard deviations
    over pixels, else all pixels: as in the authors' code. An example whose features are all equal has similarity 0.
    """
    if x.ndim == 4 and x.shape[1] > 3 and x.shape[2] > 1:
        x = x.flatten(2).std(dim=2)
    x = x.flatten(1)
    centred = x - x.mean(dim=1, keepdim=True)
    # vector_norm and not sqrt(sum): the gradient at 0 is 0, not nan
    unit: Tensor = centred / (1e-8 + torch.linalg.vector_norm(centred, dim=1, keepdim=True))
    return (unit @ unit.T).clamp(-1, 1)


class InfoPro(nn.Module):
    """Information propagation: h must predict the label and let the input be rebuilt.

        CE(logits, labels) + reconstruction * mean (D(h) - x)^2

    D is a small decoder: maps are enlarged to the image (nearest pixel), then two 3x3 convolutions with ``width``
    channels between; vectors go through two linear layers. Wang et al. 2021 (arXiv 2101.10832). Ours: the squared error
    on standardised inputs, where the authors take binary cross-entropy on pixels in 0 .. 1, and nearest instead of
    bilinear, whose gradient on CUDA has no fixed order. Their supervised contrastive variant is not here.
    Raises UserError for token sequences, for maps whose inputs are no images, and for values out of range.
    """

    reconstruction: float
    width: int

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        input_shape: Sequence[int],
        reconstruction: float = 1.0,
        width: int = 12,
    ) -> None:
        super().__init__()
        del classes
        if reconstruction < 0 or width < 1:
            raise UserError(
                f"local loss 'infopro': reconstruction = {reconstruction} must not be negative and "
                f"width = {width} must be at least 1"
            )
        if len(shape) not in (1, 3) or (len(shape) == 3 and len(input_shape) != 3):
            raise UserError(_refusal("infopro", "(features,), or maps of images", shape))
        self.reconstruction, self.width = reconstruction, width
        self.decoder: nn.Module
        if len(shape) == 3:
            self.decoder = nn.Sequential(
                nn.Upsample(tuple(input_shape[1:]), mode="nearest"),
                nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, input_shape[0], 3, padding=1),
            )
        else:
            self.decoder = nn.Sequential(
                nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, math.prod(input_shape))
            )

    def forward(self, h: Tensor, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The loss; ``inputs()`` is called once."""
        x = inputs()
        rebuilt = self.decoder(h).reshape(x.shape)
        return cross_entropy(logits, labels) + self.reconstruction * functional.mse_loss(rebuilt, x)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross-entropy": CrossEntropy,
    "predsim": PredSim,
    "infopro": InfoPro,
}
"""Name -> constructor(shape, classes, input_shape, further parameters by name)."""


def make_loss(
    name: str, shape: Sequence[int], classes: int, input_shape: Sequence[int], **parameters: Any
) -> nn.Module:
    """The local loss ``name`` at a boundary of ``shape``, in a network whose inputs have ``input_shape``.

    Raises UserError for an unknown name, for a shape that the loss cannot take, and for unknown or wrong parameters.
    """
    if name not in LOSSES:
        raise UserError(f"unknown local loss {shown(name)}; {nearest(name, LOSSES)}")
    given = {"shape": tuple(shape), "classes": classes, "input_shape": tuple(input_shape)}
    return (
        from_table(LOSSES[name], parameters, "loss", name, **given) if parameters else LOSSES[name](**given)
    )


def _refusal(name: str, needs: str, shape: Sequence[int]) -> str:
    return (
        f"local loss {shown(name)} needs {needs} and the boundary has shape {tuple(shape)}; use 'cross-entropy' or "
        "cut elsewhere"
    )
