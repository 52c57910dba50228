"""Whether ``init`` and ``step`` give what the round loop, checkpoints and ranks take: told by three small rounds.

A method may be a user's own, and what it gets wrong is mostly silent: a state in memory that the loop goes on using, a
shape that is broadcast, an entry that a checkpoint cannot keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import topologies
from decentral.algorithms.traits import Method
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.rounds.trials.columns import PATH
from decentral.rounds.trials.messages import TRIAL_LR
from topologies.wording import shown

_ROUNDS, _COLUMNS = 3, 6
_STATE = "a tuple or NamedTuple of tensors (h, d), of tensors (h, 1) and of int or float"


def refuse_misfit(method: Method[Any], dtype: torch.dtype = torch.float64) -> None:
    """Raise UserError for the first thing that ``init`` or ``step`` gives and should not, with models of this dtype.

    x must come back (h, d) in its own dtype, and the state as ``init`` gave it: the same fields, shapes and dtypes,
    tensors with a row for each hosted worker, or for each edge that enters, none in the memory of x or of g.
    """
    name = type(method).__name__
    for needed in ("init", "step"):
        if not callable(getattr(method, needed, None)):
            raise UserError(
                f"{name} has no {needed}; a method has init(x, comm) and step(x, state, g, comm, lr)"
            )
    # a method may draw random numbers: those of the run are not to be used up here
    with torch.random.fork_rng(devices=[]):
        _try(method, name, dtype)


def _try(method: Method[Any], name: str, dtype: torch.dtype) -> None:
    comm = LocalComm(topologies.constant(PATH), check=False)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(comm.n, _COLUMNS, generator=draw, dtype=dtype)
    given = x.clone()
    state = _called(f"{name}.init", method.init, given, comm)
    if not torch.equal(given, x):
        raise UserError(f"{name}.init changes the models x; it may only look at them: work on x.clone()")
    _check_state(f"{name}.init", state, comm, x, [given])
    form = _form(state)
    for t in range(_ROUNDS):
        step, g = f"{name}.step", torch.randn(x.shape, generator=draw, dtype=dtype)
        answer = _called(step, method.step, given, state, g, comm.at(t), TRIAL_LR)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise UserError(f"{step} gives {_kind(answer)}; it must give two things: return x, state")
        after, state = answer
        _check_models(step, after, x)
        _check_state(step, state, comm, x, [given, g, after])
        if _form(state) != form:
            raise UserError(
                f"{step} gives a state of {_form(state)} where it was {form}; a state keeps its fields, shapes and "
                "dtypes, so that a checkpoint can be put back: let init give zeros of the final form"
            )
        given = after.clone()


def _called(what: str, f: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return f(*arguments)
    except UserError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{what} fails with {said[:120]!r} on 4 workers with {_COLUMNS} parameters; it must do with any number"
        ) from error


def _check_models(step: str, after: Any, x: Tensor) -> None:
    if not isinstance(after, Tensor):
        raise UserError(
            f"{step} gives {_kind(after)} for the models; they must be a torch tensor: return x, state"
        )
    if after.shape != x.shape or after.dtype != x.dtype:
        raise UserError(
            f"{step} gives models of {_kind(after)} for {_kind(x)}; shape and dtype must stay: make further tensors by "
            "x.new_zeros(...) or torch.zeros_like(x)"
        )


def _check_state(what: str, state: Any, comm: LocalComm, x: Tensor, others: list[Tensor]) -> None:
    """``others``: tensors that the loop goes on using."""
    if not isinstance(state, tuple):
        raise UserError(f"{what} gives {_kind(state)} for the state; it must be {_STATE}; () is none")
    for field in _leaves(state):
        if isinstance(field, int | float):
            continue
        if not isinstance(field, Tensor):
            raise UserError(f"{what} puts {_kind(field)} into the state; it must be {_STATE}")
        if field.dim() != 2 or len(field) not in (comm.h, len(comm.edges_in)):
            raise UserError(
                f"{what} puts {_kind(field)} into the state for x of {tuple(x.shape)}; a tensor there has two "
                "axes, and a row for each row of x: use x.new_zeros(x.shape), or (len(x), 1) for a number a worker"
            )
        if field.dtype.is_floating_point and torch.finfo(field.dtype).bits < torch.finfo(x.dtype).bits:
            raise UserError(
                f"{what} puts {_kind(field)} into the state where x is {x.dtype}; make it by x.new_zeros(x.shape)"
            )
        if field.numel() and any(_memory(field) == _memory(other) for other in others):
            raise UserError(
                f"{what} keeps a state in the memory of x or g, which the round loop goes on using; keep x.clone()"
            )


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _leaves(state: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for field in state:
        found += _leaves(field) if isinstance(field, tuple) else [field]
    return found


def _form(state: tuple[Any, ...]) -> str:
    fields = [
        _form(f) if isinstance(f, tuple) else _kind(f) if isinstance(f, Tensor) else "number" for f in state
    ]
    return f"{type(state).__name__}({', '.join(fields)})"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__}"
    return shown(value)
