"""Drawing of a topology: its graph beside the eigenvalues of its mixing matrix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from scipy import sparse

import topologies
from decentral.disk import write_whole
from decentral.errors import UserError
from decentral.report.graph_layout import positions
from topologies import Schedule
from topologies.lanczos import DENSE
from topologies.wording import shown

DRAWN = 400
"""Workers above which the graph is left out of the figure."""

NODE, EDGE, OTHER = "#0072B2", "#8a8a8a", "#D55E00"  # Okabe and Ito's blue and vermilion, and grey


def draw(graph: nx.Graph, mixing: sparse.csr_array | Schedule, path: str | os.PathLike[str]) -> None:
    """Draw a graph beside the eigenvalues of its mixing matrix (of a schedule: of its period's product)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"cannot draw to {shown(str(path))}; use a name that ends in .png, .svg or .pdf")
    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_graph(left, graph)
    name = graph.graph.get("name") or "graph"
    left.set_title(f"{name}, n = {len(graph)}, edges: {graph.number_of_edges()}", fontsize=11)
    draw_spectrum(right, mixing)
    write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=150))


def draw_graph(ax: Any, graph: nx.Graph | Schedule) -> None:
    """Draw a graph (or all edges of a schedule) into axes: numbered where the numbers can be read."""
    graph = topologies.union(graph) if isinstance(graph, Schedule) else graph
    n = len(graph)
    ax.set_axis_off()
    if n > DRAWN:
        note = f"{n} workers:\ntoo many to draw (up to {DRAWN})"
        ax.text(0.5, 0.5, note, ha="center", va="center", color="#444444", transform=ax.transAxes)
        return
    places = positions(graph)
    ax.set_aspect("equal", adjustable="datalim")
    box = ax.get_window_extent()
    shrink = min(
        1.0, min(box.width, box.height) / ax.figure.get_figure(root=True).dpi / 2.0
    )  # a small picture
    size = float(np.clip(30000 / n**1.4 * shrink**2, 6, 330))
    numbered = n <= 40 and shrink > 0.7
    linewidth = 1.0 if n <= 64 else 0.0
    look = {
        "edge_color": EDGE,
        "width": float(np.clip(22 / max(1, graph.number_of_edges()) ** 0.6, 0.35, 1.4)),
    }
    if graph.is_directed():
        arrow = float(np.clip(130 / n**0.7, 3, 13))
        nx.draw_networkx_edges(graph, places, ax=ax, node_size=size, arrowsize=arrow, **look)
    else:
        nx.draw_networkx_edges(graph, places, ax=ax, **look)
    nx.draw_networkx_nodes(
        graph, places, ax=ax, node_size=size, node_color=NODE, edgecolors="white", linewidths=linewidth
    )
    if numbered:
        font = 9 if n <= 20 else 6.5
        nx.draw_networkx_labels(graph, places, {i: str(i) for i in graph}, font, "white", ax=ax)
    ax.margins(0.08)


def draw_spectrum(ax: Any, mixing: sparse.csr_array | Schedule) -> None:
    """Draw eigenvalues in order, or in the complex plane with the unit circle where W is not symmetric."""
    subject = "W"
    if isinstance(mixing, Schedule):
        subject = "the product over a period"
        if mixing.period is None:
            subject = f"the product of the first {len(mixing.rounds)} rounds"
            mixing = topologies.cyclic([mixing.matrix(t) for t in mixing.rounds])
        mixing = topologies.product(mixing)
    facts = topologies.spectrum(mixing)
    ax.set_title(f"eigenvalues of {subject}, gap {facts.gap:.4g}", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    if facts.eigenvalues is None:
        _draw_ends(ax, facts)
    elif facts.symmetric:
        values = facts.eigenvalues
        ax.axhspan(-facts.rho, facts.rho, color=NODE, alpha=0.08, lw=0)
        ax.axhline(0, color="#bbbbbb", lw=0.8)
        k = np.arange(1, facts.n + 1)
        ax.plot(k[1:], values[1:], "o", color=NODE, ms=5 if facts.n <= 64 else 2.5, label="others")
        ax.plot(k[:1], values[:1], "D", color=OTHER, ms=6, label="1, the mean")
        ax.set(
            xlabel="index k",
            ylabel=r"$\lambda_k$",
            ylim=(min(0, values[-1]) - 0.08, 1.08),
            xlim=(0.4 - 0.02 * facts.n, 0.6 + 1.02 * facts.n),
        )
        ax.locator_params(axis="x", integer=True)
        _legend(ax, facts.rho)
    else:
        turn = np.linspace(0, 2 * np.pi, 241)
        ax.plot(np.cos(turn), np.sin(turn), color="#bbbbbb", lw=1)
        ax.fill(facts.rho * np.cos(turn), facts.rho * np.sin(turn), color=NODE, alpha=0.08, lw=0)
        values = facts.eigenvalues
        ax.plot(values[1:].real, values[1:].imag, "o", color=NODE, ms=5, label="others")
        ax.plot(values[:1].real, values[:1].imag, "D", color=OTHER, ms=6, label="1, the mean")
        ax.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
        _legend(ax, facts.rho)


def _draw_ends(ax: Any, facts: topologies.Spectrum) -> None:
    ends = {"1, the mean": 1.0, r"$\lambda_2$": facts.second, r"$\lambda_n$": facts.last}
    known = {label: value for label, value in ends.items() if value is not None}
    ax.barh(list(known), list(known.values()), height=0.35, color=NODE)
    ax.axvline(0, color="#bbbbbb", lw=0.8)
    ax.invert_yaxis()
    ax.set(xlabel=f"eigenvalue (only the ends: above {DENSE} workers)")


def _legend(ax: Any, rho: float) -> None:
    from matplotlib.patches import Patch

    handles, _ = ax.get_legend_handles_labels()
    handles.append(Patch(color=NODE, alpha=0.15, label=rf"$|\lambda|\leq\rho$ = {rho:.4g}"))
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, fontsize=9
    )
