"""A method's state: a NamedTuple of tensors (h, d), of numbers that all workers share, and of further such states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state (a NamedTuple or tuple), in order."""
    found: list[Tensor] = []
    for field in state:
        if isinstance(field, tuple):
            found += tensors_of(field)
        elif _is_tensor(field):
            found.append(field)
    return found


def numbers_of(state: Any) -> list[float]:
    """Its other fields, in order."""
    found: list[float] = []
    for field in state:
        if isinstance(field, tuple):
            found += numbers_of(field)
        elif not _is_tensor(field):
            found.append(field)
    return found


def map_state(f: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The state with f applied to its tensors, and its other fields as they are."""

    def mapped(field: Any) -> Any:
        if isinstance(field, tuple):
            return map_state(f, field)
        return f(field) if _is_tensor(field) else field

    return _like(state, [mapped(field) for field in state])


def with_tensors(state: Any, tensors: Iterable[Tensor]) -> Any:
    """The state with its tensors replaced, in order."""
    fresh = iter(tensors)
    return map_state(lambda _: next(fresh), state)


def with_numbers(state: Any, numbers: Iterable[float]) -> Any:
    """The state with its other fields replaced, in order."""
    fresh = iter(numbers)

    def replaced(field: Any) -> Any:
        if isinstance(field, tuple):
            return _like(field, [replaced(part) for part in field])
        return field if _is_tensor(field) else next(fresh)

    return replaced(state)


def _is_tensor(value: Any) -> bool:
    return not isinstance(value, int | float)


def _like(state: Any, fields: list[Any]) -> Any:
    return type(state)(*fields) if hasattr(state, "_fields") else tuple(fields)
