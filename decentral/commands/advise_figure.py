"""Time a round against the number of workers, on clusters of one kind: graphs beside all-reduces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from decentral.commands.advise import HOST_GRAPHS, all_reduces, built, gossip_s, resized
from decentral.errors import UserError, nearest
from decentral.network.all_reduce import host_size
from decentral.network.cluster import Cluster
from decentral.report.line_styles import COLORS, LINES, MARKERS
from decentral.report.page_style import RC
from decentral.report.plots import SUFFIXES, save

WORKERS = tuple(2**k for k in range(2, 13))
"""4 ... 4,096; those that are whole hosts are drawn."""

DRAWN = ("ring", "torus", "exponential", "one-peer-exponential")
"""Graphs, and those of HOST_GRAPHS where hosts have several workers."""

APART = "parameter-server all-reduce"
"""So slow that it would press all others together."""

Lines = dict[str, tuple[list[int], list[float]]]


def check_suffix(out: Path) -> None:
    """Raise UserError unless it can be drawn to."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out} must end in .png, .svg or .pdf; {nearest(out.suffix, SUFFIXES)}")


def draw(cluster: Cluster, model_bytes: float, compute_s: float, out: Path) -> Path:
    """Draw computing, then one vector along a graph or through an all-reduce, for clusters of 4 to 4,096 workers."""
    gossip, reduces = sweep(cluster, model_bytes)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.4, 5.0), layout="constrained")
        ax: Any = figure.subplots()
        for k, (name, (workers, seconds)) in enumerate(gossip.items()):
            look = {"color": COLORS[k], "marker": MARKERS[k], "linewidth": 3.6, "alpha": 0.6, "markersize": 7}
            ax.plot(workers, [compute_s + one for one in seconds], label=name, **look)
        for k, (name, (workers, seconds)) in enumerate(reduces.items()):
            look = {"color": "#222222", "marker": MARKERS[-1 - k], "linestyle": LINES[1 + k], "markersize": 4}
            ax.plot(workers, [compute_s + one for one in seconds], label=name, **look)
        ax.axvline(cluster.n, color="#999999", linewidth=1, linestyle=":", zorder=0)
        ax.annotate("the cluster", (cluster.n, 1), xycoords=ax.get_xaxis_transform(), fontsize=8.5,
                    color="#666666", xytext=(3, -9), textcoords="offset points")  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(WORKERS[::2], [f"{n:,}" for n in WORKERS[::2]])
        ax.set_xlim(WORKERS[0] / 1.2, WORKERS[-1] * 1.2)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("workers n")
        ax.set_ylabel("time a round (s)" if compute_s else "time a round without computing (s)")
        heads = [Line2D([], [], linestyle="none", label=text) for text in ("gossip:", "all-reduce:")]
        drawn = ax.get_lines()
        handles = [
            heads[0],
            *drawn[: len(gossip)],
            heads[1],
            *drawn[len(gossip) : len(gossip) + len(reduces)],
        ]
        figure.legend(handles=handles, loc="outside right upper")
        return save(figure, out)


def sweep(cluster: Cluster, message_bytes: float) -> tuple[Lines, Lines]:
    """Name -> (workers, seconds of one vector), along graphs and through all-reduces."""
    size = host_size(cluster)
    gossip: Lines = {}
    reduces: Lines = {}
    for n in WORKERS:
        if n % size:
            continue
        like = resized(cluster, n)
        for name in (*DRAWN, *(HOST_GRAPHS if 1 < size < n else ())):
            schedule = built(name, n, size)
            if schedule is not None:
                _add(gossip, name, n, gossip_s(schedule, like, message_bytes))
        for way in all_reduces(like, message_bytes):
            if way.name != APART:
                _add(reduces, way.name.removesuffix(" all-reduce"), n, way.seconds)
    return gossip, reduces


def _add(lines: Lines, name: str, n: int, seconds: float) -> None:
    workers, times = lines.setdefault(name, ([], []))
    workers.append(n)
    times.append(seconds)
