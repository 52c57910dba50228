"""The door for the user's own model: ``"module:factory"``, imported and tried before anything runs."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from decentral.errors import UserError
from decentral.problems.data.dataset import Dataset
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.tables import brought, said
from topologies.wording import shown


def from_factory(path: str, dataset: Dataset) -> nn.Module:
    """The user's own model: ``"module:factory"`` is imported and called as ``factory(shape, classes)``.

    ``shape`` is the tuple (features,) or (channels, height, width) of one example; the factory returns
    a `torch.nn.Module` mapping a batch (B, *shape) to logits (B, classes), which is converted to train.dtype.
    The module is looked for in the current folder first. One batch is tried, on a copy, in evaluation mode
    and without gradient (how it trains: :mod:`decentral.problems.trial`). Frozen parameters stay as they are:
    they are neither trained nor sent. Raises `UserError` naming the step that went wrong: import, name, call,
    type or output.
    """
    factory = _import_factory(path)
    call = f"model {shown(path)}: factory({dataset.shape}, {dataset.classes})"
    try:
        model = factory(dataset.shape, dataset.classes)
    except Exception as error:
        raise UserError(f"{call} raised {said(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{call} returned {type(model).__name__}; it must return a torch.nn.Module")
    _try_batch(model, dataset, path)
    return model


def source_of(path: str) -> bytes:
    """The text of the module of ``"module:factory"``, which has been imported; empty if it is in no file."""
    file = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


def _import_factory(path: str) -> Callable[[tuple[int, ...], int], object]:
    factory = brought(path, "model", "module:factory", "my_models:network")
    if not callable(factory):
        name = path.partition(":")[2]
        raise UserError(f"model {shown(path)}: {name} is a {type(factory).__name__}, not a function")
    return cast(Callable[[tuple[int, ...], int], object], factory)


def _try_batch(model: nn.Module, dataset: Dataset, path: str) -> None:
    """Raise `UserError` unless ``model`` maps a few training examples to floating (B, classes)."""
    batch = dataset.train_x[:3].clone()  # it may be written to
    tried = f"model {shown(path)}: a batch of shape {tuple(batch.shape)}"
    if batch.is_floating_point():  # a model in double precision is converted later
        batch = batch.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), batch.dtype))
    one = _copy(model)
    modes = [(part, part.training) for part in one.modules()]
    one.eval()
    try:
        with torch.no_grad(), Generators(GENERATORS).kept():
            out = one(batch)
    except Exception as error:
        raise UserError(f"{tried} raised {said(error)}") from error
    finally:
        for part, mode in modes:
            part.training = mode
    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
    if found != (len(batch), dataset.classes):
        raise UserError(f"{tried} gave {found}; it must give ({len(batch)}, {dataset.classes})")


def _copy(model: nn.Module) -> nn.Module:
    """A model to try in place of ``model``, whose buffers stay as they are; lazy parameters get their shapes."""
    if any(map(is_lazy, model.parameters())):
        return model
    try:
        return copy.deepcopy(model)
    except Exception:  # it holds a tensor that is computed from parameters, as nn.utils.weight_norm does
        return model
