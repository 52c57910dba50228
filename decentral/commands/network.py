"""``decentral network``: the nodes of an experiment's network, where they are and what a message costs; its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from decentral.commands.network_drawing import draw
from decentral.errors import UserError
from decentral.runs.dataflow.building import Plan
from decentral.runs.dataflow.config import DataflowRun
from decentral.runs.experiment import load


def report(file: Path, overrides: Sequence[str], out: Path | None) -> None:
    """Print the nodes of the first run's network, and draw it. Raises UserError for a file without [dataflow]."""
    experiment = load(file, overrides)
    config = experiment.runs[0].config
    if not isinstance(config, DataflowRun):
        raise UserError(
            f"{file} has no [dataflow], so no network of nodes; use experiments/amp_babi15.toml, for example"
        )
    config.prepare()
    plan = Plan(config, torch.device("cpu"))
    plan.flops, plan.place = plan.layout()
    network = plan.network()
    table = Table(box=None, pad_edge=False, title=experiment.name, title_justify="left")
    for column in ("node", "kind", "worker", "parameters", "FLOPs a message, forward", "backward", "goes to"):
        table.add_column(column, justify="left" if column in ("node", "kind", "goes to") else "right")
    for name, node in network.nodes.items():
        parameters = sum(p.numel() for p in getattr(node, "parameters", ()))
        flops = [plan.flops.get((name, way), 0.0) for way in ("forward", "backward")]
        goes_to = ", ".join(edge.target.name for edge in node.outs)
        kind, numbers = type(node).__name__, (parameters, *flops)
        table.add_row(
            name, kind, str(plan.place[name]), *(f"{n:,.0f}" if n else "–" for n in numbers), goes_to
        )
    Console().print(table)
    if out is not None:
        draw(
            network.graph(),
            {name: type(node).__name__ for name, node in network.nodes.items()},
            out,
            plan.place,
        )
        Console().print(f"figure in {out}")
