"""A lab around a command: made, told of, and gone when the command ends, however that is."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from decentral.comm.launch import launched_ranks
from decentral.commands.lab.launching import settings
from decentral.errors import UserError
from decentral.network.cluster import Cluster
from decentral.network.lab.cards import sent
from decentral.network.lab.contained import contained, run
from decentral.network.lab.layout import Layout
from decentral.network.lab.nodes import MEMORY, build, environment
from decentral.network.lab.offers import offers
from decentral.runs.provenance import LAB


@dataclass(frozen=True)
class Lab:
    """A layout on this machine; ``delays``: whether its kernel can hold messages back."""

    layout: Layout
    delays: bool

    @property
    def words(self) -> str:
        """Its nodes and what they are given."""
        cluster = self.layout.cluster
        nodes = len(self.layout.nodes)
        ranks = "" if nodes == cluster.n else f" with {cluster.n} ranks"
        return f"{nodes} nodes{ranks}, {_rates(cluster)}"

    @property
    def facts(self) -> dict[str, Any]:
        """For environment.json."""
        cluster = self.layout.cluster
        asked = _latencies(cluster)
        return {
            "nodes": len(self.layout.nodes), "ranks": cluster.n, "links": _rates(cluster), "ports": cluster.ports,
            "latency_s_asked": asked, "latency_s_emulated": asked if self.delays else 0.0,
        }  # fmt: skip

    def around(self, command: Sequence[str], after: Callable[[dict[str, int]], None]) -> int:
        """The exit code of ``command`` in it; ``after`` is given the bytes that each node's cards have sent."""

        def work() -> int:
            began_s = time.perf_counter()
            nodes = build(self.layout, self.delays)
            say(f"{self.words}; built in {time.perf_counter() - began_s:.2f} s")
            told = {LAB: json.dumps(self.facts)}
            code = run(command, environment(self.layout) | settings(self.layout) | _terminal() | told, nodes)
            after(sent(self.layout))
            return code

        return contained(work)


def lab(layout: Layout, *paths: Path) -> Lab:
    """The lab of a layout as this machine can make it, for a program that reads and writes ``paths``.

    Raises UserError where there can be none, or not this one.
    """
    for path in (Path(), *paths):
        if path.resolve().is_relative_to(MEMORY):
            raise UserError(
                f"{path.absolute()} lies in {MEMORY}, of which a lab has its own; use another folder"
            )
    if (ranks := launched_ranks()) > 1:
        raise UserError(
            f"a lab starts its ranks itself, and here are {ranks} already; call it without a launcher"
        )
    found = offers()
    cluster = layout.cluster
    lacks = found.missing
    several = len(set(cluster.hosts)) < cluster.n
    for part, needed in (("htb", cluster.ports == "multi" or cluster.edges is not None), ("rules", several)):
        if needed and part in found.kernel and not lacks:
            lacks = (
                f"links that differ need {part} of the kernel; load its modules, or take links that are alike"
            )
    if lacks:
        raise UserError(f"no lab can be made: {lacks}")
    made = Lab(layout, "netem" not in found.kernel)
    if not made.delays and (late := _latencies(cluster)):
        say(
            f"this kernel has no netem: the {late * 1e3:g} ms of latency asked for are not emulated, they are on the "
            "simulated clock only (where there is a module: modprobe sch_netem)"
        )
    if several and cluster.inside is not None:
        say("messages inside a node go through memory, as fast as it is; every rank has a card of its own")
    return made


def say(text: str) -> None:
    """A line on standard error."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _rates(cluster: Cluster) -> str:
    """The rates of links between nodes in words."""
    rates = [] if cluster.between is None else [cluster.between.bandwidth_bytes_s]
    if cluster.edges is not None:
        rates += cluster.edges.bandwidth_bytes_s.tolist()
    low, high = min(rates, default=inf), max(rates, default=inf)
    if low == inf:
        return "no limit"
    return rate_words(low) if low == high else f"{rate_words(low)} to {rate_words(high)}"


def rate_words(bytes_s: float) -> str:
    """As in "200 Mb/s"."""
    if bytes_s == inf:
        return "no limit"
    units = {"Gb/s": 1e9, "Mb/s": 1e6, "kb/s": 1e3}
    name = next((name for name, unit in units.items() if 8 * bytes_s >= unit), "kb/s")
    return f"{8 * bytes_s / units[name]:g} {name}"


def _latencies(cluster: Cluster) -> float:
    """The longest latency between nodes, in seconds."""
    between = 0.0 if cluster.between is None else cluster.between.latency_s
    return max(between, 0.0 if cluster.edges is None else float(cluster.edges.latency_s.max(initial=0.0)))


def _terminal() -> dict[str, str]:
    """mpirun hands ranks pipes; what they say still comes to this terminal."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return {}
    told = {"TTY_COMPATIBLE": "1", "COLUMNS": str(shutil.get_terminal_size().columns)}
    return {key: value for key, value in told.items() if key not in os.environ}
