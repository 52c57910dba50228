"""Things by where they are: "package.module:name" in a table of names is a line, and needs no import beside it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def loaded(place: str) -> Any:
    """What "package.module:name" names; its module is imported only now."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def all_loaded(places: Mapping[str, str]) -> dict[str, Any]:
    """Name -> what is in its place."""
    return {name: loaded(place) for name, place in places.items()}


def later(place: str) -> Callable[..., Any]:
    """What is in that place, to be called; its module is imported when it is."""
    return lambda *args, **kwargs: loaded(place)(*args, **kwargs)
