"""What a run's files hold, for people: the size of a graph that was read, and a data set that is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decentral.problems.data import partial


def file_notes(config: Any) -> Iterator[str]:
    """Of a run of any kind: of its ``[topology]`` and its ``[problem]``, where it has them."""
    topology, problem = getattr(config, "topology", None), getattr(config, "problem", None)
    if topology is not None and (said := topology.of_files()):
        yield said
    name = getattr(problem, "data", None)
    if isinstance(name, str) and (said := partial(name, getattr(problem, "data_root", None) or None)):
        yield said
