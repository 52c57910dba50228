"""Paths in an experiment file, from the file's own folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import topologies

_PATHS = (
    "topology.path", "topology.paths", "topology.weights", "problem.data_root", "network.cluster",
    "network.compute.path",
)  # fmt: skip


def absolute_paths(value: Any, base: Path, key: str = "") -> Any:
    """The table with its paths made absolute, where they lead somewhere from ``base``, the file's own folder."""
    if isinstance(value, Mapping):
        prefix = "" if key in ("", "sweep", "case") else f"{key}."
        return {k: absolute_paths(v, base, prefix + k) for k, v in value.items()}
    if isinstance(value, list):
        return [absolute_paths(v, base, key) for v in value]
    if (
        key not in _PATHS
        or not isinstance(value, str)
        or (key == "topology.weights" and value in topologies.WEIGHTS)
    ):
        return value
    return str((base / value).resolve()) if value and os.path.exists(base / value) else value
