"""A module that is imported at its first use.

A rank that is handed its mixing matrix needs no networkx, and with more ranks than cores each import is paid in full.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Deferred:
    """Stands for the module ``name``. Not in ``sys.modules``: whoever looks at all modules there would load it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
