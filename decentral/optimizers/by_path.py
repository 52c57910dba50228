"""Anybody's torch optimizer as an update rule: ``[optimizer] name = "torch.optim:Adafactor"``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from decentral.optimizers.constructors import hint_of, is_written, kind_of, parameters_of
from decentral.optimizers.path_rule import OPTIONS, ByPath
from decentral.optimizers.path_trial import refuse_unfit

_GIVEN = ("self", "params", "lr", "weight_decay")  # by the run, not by the section


def rule_of(path: str) -> Callable[..., ByPath]:
    """What makes the rule of the optimizer at ``path``, by its constructor's arguments: its signature is theirs.

        rule_of("torch.optim:Adafactor")(eps=(1e-30, 1e-3)).build(model.parameters(), lr=0.01, weight_decay=0.0)

    ``lr`` and ``weight_decay`` are the run's. Raises UserError, as the rule does that it makes.
    """
    kind = kind_of(path)
    own = {key: hint for key, hint in OPTIONS.items() if key not in parameters_of(kind)}

    def make(**arguments: Any) -> ByPath:
        keys = {key: value for key, value in arguments.items() if value is not None}
        options = {key: keys.pop(key) for key in own if key in keys}
        rule = ByPath(path, tuple((key, _frozen(value)) for key, value in keys.items()), **options)
        refuse_unfit(rule)
        return rule

    empty = inspect.Parameter.empty
    fields = []
    for name, parameter in parameters_of(kind).items():
        if name in _GIVEN:
            continue
        # what TOML cannot hold stays the constructor's own
        default = parameter.default if parameter.default is empty or is_written(parameter.default) else None
        hint = hint_of(kind, name, parameter.default)
        fields.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        )
    for name, hint in own.items():
        fields.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
    make.__signature__ = inspect.Signature(fields)  # type: ignore[attr-defined]
    make.__annotations__ = {field.name: field.annotation for field in fields}
    make.__doc__ = inspect.getdoc(kind)
    return make


def _frozen(value: Any) -> Any:
    """TOML's arrays as the tuples that constructors of optimizers take."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
