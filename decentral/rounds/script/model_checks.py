"""Which models and parameters can be trained on ranks, and whether all ranks have the same."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy

from decentral.algorithms.traits import Method
from decentral.errors import UserError
from decentral.rounds.script.buffers import KNOWN, parts_of
from topologies.wording import shown


def check_model(given: list[nn.Parameter], trained: list[nn.Parameter], model: nn.Module | None) -> None:
    """Raise UserError for parameters that cannot lie in one row, and for a model that cannot be sent."""
    whole = [] if model is None else [*model.parameters(), *model.buffers()]
    if any(map(is_lazy, [*given, *whole])):
        raise UserError("the model has lazy parameters without a shape yet; run one batch through it first")
    for tensor in (*given, *whole):
        _check_tensor(tensor)
    if not trained:
        raise UserError("the optimizer has no parameter that requires a gradient; there is nothing to train")
    if model is not None and not {*map(id, given)} & {*map(id, whole)}:
        raise UserError(
            f"model, a {type(model).__name__}, has none of the optimizer's parameters; give the model that it trains"
        )
    kinds, devices = {str(p.dtype) for p in trained}, {str(p.device) for p in trained}
    if other := kinds - {"torch.float32", "torch.float64"}:
        remedy = "keep them in torch.float32 and compute in a shorter type with torch.autocast"
        if any(p.is_complex() for p in trained):
            remedy = "keep a real one, and compute with torch.view_as_complex of it"
        raise UserError(f"parameters are {min(other)}; {remedy}")
    for what, found in (("types", kinds), ("devices", devices)):
        if len(found) > 1:
            raise UserError(
                f"trained parameters have the {what} {', '.join(sorted(found))}; give all the same"
            )
    spans = sorted(
        (p.data_ptr(), p.data_ptr() + p.numel() * p.itemsize) for p in trained if p.is_contiguous()
    )
    if any(b[0] < a[1] for a, b in pairwise(spans)):
        raise UserError("two parameters share memory; to tie them, use one Parameter in both places")


def _check_tensor(tensor: Tensor) -> None:
    """Raise UserError if the numbers of a parameter or buffer cannot be read and replaced."""
    trained = isinstance(tensor, nn.Parameter)
    what = f"a {'parameter' if trained else 'buffer'} of shape {shown(tuple(tensor.shape))}"
    if tensor.is_meta:
        raise UserError(
            f"{what} is on the meta device, without numbers; call model.to_empty and fill it first"
        )
    if tensor.is_quantized or tensor.layout not in (KNOWN if not trained else {strided}):
        raise UserError(f"{what} has the layout {tensor.layout}, {tensor.dtype}; keep it dense")
    if trained and tensor.is_inference():
        raise UserError(f"{what} was made in torch.inference_mode, and cannot be trained; make it outside")


def model_text(groups: list[dict[str, Any]], model: nn.Module | None, method: Method[Any]) -> str:
    """What must be alike on all ranks, in words and as a hash."""
    parameters = [p for group in groups for p in group["params"]]
    shapes = [[(tuple(p.shape), str(p.dtype), p.requires_grad) for p in group["params"]] for group in groups]
    others = [] if model is None else [*model.parameters(), *model.buffers()]
    parts = [part for tensor in others for part in parts_of(tensor)]
    whole = repr((shapes, [(tuple(part.shape), str(part.dtype)) for part in parts]))
    code = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return (
        f"{sum(p.numel() for p in parameters)} parameters in {len(parameters)} tensors and {len(groups)} groups "
        f"(shapes {code}), {method}"
    )
