"""What a torch optimizer of anybody's is, and what its constructor takes: of what TOML can hold."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Literal

from decentral.errors import UserError
from decentral.tables import brought
from topologies.wording import shown

if TYPE_CHECKING:
    from torch.optim import Optimizer

_EXTRAS = {"pytorch_optimizer": "'decentral[optimizers]'"}


def kind_of(path: str) -> type[Optimizer]:
    """The class at ``path``. Raises UserError for what cannot be imported, or is no optimizer that rounds can ask."""
    from torch.optim import Optimizer

    what, module = "optimizer.name =", path.partition(":")[0].partition(".")[0]
    remedy = f"; pip install {_EXTRAS.get(module, 'the package that has it')}, or put the file there"
    kind = brought(path, what, "module:Class", "torch.optim:Adafactor", remedy)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise UserError(f"{what} {shown(path)} is no subclass of torch.optim.Optimizer; name one")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"{what} {shown(path)} needs a closure, which evaluates the loss several times a step, and a run has one "
            "gradient a step; use an optimizer that does without"
        )
    return kind


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """The named ones of the constructor."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in inspect.signature(kind).parameters.items() if p.kind not in variable}


def is_written(value: Any) -> bool:
    """Whether TOML can hold it."""
    if isinstance(value, list | tuple):
        return all(map(is_written, value))
    return isinstance(value, bool | int | float | str)


def hint_of(kind: type, name: str, default: Any) -> Any:
    """The type that a key is checked against: what TOML can hold of the annotation, or of the default's type."""
    try:
        hint = typing.get_type_hints(kind.__init__).get(name)  # type: ignore[misc]
    except (NameError, TypeError):  # an annotation that is only there for type checkers
        hint = None
    if hint is None and default not in (None, inspect.Parameter.empty):
        hint = float if type(default) is int else list[Any] if isinstance(default, tuple) else type(default)
    return _written(hint)


def _written(hint: Any) -> Any:
    if hint in (bool, int, float, str, type(None)):
        return hint
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return hint
    if origin in (tuple, list):
        inner = [_written(part) for part in parts if part is not Ellipsis]
        of: Any = functools.reduce(lambda a, b: a | b, inner) if inner and Any not in inner else Any
        return list[of]
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in map(_written, parts) if part is not Any]
        return functools.reduce(lambda a, b: a | b, inner) if inner else Any
    return Any
