"""Anybody's torch optimizer as an update rule: ``[optimizer] name = "torch.optim:Adafactor"``."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from decentral.errors import UserError
from decentral.optimizers.rule import Rule
from decentral.tables import brought, said
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor, device, dtype
    from torch.optim import Optimizer

    from decentral.comm.layout import Layout
    from decentral.optimizers.turns import Turns

_GIVEN = ("self", "params", "lr", "weight_decay")  # by the run, not by the section
_EXTRAS = {"pytorch_optimizer": "'decentral[optimizers]'"}
_OPTIONS = {"rescale": Literal["layer", "filter"] | None, "rescale_every": int | None}  # of any rule
_CONSTRUCTED_LR = 1e-3  # a step's own lr takes its place


class Remembered(NamedTuple):
    """``tensors`` (h, K) and ``numbers`` (h, N), uint8: what each worker's optimizer keeps, as its bytes."""

    tensors: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class ByPath(Rule):
    """The torch optimizer at ``path``, "module:Class": each worker has one of its own, on its own parameters.

        x, state <- Class(parameters, lr, weight_decay, **arguments).step()           direction: (x - x_after) / lr

    ``arguments``: (name, value) of the constructor's, by name. ``step_`` has the bits of that optimizer in a plain
    loop, with lr put into its groups as torch's schedulers do; ``direction`` is rounded by eps |x| / lr, and is 0 where
    lr is. State: the bytes of what the optimizer keeps in ``state`` and writes in its groups. What it keeps elsewhere
    is found by a trial in which two workers take turns: UserError. Cost: a Python loop over workers.
    """

    layers: ClassVar[bool] = True

    path: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """See :class:`Rule`."""
        return self.path

    @property
    def brought(self) -> type[Optimizer]:
        """The class at the path."""
        return kind_of(self.path)

    def resolved(self) -> dict[str, Any]:
        """Its keys in TOML, but for its name."""
        options = {key: getattr(self, key) for key in _OPTIONS if getattr(self, key) is not None}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in self.arguments} | options

    def decayed(self, weight_decay: float) -> Self:
        """See :class:`Rule`. Raises UserError where the constructor takes no weight decay."""
        if weight_decay and "weight_decay" not in _parameters(kind_of(self.path)):
            raise UserError(
                f"optimizer.name = {shown(self.path)} takes no weight decay; set train.weight_decay = 0, not "
                f"{weight_decay}"
            )
        return super().decayed(weight_decay)

    def build(self, parameters: Iterable[Any], lr: float, weight_decay: float) -> Optimizer:
        """That optimizer itself."""
        self._refuse_rescaling()
        rule, kind = self.decayed(weight_decay), kind_of(self.path)
        arguments = {"lr": lr, **dict(self.arguments)}
        if "weight_decay" in _parameters(kind):
            arguments["weight_decay"] = rule.weight_decay
        with self._telling("its constructor"):
            return kind(parameters, **arguments)

    def init(self, x: Tensor, layout: Layout) -> Remembered:
        """What a constructor leaves."""
        with self._telling("a trial of it"):
            return Remembered(*_turns(self, layout, x.dtype, x.device).begun(x))

    def direction(
        self, x: Tensor, state: Remembered, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Remembered]:
        """See :class:`Rule`."""
        after = x.clone()
        state = self.step_(after, state, g, layout, lr)
        return (x.sub(after).div_(lr) if lr else after.zero_()), state

    def step_(self, x: Tensor, state: Remembered, g: Tensor, layout: Layout, lr: float) -> Remembered:
        """See :class:`Rule`."""
        with self._telling("a step"):
            _turns(self, layout, x.dtype, x.device).step(x, state, g, lr)
        return state

    def refuse(self, layout: Callable[[], Layout], numbers: dtype) -> None:
        """See :class:`Rule`."""
        import torch

        tried = layout()
        with self._telling(f"a trial on {_shapes(tried)}"):
            _turns(self, tried, numbers, torch.device("cpu"))

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """An error inside is a UserError that names the path."""
        try:
            yield
        except UserError as error:
            text = str(error)
            if text.startswith("optimizer."):
                raise
            raise UserError(f"optimizer.name = {shown(self.path)}: {text}") from error
        except MemoryError:
            raise
        except Exception as error:  # whatever an optimizer of somebody else's raises
            if type(error).__name__ == "OutOfMemoryError":
                raise
            raise UserError(f"optimizer.name = {shown(self.path)}: {what} raised {said(error)}") from error


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


