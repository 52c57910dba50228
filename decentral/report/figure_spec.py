"""What one figure is asked to show, and which fields tell its lines apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decentral.report.results import Experiment, grouped


@dataclass(frozen=True)
class FigureSpec:
    """One ``[[figure]]`` table.

    ``kind`` is a name in :data:`decentral.report.kinds.KINDS`. ``group`` None means all swept fields that are
    neither ``x`` nor ``panel``, and none where there is a goal; ``log`` None means automatic, "" no logarithmic axis.
    ``goal``: a value of the column ``reach``, for kinds that tell what it takes to get there.
    """

    y: str
    name: str = ""
    kind: str = "curves"
    x: str = "round"
    group: tuple[str, ...] | None = None
    panel: str = ""
    theory: str = ""
    log: str | None = None
    title: str = ""
    caption: str = ""
    graph: bool = False
    reach: str = ""
    goal: float | None = None

    @property
    def stem(self) -> str:
        """The name of the figure's file, without suffix."""
        return self.name or f"{self.y}-{self.x}".replace(".", "-")


def group_fields(spec: FigureSpec, experiment: Experiment) -> tuple[str, ...]:
    """The fields that tell one line of the figure from another."""
    if spec.group is not None:
        return spec.group
    if spec.reach:
        return ()
    placed = [f for f in (spec.x, spec.panel) if f in experiment.swept]
    return telling_fields(experiment, [f for f in experiment.swept if f not in placed], placed)


def telling_fields(
    experiment: Experiment, candidates: Sequence[str], given: Sequence[str] = ()
) -> tuple[str, ...]:
    """The candidates without those that follow from the others, such as a momentum set by the method.

    A name stays: a reader looks for the method, even where its parameters alone would tell it.
    """
    kept = list(candidates)
    for field in (f for f in reversed(candidates) if not f.endswith(".name")):
        fewer = [f for f in kept if f != field]
        if len(grouped(experiment.runs, [*fewer, *given])) == len(grouped(experiment.runs, [*kept, *given])):
            kept = fewer
    return tuple(kept)
