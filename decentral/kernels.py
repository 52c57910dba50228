"""Loops that numba compiles, where it is installed (``decentral[fast]``) and there is work enough to repay it.

A kernel is a second text of what numpy or torch do in several passes over memory, with the same bits: so a run goes
over to kernels when it has done as much without them as starting them costs. Compiled code is kept beside the source,
or in the user's cache where that cannot be written; where neither can, each process compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_REPAID = 1 << 27  # entries that take about as long without kernels as to import numba and to load kernels
_done = 0


def repaid(entries: int) -> bool:
    """Whether kernels shall do the next ``entries``, which are counted: from 2^27 on in all, if there are kernels."""
    global _done
    if _done < _REPAID:
        _done += entries
        return False
    return _numba() is not None


def kernel(function: Callable[P, T]) -> Callable[P, T]:
    """The function, compiled when it is first called: numpy arrays in loops, without Python's lock, in IEEE's bits.

    To be called where :func:`repaid` alone. It must neither raise anything nor call another kernel.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

    @cache
    def compiled(kept: bool) -> Callable[P, T]:
        made: Callable[P, T] = _numba().njit(cache=kept, **settings)(function)
        return made

    kept = True

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal kept
        try:
            return compiled(kept)(*args, **kwargs)
        except (
            Exception
        ):  # before it ran: no place to keep it, a full disk, a file of another's that cannot be read
            if not kept:
                raise
            kept = False
            return compiled(kept)(*args, **kwargs)

    return call


def fma(a: T, b: T, c: T) -> T:
    """a b + c, rounded once; in kernels alone. So does torch's ``addcmul`` where the processor can."""
    raise NotImplementedError


@cache
def _numba() -> Any:
    """The module; None where it is not installed, refuses the numpy that is there, or is told not to compile."""
    try:
        numba = import_module("numba")
        extending = import_module("numba.extending")
    except Exception:  # of several types, by what does not fit
        return None
    if numba.config.DISABLE_JIT:
        return None

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def rounded_once(_: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, a, a), lambda context, builder, signature, values: builder.fma(*values)

    extending.overload(fma)(lambda a, b, c: lambda a, b, c: rounded_once(a, b, c))
    return numba
