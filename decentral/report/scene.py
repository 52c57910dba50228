"""A kind of figure: how it is read, and how it draws one panel of a scene that all panels share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from decentral.report.figure_spec import FigureSpec
from decentral.report.line_styles import Style
from decentral.report.results import Array, Run, Value


@dataclass(frozen=True)
class Scales:
    """Which axes are logarithmic, and the units (in the data's own) that the axes count in."""

    log_x: bool
    log_y: bool
    size_x: float
    size_y: float


@dataclass(frozen=True)
class Scene:
    """What every panel of one figure shares: lines, styles, scales, and the runs of all panels."""

    spec: FigureSpec
    names: tuple[str, ...]
    styles: dict[tuple[Value, ...], Style]
    scales: Scales
    runs: tuple[Run, ...]


class Marks(NamedTuple):
    """The words for what stands for a mean, for its spread and for the theory."""

    mean: str
    spread: str
    theory: str


class Kind(Protocol):
    """A kind of figure; ``final``: of final values against a swept field or each other, else over the rounds.

    It may have ``needs``, keys of a table that must be there, of "reach" and "goal"; and a ``note`` on how it is read.
    """

    final: bool
    marks: Marks

    def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
        """Draw the runs of one panel into its axes."""

    def sample(self, look: dict[str, Any], spec: FigureSpec) -> dict[str, Any]:
        """How a group of this look is shown in the legend."""


def shown(values: Array, log: bool) -> Array:
    """Values without those a logarithmic axis cannot place."""
    keep = np.isfinite(values) & ((values > 0) | (not log))
    return np.where(keep, values, np.nan)
