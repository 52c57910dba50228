"""How the groups of a figure look: colour, line and marker, so that grey print tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decentral.report.results import Value

# Okabe and Ito's colours without yellow, which a white page swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LOST: dict[str, Any] = {"markersize": 7.5, "markeredgewidth": 1.8}  # the cross of a run that did not finish


@dataclass(frozen=True)
class Style:
    """How one group looks; colour, line and marker all differ, so that grey print tells them apart."""

    color: str
    line: Any
    marker: str

    @property
    def look(self) -> dict[str, Any]:
        """As matplotlib's keywords; the white edge keeps a marker apart from a line that it lies on."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.color, "linestyle": self.line, "marker": self.marker, **edge}


def styles_of(groups: Sequence[tuple[Value, ...]]) -> dict[tuple[Value, ...], Style]:
    """Colour by the first field and line by the others; all by one count where the first tells them apart."""
    firsts = list(dict.fromkeys(g[:1] for g in groups))
    rests = list(dict.fromkeys(g[1:] for g in groups))
    styles = {}
    for i, group in enumerate(groups):
        two_way = 1 < len(firsts) < len(groups)
        color = firsts.index(group[:1]) if two_way else i
        line = rests.index(group[1:]) if two_way else i
        styles[group] = Style(
            COLORS[color % len(COLORS)], LINES[line % len(LINES)], MARKERS[line % len(MARKERS)]
        )
    return styles
