"""A method's state: a NamedTuple of tensors (h, d) and of numbers that all workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state (a NamedTuple or tuple), in order."""
    return [s for s in state if _is_tensor(s)]


def map_state(f: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The state with f applied to its tensors, and its other fields as they are."""
    return _like(state, [f(s) if _is_tensor(s) else s for s in state])


def keep_tensors(state: Any, rest: Any) -> Any:
    """The tensors of ``state`` with the other fields of ``rest``."""
    return _like(state, [s if _is_tensor(s) else r for s, r in zip(state, rest, strict=True)])


def with_tensors(state: Any, tensors: Iterable[Tensor]) -> Any:
    """The state with its tensors replaced, in order."""
    fresh = iter(tensors)
    return map_state(lambda _: next(fresh), state)


def _is_tensor(value: Any) -> bool:
    return not isinstance(value, int | float)


def _like(state: Any, fields: list[Any]) -> Any:
    return type(state)(*fields) if hasattr(state, "_fields") else tuple(fields)
