"""The table of methods by name, which the package fills: a method that stands on another looks for it here."""

from collections.abc import Callable
from typing import Any

from decentral.algorithms.traits import Method

ALGORITHMS: dict[str, Callable[..., Method[Any]]] = {}
