"""A picture of a network of nodes: messages go from left to right, and back below where they close a loop.

It takes names and classes only, and imports no torch: ``draw(net.graph(), {name: type(node).__name__ for name, node in
net.nodes.items()}, path)`` is the picture of a network that ``net.check()`` accepts.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import networkx as nx

from decentral.disk import write_whole
from decentral.errors import UserError
from decentral.report.line_styles import COLORS
from topologies.wording import shown

STEERING = ("Phi", "Cond", "StateUpdate", "Bcast", "Concat", "Split", "Replicate", "Group", "Ungroup", "Row")
ENDS = ("Input", "Loss")
FILLS = {"transform": "#BFDCF2", "steering": "#E4E4E4", "end": "#F9DDB0"}
GREY = "#555555"
HEIGHT_IN, LETTER_IN, ACROSS_IN, DOWN_IN, LOOP_IN = 0.46, 0.082, 0.55, 0.8, 0.26
"""Inches: a box's height, a letter's width, between columns, from row to row, from one loop's way back to the next."""
SWEEPS = 8
"""Over the columns, to order them."""

Point = tuple[float, float]
Edge = tuple[Any, Any, int]
"""Source, target, and a number where there are several."""


def family(kind: str) -> str:
    """What nodes of a class are: "end", "steering", or else "transform"."""
    return "end" if kind in ENDS else "steering" if kind in STEERING else "transform"


