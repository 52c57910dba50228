"""``decentral quantise RUN``: the trained network of a run as one of integers, its bits, its size, and the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from decentral.errors import UserError
from decentral.problems.capabilities import Layered
from decentral.problems.data.dataset import Dataset
from decentral.problems.models.conversion import converted as in_numbers
from decentral.problems.quantised import QuantisedCNN
from decentral.problems.statistics import of_batch_norm
from decentral.quantised.conversion import converted, first_difference
from decentral.quantised.integer_network import IntegerNetwork
from decentral.quantised.size import sizes
from decentral.quantised.stored import save
from decentral.report.stored import remedy_of, status_of
from decentral.runs.experiment import load
from decentral.runs.findings import MODEL, kept_model
from decentral.runs.kind import Run, name_of
from decentral.runs.sections.names import PROBLEMS
from topologies.wording import shown

FILE = "integers.npz"
_COLUMNS = (
    "layer",
    "weights",
    "bits",
    "bits out",
    "largest sum",
    "by fan-in",
    "n",
    "A",
    "B",
    "A x + B",
    "bytes",
)


def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Convert, check on all test images, write, and print the bits of each layer. Raises UserError."""
    home = _run_folder(run)
    path = out or home / FILE
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--out {path} should be a file in a folder that exists, as in --out integers.npz")
    module, dataset = trained(home)
    network = converted(module)
    images = dataset.test_x.to(next(module.parameters()).dtype)
    if differs := first_difference(module, network, images):
        raise UserError(f"{home}: integers and network differ in {differs}; nothing is written: report it")
    save(network, path)
    right = int((network(images.numpy()).argmax(1) == dataset.test_y.numpy()).sum())
    facts = {
        "test_images": len(images),
        "test_accuracy": right / len(images),
        "packed_bytes": sum(layer.packed_bytes for layer in sizes(network)),
        "float32_bytes": 4 * sum(p.numel() for p in module.parameters()),
        "file": str(path),
    }
    if as_json:
        print(json.dumps({**facts, "layers": [layer._asdict() for layer in sizes(network)]}, indent=1))
    else:
        _print(network, facts)


def _run_folder(run: Path) -> Path:
    """The folder itself, or that of the only run of an experiment."""
    if (run / "config.toml").is_file():
        return run
    runs = sorted(path.parent for path in run.glob("runs/*/config.toml"))
    if len(runs) == 1:
        return runs[0]
    if runs:
        raise UserError(f"{run} holds {len(runs)} runs; give one of them, {runs[0]} for example")
    raise UserError(f"{run} is not the folder of a run, which has a config.toml; give DIR/runs/ID")


def trained(home: Path) -> tuple[nn.Module, Dataset]:
    """The averaged model of a run that has finished, in evaluation mode on the CPU, and its data.

    Raises UserError for a run without such a model.
    """
    status = status_of(home)
    config = load(home / "config.toml").runs[0].config
    _refuse_other_problems(home, config)
    if not status:
        raise UserError(f"{home} has not ended; go on with it by `decentral run ... --resume`")
    if status["status"] != "finished":
        raise UserError(f"{home} has {status['status']}, so there is no model; train it again")
    if not (home / MODEL).is_file():
        raise UserError(f"{home} has no {MODEL}, which its run has left; {remedy_of(home)}")
    made = config.problem.made(config.workers, config.seed)
    module = in_numbers(made.module, torch.device("cpu"), getattr(torch, config.train.dtype))
    try:
        module.load_state_dict(kept_model(home))
    except RuntimeError as error:
        raise UserError(f"{home / MODEL} is of another model; {remedy_of(home)}") from error
    return module.eval(), made.dataset


def _refuse_other_problems(home: Path, config: Run) -> None:
    problem = config.problem
    if isinstance(problem, QuantisedCNN):
        return
    name = name_of(problem, PROBLEMS)
    norms = isinstance(problem, Layered) and of_batch_norm(problem.made(config.workers, config.seed).module)
    why = "batch norms behind sums of floating-point numbers" if norms else "no batch norm"
    raise UserError(
        f"{shown(str(home))} has trained problem.name = {name!r}, which has {why}, so nothing becomes integers; train "
        '"quantised-cnn"'
    )


def _print(network: IntegerNetwork, facts: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if table.columns else "left")
    for layer in sizes(network):
        table.add_row(
            *("–" if value is None else f"{value:,}" if isinstance(value, int) else value for value in layer)
        )
    console = Console()
    console.print(table)
    console.print(
        f"integers give the bits of the network on all {facts['test_images']:,} test images: activations of all layers "
        f"and logits; test accuracy {facts['test_accuracy']:.4f}\n"
        f"{facts['packed_bytes']:,} bytes with all bits packed, {facts['float32_bytes']:,} in float32; written to "
        f"{facts['file']}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
