"""What ``decentral advise`` prints: two tables and plain sentences, or JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decentral.commands.advise import Advice, Row, Way, advise
from decentral.network.cluster_file import read_cluster
from decentral.report.columns import scaled_unit


def report(
    path: Path, model_bytes: float, compute_s: float, as_json: bool = False, out: Path | None = None
) -> None:
    """Print the advice for the cluster of a file as tables or as JSON, and draw time against workers to ``out``."""
    from decentral.commands.advise_figure import check_suffix, draw

    if out is not None:
        check_suffix(out)
    cluster = read_cluster(path)
    advice = advise(cluster, model_bytes, compute_s)
    if out is not None:
        draw(cluster, model_bytes, compute_s, out)
    if as_json:
        print(json.dumps(asdict(advice) | {"sentences": sentences(advice)}, indent=2, allow_nan=False))
    else:
        print_tables(advice)


def print_tables(advice: Advice) -> None:
    """What one vector costs each way; what a round costs each method, in 80 columns; what follows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80, highlight=False)
    title = f"one vector of {_bytes(advice.model_bytes)} among {advice.workers} workers"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("along", no_wrap=True)
    for head in ("ms", "sent/worker", "gap", "period"):
        table.add_column(head, justify="right", no_wrap=True)
    for way in advice.ways:
        table.add_row(way.name, milliseconds(way.seconds), _bytes(way.sent_bytes_mean), *_mixing(way))
    console.print(table)
    title = f"a round with {milliseconds(advice.compute_s)} ms of computing, fastest first"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for head in ("graph", "methods"):
        table.add_column(head, min_width=21)
    for head in ("ms", "sent/worker", "bias"):
        table.add_column(head, justify="right", no_wrap=True)
    for graphs, methods, row in _alike(advice):
        sent, bias = _bytes(row.sent_bytes_mean), "-" if row.bias is None else _short(row.bias)
        table.add_row(", ".join(graphs), ", ".join(methods), milliseconds(row.seconds), sent, bias)
    console.print(table)
    for line in (*sentences(advice), *legend(advice)):
        console.print(line)
        console.print()


def sentences(advice: Advice) -> list[str]:
    """Whether gossip pays in time a round, where it does not, and what that does not say."""
    best = advice.all_reduce
    gossip = [row for row in advice.rows if row.method == "dsgd"]  # one vector, after the gradient
    limit, fastest = advice.compute_s + best.seconds, gossip[0]
    pays = fastest.seconds < limit
    lines = [
        f"Gossip {'pays' if pays else 'does not pay'} in time a round on this cluster: DSGD on {fastest.graph} takes "
        f"{milliseconds(fastest.seconds)} ms, the fastest all-reduce ({_plain(best.name)}) with its computing "
        f"{milliseconds(limit)} ms."
    ]
    losing = [f"{row.graph} ({milliseconds(row.seconds)})" for row in gossip if row.seconds >= limit]
    if pays and losing:
        lines.append(f"It does not pay on {', '.join(losing)}.")
    times = {way.name: milliseconds(way.seconds) for way in advice.ways}
    if advice.workers > 2:
        lines.append(
            "An undirected ring moves as much as ring all-reduce, 2 vectors a worker against 2 (n - 1) / n: "
            f"{times['ring']} ms against {times['ring all-reduce']} ms here. On equal links it saves latency only."
        )
    lines.append(
        "Fewer seconds a round are not fewer seconds to an accuracy: gossip needs more rounds where the gap is small, "
        "and many methods leave a bias, all-reduce in every round none."
    )
    refused: dict[str, list[str]] = {}
    for graph, methods in advice.left_out.items():
        for method in methods:
            refused.setdefault(method, []).append(graph)
    if refused:
        places = "; ".join(f"{method} on {', '.join(graphs)}" for method, graphs in refused.items())
        lines.append(f"Left out, since it would be refused (decentral list compatibility): {places}.")
    return lines


def legend(advice: Advice) -> list[str]:
    """What the columns mean, and what was assumed."""
    parts = {"all": [m for m, part in advice.meanwhile.items() if part == 1]}
    parts["a part"] = [m for m in advice.meanwhile if m not in parts["all"]]
    early = [f"{part} of {', '.join(methods)}" for part, methods in parts.items() if methods]
    return [
        "gap: 1 - rho of a round, or of a period of more rounds. bias: where f_i differ, workers at rest are apart by "
        "at most (lr b)^2 times this in squared distance, to first order in the learning rate lr, with b^2 the mean "
        "squared gradient of f_i at the optimum; 0: none; -: no such term is known.",
        f"Rounds are synchronous. While workers compute there travels {'; '.join([*early, 'nothing of others'])}. An "
        "all-reduce of gradients that starts during the backward pass would hide some time, too. All-reduces have one "
        "port a worker and, but for hierarchical and direct ones, the pace of the slowest link.",
    ]


def milliseconds(seconds: float) -> str:
    """Four digits, and all before the point."""
    ms = 1e3 * seconds
    return f"{ms:.{max(0, 3 - math.floor(math.log10(ms)))}f}" if ms >= 1e-6 else f"{ms:.4g}"


def _alike(advice: Advice) -> list[tuple[list[str], list[str], Row]]:
    """(graphs, methods, one of the rows) for rows with the same numbers, in the order of the rows."""
    of_graph: dict[tuple[Any, ...], list[Row]] = {}
    for row in advice.rows:
        of_graph.setdefault((row.graph, row.seconds, row.sent_bytes_mean, row.bias), []).append(row)
    ways = {way.name: way for way in advice.ways}
    merged: dict[tuple[Any, ...], tuple[list[str], list[str], Row]] = {}
    for (graph, *numbers), rows in of_graph.items():
        methods, place = [row.method for row in rows], graph
        if ways[graph].all_reduce:
            methods, place = [f"{method} ({_plain(graph)})" for method in methods], "all-reduce"
        merged.setdefault((*numbers, *methods), ([], methods, rows[0]))[0].append(place)
    return list(merged.values())


def _plain(all_reduce: str) -> str:
    return all_reduce.removesuffix(" all-reduce")


def _mixing(way: Way) -> tuple[str, str]:
    """Its gap and its period."""
    return _short(way.gap), f"{way.period}{', exact' if way.exact else ''}"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1e3 or value >= 1e6 else f"{value:.0f}"


def _bytes(value: float) -> str:
    size, unit = scaled_unit(value, "B")
    return f"{value / size:.4g} {unit}"
