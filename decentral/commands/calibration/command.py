"""``decentral calibrate``: refuse, measure, print, write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from decentral.comm.launch import use_threads
from decentral.comm.world import World
from decentral.commands.calibration.machine import Machine
from decentral.commands.calibration.progress import progress
from decentral.commands.calibration.sampling import sample
from decentral.commands.calibration.written import table_of, write
from decentral.errors import UserError
from decentral.network.cluster import Link
from decentral.network.measured import Calibrated, Measured
from decentral.runs.agreement import all_ranks, on_root, together
from decentral.runs.experiment import expand, load
from decentral.runs.rounds.config import RoundsRun


def calibrate(file: Path | None, out: Path | None, as_json: bool, seconds: float) -> None:
    """Measure this machine on all ranks of the job; print it on rank 0, and write it to ``out``.

    Raises UserError before any measurement; on ranks but 0, SystemExit(2) then.
    """
    with all_ranks() as world:
        _calibrate(world, file, out, as_json, seconds)


def _calibrate(world: World, file: Path | None, out: Path | None, as_json: bool, seconds: float) -> None:
    config = on_root(world, lambda: _checked(world, file, out, seconds))
    use_threads()
    machine = together(world, lambda: Machine.of(world))
    works = together(world, lambda: machine.works(config))
    with progress(world, f"calibrating {world.ranks} ranks", seconds) as tell:
        found = sample(world, works, seconds, tell, machine.crowded)
    if world.rank:
        return
    calibrated = machine.calibrated(found, config, str(file) if file else "mlp on digits")
    if out is not None:
        write(out, calibrated)
    if as_json:
        print(json.dumps(_finite(table_of(calibrated)), indent=2, allow_nan=False))
    else:
        print_table(calibrated, out)


def _finite(value: Any) -> Any:
    """JSON has no number for a bandwidth without bound: null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if value == float("inf") else value


def check_ranks(ranks: int, command: str) -> None:
    """Refuse one process: it has no link."""
    if ranks < 2:
        raise UserError(
            f"{command} measures links between ranks, and this is 1 process; start two or more: "
            f"mpirun -n 2 decentral {command}"
        )


def check_seconds(seconds: float) -> None:
    """Refuse a time that is none."""
    if not 0 < seconds < float("inf"):
        raise UserError(f"--seconds {seconds:g} must be positive and finite")


def _checked(world: World, file: Path | None, out: Path | None, seconds: float) -> RoundsRun:
    check_ranks(world.ranks, "calibrate")
    check_seconds(seconds)
    if out is not None:
        if out.suffix != ".toml":
            raise UserError(f"--out {out} should be a cluster file; end it in .toml")
        there = next(path for path in (out.parent, *out.absolute().parents) if path.exists())
        if out.is_dir() or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--out {out} cannot be written; choose another path")
    if file is None:
        return _config(expand(_DEFAULT | {"topology": {"name": "ring", "workers": max(3, world.ranks)}}))
    config = _config(load(file))
    config.prepare()
    return config


_DEFAULT = {
    "problem": {"name": "mlp", "data": "digits"},
    "algorithm": {"name": "dsgd"},
    "train": {"lr": 0.1, "rounds": 1},
}


def _config(experiment: Any) -> RoundsRun:
    config = experiment.runs[0].config
    if not isinstance(config, RoundsRun):
        raise UserError(
            "calibrate takes the gradient of workers that train in rounds, and this file has stages or nodes; give "
            "another file, or none: an mlp on digits"
        )
    return config


def print_table(calibrated: Calibrated, out: Path | None) -> None:
    """Links and arithmetic with their quartiles, in 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from decentral.report.columns import scaled_unit

    measured, compute = calibrated.measured, calibrated.compute
    assert measured is not None
    assert compute is not None
    console = Console(width=80, highlight=False)
    title = f"{measured.ranks} ranks on {len(measured.hosts)} host(s) with {measured.cores} cores"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("seconds of", no_wrap=True)
    for head in ("bytes", "mean us", "quartiles us"):
        table.add_column(head, justify="right", no_wrap=True)
    named = {"inside": "exchange in a host", "between": "exchange between hosts"}
    curves = [(words, measured.message_bytes, where, measured) for where, words in named.items()]
    curves += [
        (f"{words}, {kind}", getattr(measured, f"{kind}_bytes"), f"{where}_{kind}", measured)
        for where, words in named.items()
        for kind in ("posted", "copied")
    ]
    named = {"gossip": "DSGD without messages", "all_reduce": "PmSGD without messages"}
    curves += [(words, compute.round_bytes, kind, compute) for kind, words in named.items()]  # type: ignore[misc]
    for words, sizes, key, of in curves:
        for k, mean in enumerate(getattr(of, f"{key}_s")):
            size, unit = scaled_unit(sizes[k], "B")
            spread = tuple(getattr(measured, f"{key}_{end}_s")[k] for end in ("lower", "upper"))
            table.add_row(words, f"{sizes[k] / size:.4g} {unit}", _us(mean), " - ".join(map(_us, spread)))
    spread = (measured.sample_lower_s, measured.sample_upper_s)
    table.add_row("gradient of a sample", "", _us(compute.sample_s), " - ".join(map(_us, spread)))
    console.print(table)
    for line in [*sentences(calibrated), *([f"Written to {out}."] if out else [])]:
        console.print(line, soft_wrap=False)


def sentences(calibrated: Calibrated) -> list[str]:
    """The links as two numbers each, the gradient, and how far the machine was disturbed."""
    measured, compute, cluster = calibrated.measured, calibrated.compute, calibrated.cluster
    assert measured is not None
    assert compute is not None
    lines = [
        f"Nearest latency and bandwidth {where}: {_us(link.latency_s)} us, {_rate(link)}."
        for where, link in (("inside hosts", cluster.inside), ("between hosts", cluster.between))
        if link is not None
    ]
    lines += [
        f"The time of exchanges {where} does not grow with their size: other programs hid it. Measure again."
        for where, link in (("inside hosts", cluster.inside), ("between hosts", cluster.between))
        if link is not None and link.bandwidth_bytes_s == float("inf")
    ]
    gradient_s = compute.sample_s * compute.batch_size
    lines.append(
        f"Gradient of {measured.problem}: {_us(compute.sample_s)} us a sample in batches of {compute.batch_size}; for "
        f"`decentral advise`: --compute-s {gradient_s:.3g}."
    )
    return [*lines, *disturbance(measured)]


def disturbance(measured: Measured) -> list[str]:
    """The load average, and plain words where the machine was not idle or ranks had to share cores."""
    lines = [
        f"Load average before: {measured.load_average:g} on {measured.cores} cores; "
        f"{100 * measured.undisturbed:.0f} % of the samples were undisturbed."
    ]
    if measured.ranks > measured.cores:
        lines.append(
            f"{measured.ranks} ranks share {measured.cores} cores: these times are of that crowd, not of a machine "
            "with a core a rank."
        )
    elif measured.undisturbed < 0.9:
        lines.append(
            "The machine was not idle: other programs took cores from the ranks. Measure again when it is."
        )
    return lines


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.4g}" if seconds < 1 else f"{1e6 * seconds:.0f}"


def _rate(link: Link) -> str:
    return f"{link.bandwidth_bytes_s / 1e9:.3g} GB/s"