def rule_of(path: str) -> Callable[..., ByPath]:
    """What makes the rule of the optimizer at ``path``, by its constructor's arguments: its signature is theirs.

        rule_of("torch.optim:Adafactor")(eps=(1e-30, 1e-3)).build(model.parameters(), lr=0.01, weight_decay=0.0)

    ``lr`` and ``weight_decay`` are the run's. Raises UserError, as the rule does that it makes.
    """
    kind = kind_of(path)
    own = {key: hint for key, hint in _OPTIONS.items() if key not in _parameters(kind)}

    def make(**arguments: Any) -> ByPath:
        keys = {key: value for key, value in arguments.items() if value is not None}
        options = {key: keys.pop(key) for key in own if key in keys}
        rule = ByPath(path, tuple((key, _frozen(value)) for key, value in keys.items()), **options)
        refuse_unfit(rule)
        return rule

    empty = inspect.Parameter.empty
    fields = []
    for name, parameter in _parameters(kind).items():
        if name in _GIVEN:
            continue
        # what TOML cannot hold stays the constructor's own
        default = parameter.default if parameter.default is empty or _is_written(parameter.default) else None
        hint = _hint(kind, name, parameter.default)
        fields.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        )
    for name, hint in own.items():
        fields.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
    make.__signature__ = inspect.Signature(fields)  # type: ignore[attr-defined]
    make.__annotations__ = {field.name: field.annotation for field in fields}
    make.__doc__ = inspect.getdoc(kind)
    return make


@functools.lru_cache(maxsize=32)
def _turns(rule: ByPath, layout: Layout, numbers: dtype, where: device) -> Turns:
    import torch

    from decentral.optimizers.turns import Turns

    x = torch.randn(layout.d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rule = rule.without_rescaling()
    return Turns(lambda p: rule.build(p, _CONSTRUCTED_LR, rule.weight_decay), layout, x.to(where, numbers))


@functools.lru_cache(maxsize=32)
def refuse_unfit(rule: ByPath) -> None:
    """Raise UserError where two workers that take turns at an optimizer do not step as each does with one of its own.

    On a matrix and a vector; on one of the two, for an optimizer that takes no others.
    """
    from decentral.comm.layout import Layout, Span

    rule = rule.without_rescaling()
    matrix, vector = Span("matrix", 0, 12, (4, 3)), Span("vector", 12, 15, (3,))
    first: UserError | None = None
    for spans in ((matrix, vector), (matrix,), (vector._replace(start=0, stop=3),)):
        layout = Layout(spans)
        try:
            with rule._telling(f"a trial on {_shapes(layout)}"):
                _refuse_hidden(rule, layout)
            return
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _refuse_hidden(rule: ByPath, layout: Layout) -> None:
    import torch
    from torch import nn

    from decentral.optimizers.turns import RATES, STEPS, apart

    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2, layout.d, generator=draw)
    apart_x, numbers = x.clone(), torch.float32
    own = [[nn.Parameter(view) for view in layout.views(row).values()] for row in apart_x]
    with apart():
        before = torch.get_rng_state()
        optimizers = [rule.build(parameters, RATES[0], 0.0) for parameters in own]
        turns = _turns(rule, layout, numbers, x.device)
        rows = turns.begun(x)
        for t in range(STEPS):
            g, lr = torch.randn(x.shape, generator=draw), RATES[t % len(RATES)]
            turns.step(x, rows, g, lr)
            for optimizer, parameters, row in zip(optimizers, own, g, strict=True):
                optimizer.param_groups[0]["lr"] = lr
                for p, grad in zip(parameters, layout.views(row.clone()).values(), strict=True):
                    p.grad = grad
                optimizer.step()
        if not torch.equal(before, torch.get_rng_state()):
            raise UserError(
                "it draws from torch's global generator, and workers' draws would depend on the ranks"
            )
    found = torch.stack([torch.cat([p.detach().reshape(-1) for p in parameters]) for parameters in own])
    if not torch.equal(found.nan_to_num(), x.nan_to_num()):
        raise UserError(
            "two workers that take turns at it do not step as each does with one of its own: it keeps something "
            "outside of state and param_groups, or the lr that it was constructed with"
        )


def _shapes(layout: Layout) -> str:
    shapes = list(dict.fromkeys(str(span.shape) for span in layout.spans))
    return f"parameters of shape {', '.join(shapes[:3])}{', ...' if shapes[3:] else ''}"


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The named ones of the constructor."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in inspect.signature(kind).parameters.items() if p.kind not in variable}


def _frozen(value: Any) -> Any:
    """TOML's arrays as the tuples that constructors of optimizers take."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _is_written(value: Any) -> bool:
    """Whether TOML can hold it."""
    if isinstance(value, list | tuple):
        return all(map(_is_written, value))
    return isinstance(value, bool | int | float | str)


def _hint(kind: type, name: str, default: Any) -> Any:
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