def draw(
    graph: nx.MultiDiGraph,
    kinds: Mapping[str, str],
    path: str | os.PathLike[str],
    place: Mapping[str, int] | None = None,
) -> None:
    """Draw the graph of a network into a file. ``kinds``: the class of each node; ``place``: its worker.

    A box is filled by what its node is and framed by its worker. Raises UserError for a name that is no picture's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"cannot draw to {shown(str(path))}; use a name that ends in .png, .svg or .pdf")
    columns, ways, loops = lay_out(graph, kinds)
    widths = {name: LETTER_IN * max(len(name), len(kinds[name])) + 0.2 for name in graph}
    at, width = _positions(columns, widths)
    low = -DOWN_IN * max(map(len, columns)) / 2
    bottom = low - LOOP_IN * len(loops) - 0.4
    figure = Figure(figsize=(width, -low - bottom))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(bottom, -low))  # inches
    _draw_edges(ax, ways, loops, at, widths, low)
    for name in graph:
        _draw_node(ax, name, kinds[name], at[name], widths[name], None if place is None else place[name])
    _draw_legend(ax, {family(kinds[name]) for name in graph}, sorted(set(place.values())) if place else [])
    write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=150))


def lay_out(
    graph: nx.MultiDiGraph, kinds: Mapping[str, str]
) -> tuple[list[list[Any]], dict[Edge, list[Any]], list[Edge]]:
    """Columns of nodes and bends, from the top; the ways of edges that go forward; the edges that close a loop.

    A way is the two nodes and, between them, a bend in each column that is crossed. A node's column is as far
    right as the longest path to it. A column is ordered by the mean height of its neighbours, to and fro.
    """
    loops = _loops(graph, kinds)
    onward = graph.copy()
    onward.remove_edges_from(loops)
    number: dict[Any, int] = {}
    for name in nx.topological_sort(onward):
        number[name] = max((number[source] + 1 for source in onward.predecessors(name)), default=0)
    ways = {
        edge: [edge[0], *((*edge, i) for i in range(number[edge[0]] + 1, number[edge[1]])), edge[1]]
        for edge in onward.edges(keys=True)
    }
    columns: list[list[Any]] = [[] for _ in range(max(number.values()) + 1)]
    neighbours: defaultdict[Any, list[Any]] = defaultdict(list)
    for name in graph:
        columns[number[name]].append(name)
    for way in ways.values():
        for bend in way[1:-1]:
            columns[bend[-1]].append(bend)
        for one, after in itertools.pairwise(way):
            neighbours[one].append(after)
            neighbours[after].append(one)
    height = {one: y for column in columns for one, y in _heights(column)}
    for sweep in range(SWEEPS):
        for column in columns[:: -1 if sweep % 2 else 1]:
            mean = {one: fmean(height[other] for other in neighbours[one] or [one]) for one in column}
            column.sort(key=lambda one, mean=mean: -mean[one])  # type: ignore[misc]
            height.update(_heights(column))
    return columns, ways, loops


def _heights(column: Sequence[Any]) -> list[tuple[Any, float]]:
    return [(one, (len(column) - 1) / 2 - i) for i, one in enumerate(column)]


def _loops(graph: nx.MultiDiGraph, kinds: Mapping[str, str]) -> list[Edge]:
    """The edges that close a loop, at the Phi where messages come into it."""
    graph, found = graph.copy(), list[Edge]()
    while True:
        part = {name: i for i, names in enumerate(nx.strongly_connected_components(graph)) for name in names}
        edges = list(graph.edges(keys=True))
        inside = [edge for edge in edges if kinds[edge[1]] == "Phi" and part[edge[0]] == part[edge[1]]]
        if not inside:
            return found
        entered = {edge[1] for edge in edges if part[edge[0]] != part[edge[1]]}
        closing = [edge for edge in inside if edge[1] in entered] or inside
        found += closing
        graph.remove_edges_from(closing)


def _positions(columns: list[list[Any]], widths: Mapping[Any, float]) -> tuple[dict[Any, Point], float]:
    """Centres of nodes and bends, and the width of all, in inches."""
    at, left = {}, 0.5
    for column in columns:
        broad = max(widths.get(one, 0.0) for one in column)
        at.update({one: (left + broad / 2, DOWN_IN * y) for one, y in _heights(column)})
        left += broad + ACROSS_IN
    return at, max(left - ACROSS_IN + 0.5, 5.0)


def _draw_edges(
    ax: Any,
    ways: Mapping[Edge, list[Any]],
    loops: Sequence[Edge],
    at: Mapping[Any, Point],
    widths: Mapping[Any, float],
    low: float,
) -> None:
    """Those at one side of a box from the top in the order of where they go to, or come from; loops last."""
    leaving: defaultdict[Any, list[tuple[float, Edge]]] = defaultdict(list)
    coming: defaultdict[Any, list[tuple[float, Edge]]] = defaultdict(list)
    for edge in [*ways, *loops]:
        way = ways.get(edge)
        leaving[edge[0]].append((-at[way[1]][1] if way else math.inf, edge))
        coming[edge[1]].append((-at[way[-2]][1] if way else math.inf, edge))
    points: defaultdict[Edge, list[Point]] = defaultdict(list)  # start and end
    for side, sign in ((leaving, 1), (coming, -1)):
        for name, edges in side.items():
            x, y = at[name]
            for (_, edge), (_, dy) in zip(sorted(edges), _heights(edges), strict=True):
                points[edge].append((x + sign * widths[name] / 2, y + 0.6 * HEIGHT_IN * dy / len(edges)))
    for edge, way in ways.items():
        start, end = points[edge]
        _draw_curve(ax, [start, *(at[bend] for bend in way[1:-1]), end])
    for i, edge in enumerate(loops):
        start, end = points[edge]
        _draw_loop(ax, start, end, low - LOOP_IN * i)


def _draw_curve(ax: Any, points: Sequence[Point]) -> None:
    """Through the points, horizontal in each."""
    vertices = [points[0]]
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        middle = (x + to_x) / 2
        vertices += [(middle, y), (middle, to_y), (to_x, to_y)]
    _draw_arrow(ax, vertices, [4] * (len(vertices) - 1), "-")


def _draw_loop(ax: Any, start: Point, end: Point, below: float) -> None:
    """Down to the height ``below``, back there and up again."""
    right, left, out = start[0], end[0], 0.4
    vertices = [
        start, (right + out, start[1]), (right + out, below), (right, below),
        (left, below), (left - out, below), (left - out, end[1]), end,
    ]  # fmt: skip
    _draw_arrow(ax, vertices, [4, 4, 4, 2, 4, 4, 4], "--")


def _draw_arrow(ax: Any, vertices: Sequence[Point], codes: Sequence[int], line: str) -> None:
    """``codes``: matplotlib's, for the vertices after the first one's 1: 2 a line, 4 a cubic curve of three."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    curve = Curve(vertices, [1, *codes])
    ax.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=9, color=GREY, ls=line, lw=1.1))


def _draw_node(ax: Any, name: str, kind: str, at: Point, width: float, worker: int | None) -> None:
    from matplotlib.patches import FancyBboxPatch

    frame, thick = (GREY, 1.0) if worker is None else (_color(worker), 2.4)
    corner = at[0] - width / 2, at[1] - HEIGHT_IN / 2
    style = "round,pad=0,rounding_size=0.08"
    ax.add_patch(
        FancyBboxPatch(corner, width, HEIGHT_IN, style, fc=FILLS[family(kind)], ec=frame, lw=thick, zorder=3)
    )
    ax.text(at[0], at[1] + 0.085, name, ha="center", va="center", fontsize=9, zorder=4)
    note = kind if worker is None else f"{kind} · {worker}"
    ax.text(at[0], at[1] - 0.115, note, ha="center", va="center", fontsize=7, color=GREY, zorder=4)


def _draw_legend(ax: Any, families: Collection[str], workers: Sequence[int]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=FILLS[f], edgecolor=GREY, label=f) for f in FILLS if f in families]
    handles += [Patch(facecolor="white", edgecolor=_color(w), lw=2.4, label=f"worker {w}") for w in workers]
    ax.legend(handles=handles, loc="lower center", ncols=7, frameon=False, fontsize=8)


def _color(worker: int) -> str:
    return COLORS[worker % len(COLORS)]
