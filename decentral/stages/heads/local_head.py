"""A local head: a classifier of a stage's output, and the local loss that trains both."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from decentral.errors import UserError, nearest
from decentral.stages.heads import HEADS
from decentral.stages.heads.classifiers import Shape, refusal
from decentral.stages.heads.local_losses import CrossEntropy, Inputs
from decentral.tables import from_table
from topologies.wording import shown


class LocalHead(nn.Module):
    """A classifier of a stage's output h, and the local loss that trains both.

    ``local_loss(h, logits, labels, inputs)`` is a scalar; see :mod:`decentral.stages.heads.local_losses`.
    """

    def __init__(self, classifier: nn.Module, local_loss: nn.Module) -> None:
        super().__init__()
        self.classifier, self.local_loss = classifier, local_loss

    def forward(self, h: Tensor) -> Tensor:
        """Logits (B, classes), or (B, T, classes) of tokens, of the stage's output ``h`` (B, *shape)."""
        logits: Tensor = self.classifier(h)
        return logits

    def loss(self, h: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """Mean local loss of the batch; ``inputs()`` gives the batch's original inputs if the loss wants them."""
        loss: Tensor = self.local_loss(h, self(h), labels, inputs)
        return loss


def make_head(
    name: str, shape: Shape, classes: int, loss: nn.Module | None = None, **parameters: Any
) -> LocalHead:
    """The local head ``name`` at a boundary of ``shape``, trained by ``loss``; if not given, by cross-entropy.

    ``loss``: from :func:`decentral.stages.heads.local_losses.make_loss`. ``parameters``: those of the constructor in
    HEADS.
    Raises UserError for an unknown name, for a shape that the head cannot take, and for unknown or wrong parameters.
    """
    if name not in HEADS:
        raise UserError(f"unknown local head {shown(name)}; {nearest(name, HEADS)}")
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        needs = "(features,), (tokens, features) or (channels, height, width)"
        raise UserError(refusal(name, needs, shape, "another cut"))
    given = {"shape": tuple(shape), "classes": classes}
    classifier = (
        from_table(HEADS[name], parameters, "head", name, **given) if parameters else HEADS[name](**given)
    )
    return LocalHead(classifier, CrossEntropy(shape, classes, ()) if loss is None else loss)
