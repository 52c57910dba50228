"""The kinds of figures by name: what ``[[figure]] kind`` may be."""

from __future__ import annotations

from decentral.report.scene import Kind
from topologies.places import all_loaded

KINDS: dict[str, Kind] = {
    name: kind()
    for name, kind in all_loaded(
        {
            "critical-batch": "decentral.report.critical_batch:CriticalBatch",
            "curves": "decentral.report.curves:Curves",
            "final": "decentral.report.final_points:FinalPoints",
        }
    ).items()
}
"""Name -> how it is read and drawn."""
