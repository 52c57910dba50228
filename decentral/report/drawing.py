"""Figures and tables of what runs left in files of their own: each is a file here, and an entry of DRAWINGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from decentral.report.results import Experiment
from topologies.places import later


@dataclass(frozen=True)
class Drawing:
    """A figure, or a table as rows of column -> cell, wherever an experiment's runs left what it is drawn from.

    ``of(experiment)``: None, or no rows, where there is nothing. ``heading``, ``note``: what it shows, how to read it.
    """

    of: Callable[[Experiment], Figure | list[dict[str, str]] | None]
    heading: str
    note: str = ""


DRAWINGS = {
    "timeline": Drawing(
        later("decentral.report.timeline:timeline"),
        "What each stage, worker or rank did when",
        "Some steps or rounds from the middle of each run of the first seed; each run's trace.json opens in "
        "chrome://tracing or Perfetto. White: nothing of the training, or records.",
    ),
    "staleness": Drawing(
        later("decentral.report.staleness:staleness"),
        "How late messages were",
        "All messages of each run of the first seed: a worker's own steps from asking for an average until the answer "
        "was added; of push-sum from sending a share until it was added. The numbers are in each run's staleness.csv.",
    ),
    "trust_ratios": Drawing(
        later("decentral.report.trust_ratios:trust_ratios"),
        "What the trust ratio of each layer was",
        "The factor on the learning rate, of layers that the rule acts on, in runs of the first seed. Lines: mean of "
        "the workers; bands: from the least to the largest of them, where they differ. The numbers are in each run's "
        "trust_ratios.csv.",
    ),
    "parts": Drawing(
        later("decentral.report.parts:parts"),
        "What the parts of the factorisation stand for",
        "A part is a pattern of hidden units. Pictures: the mean input weighted by how much of the part is in it, less "
        "the mean input; red is more, blue less, each picture to its own scale. Bars: how a part's mean coefficient "
        "is shared out over the classes, dotted if equally. Over each picture: the first class and its share; use: "
        "what the part has of all coefficients.",
    ),
    "detection": Drawing(
        later("decentral.report.detection:detection"),
        "Keywords missed against false alarms",
        "The averaged model of each run at its end, on all test data, as the threshold on its scores falls. One "
        "colour: seeds. The numbers are in each run's detection.csv.",
    ),
    "stages": Drawing(later("decentral.report.stage_table:stage_table"), "Stages"),
    "nodes": Drawing(later("decentral.report.node_table:node_table"), "Nodes"),
    "graphs": Drawing(later("decentral.report.graphs:graph_table"), "Graphs"),
}
"""Name of the figure's file, or of the table in the report -> what it is, in the order of the report."""
