"""The kinds of figures by name: what ``[[figure]] kind`` may be."""

from __future__ import annotations

from decentral.report.curves import Curves
from decentral.report.final_points import FinalPoints
from decentral.report.scene import Kind

KINDS: dict[str, Kind] = {"curves": Curves(), "final": FinalPoints()}
"""Name -> how it is read and drawn."""
