"""A calibration as a cluster file: what ``decentral.network.cluster_file`` reads again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from decentral.disk import write_whole
from decentral.network.cluster import Link
from decentral.network.measured import Calibrated

_DIGITS = 4


def table_of(calibrated: Calibrated) -> dict[str, Any]:
    """The tables of the file; four digits of what was measured, and no key without a value."""
    cluster, size = calibrated.cluster, calibrated.cluster.hosts.count(0)
    table: dict[str, Any] = {"workers": cluster.n, "ports": cluster.ports}
    if cluster.between is not None:
        table["links"] = _link(cluster.between)
    if cluster.inside is not None:
        table["hosts"] = {"workers": size, **_link(cluster.inside)}
    for key, values in (("compute", calibrated.compute), ("measured", calibrated.measured)):
        if values is not None:
            table[key] = {k: _short(v) for k, v in asdict(values).items() if v not in ((), "")}
    return table


def text_of(calibrated: Calibrated) -> str:
    """The file's text: a comment that says what it is, and the tables."""
    lines = [
        "Measured by `decentral calibrate`, all ranks at once. [links], [hosts]: the nearest latency and bandwidth of",
        "exchanges both ways; [compute]: a worker's own arithmetic; [measured]: where, when, means and quartiles.",
        "ports: each rank copies its own messages, one after the other.",
    ]
    if calibrated.cluster.between is None:
        lines.append("There was one host: add [links] before it is used for more workers than were measured.")
    return "".join(f"# {line}\n" for line in lines) + tomli_w.dumps(table_of(calibrated))


def write(path: Path, calibrated: Calibrated) -> None:
    """Write the file, whole or not at all."""
    write_whole(path, text_of(calibrated))


def _link(link: Link) -> dict[str, Any]:
    return {key: _short(value) for key, value in asdict(link).items()}


def _short(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_short(one) for one in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
