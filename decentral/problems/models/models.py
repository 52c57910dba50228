"""Models: small plain `torch.nn` networks, and the door for the user's own.

All take the shape of one example and the number of classes, and map a batch (B, *shape) to logits
(B, classes). No activation works in place and nothing branches on data, so that they run under
`torch.func.vmap`; dropout is absent for the same reason.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from decentral.errors import UserError, nearest
from decentral.problems.data.dataset import Dataset
from decentral.problems.models.convolutional import cnn, resnet20
from topologies.streams import stream_key

__all__ = ["MODELS", "cnn", "from_factory", "initialise", "logistic", "mlp", "resnet20"]

Shape = Sequence[int]
"""Of one example: (features,) or (channels, height, width)."""


def logistic(features: int | Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression, convex: one linear layer on the flattened input.

    ``features``: their number, or the shape of an example. (features + 1) classes parameters.
    """
    return mlp(features, classes, hidden=())


def mlp(features: int | Shape, classes: int, hidden: Sequence[int] = (256,)) -> nn.Module:
    """Fully connected network with ReLU between its layers, ``hidden`` units in each hidden layer.

    Raises `UserError` for a width below one.
    """
    widths = [features if isinstance(features, int) else math.prod(features), *hidden]
    if min(widths) < 1:
        raise UserError(f"mlp: every layer needs at least 1 unit, found widths {widths}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
}
"""Every factory may be called as factory(shape, classes) with the shape of one example."""


def initialise(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The module ``factory()`` builds, its random numbers from the stream (seed, "init").

    Built on the CPU, so the numbers are the same wherever it trains. torch's global generator is as it
    was afterwards; draws from numpy or `random` inside the factory are not covered.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_key(seed, "init") % 2**63)
        return factory()


def from_factory(path: str, dataset: Dataset) -> nn.Module:
    """The user's own model: ``"module:factory"`` is imported and called as ``factory(shape, classes)``.

    ``shape`` is the tuple (features,) or (channels, height, width) of one example; the factory returns
    a `torch.nn.Module` mapping a float32 batch (B, *shape) to logits (B, classes). The module is
    looked for in the current folder first. One batch is tried, in evaluation mode and without
    gradient. Raises `UserError` naming the step that went wrong: import, name, call, type or output.
    """
    factory = _import_factory(path)
    call = f"model {path!r}: factory({dataset.shape}, {dataset.classes})"
    try:
        model = factory(dataset.shape, dataset.classes)
    except Exception as error:
        raise UserError(f"{call} raised {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{call} returned {type(model).__name__}; it must return a torch.nn.Module")
    _try_batch(model, dataset, path)
    return model


def _import_factory(path: str) -> Callable[[tuple[int, ...], int], object]:
    name, colon, attribute = path.partition(":")
    if not (name and colon and attribute):
        raise UserError(f"model {path!r} must be written 'module:factory', or be one of {', '.join(MODELS)}")
    if "" not in sys.path and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"model {path!r}: importing {name} from {Path.cwd()} raised {_said(error)}"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        known = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"model {path!r}: {module.__file__} has no {attribute!r}; {nearest(attribute, known)}"
        )
    if not callable(factory):
        raise UserError(f"model {path!r}: {attribute} is a {type(factory).__name__}, not a function")
    return cast(Callable[[tuple[int, ...], int], object], factory)


def _try_batch(model: nn.Module, dataset: Dataset, path: str) -> None:
    """Raise `UserError` unless ``model`` maps a few training examples to floating (B, classes)."""
    batch, was_training = dataset.train_x[:3], model.training
    tried = f"model {path!r}: a batch of shape {tuple(batch.shape)}"
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = model(batch)
    except Exception as error:
        raise UserError(f"{tried} raised {_said(error)}") from error
    finally:
        model.train(was_training)
    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if found != (len(batch), dataset.classes):
        raise UserError(f"{tried} gave {found}; it must give ({len(batch)}, {dataset.classes})")


def _said(error: Exception) -> str:
    """Type and first line of what ``error`` says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
