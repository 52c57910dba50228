"""Things by where they are: "package.module:name" in a table of names is a line, and needs no import beside it.

One such place is found by ``pkgutil.resolve_name``; its module is imported only then.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any


def all_loaded(places: Mapping[str, str]) -> dict[str, Any]:
    """Name -> what is in its place."""
    return {name: pkgutil.resolve_name(place) for name, place in places.items()}


def later(place: str) -> Callable[..., Any]:
    """What is in that place, to be called; its module is imported when it is."""
    return lambda *args, **kwargs: pkgutil.resolve_name(place)(*args, **kwargs)


def door(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are in these places, loaded when they are first used."""

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(places[name])

    return get, lambda: sorted(places)
