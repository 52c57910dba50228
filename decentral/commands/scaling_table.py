"""What ``decentral bench scaling`` does and prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from decentral.comm.launch import use_threads
from decentral.comm.world import LocalWorld, World
from decentral.commands.calibration.arithmetic import KINDS, ring_matrix, rounds
from decentral.commands.calibration.command import check_ranks, check_seconds
from decentral.commands.calibration.machine import Machine, load_average
from decentral.commands.calibration.progress import progress
from decentral.commands.calibration.sampling import sample, undisturbed
from decentral.commands.scaling import MODEL_BYTES, Row, predicted_s, rank_counts, row
from decentral.errors import UserError
from decentral.network.cluster_file import read_calibrated
from decentral.network.measured import Calibrated
from decentral.report.columns import scaled_unit
from decentral.runs.agreement import all_ranks, on_root, together


def report(path: Path | None, as_json: bool, seconds: float) -> None:
    """Measure on 1, 2, 4, ... ranks, the others asleep; print the table on rank 0.

    Raises UserError before any measurement; on ranks but 0, SystemExit(2) then.
    """
    with all_ranks() as world:
        _report(world, path, as_json, seconds)


def _report(world: World, path: Path | None, as_json: bool, seconds: float) -> None:
    given = on_root(world, lambda: _checked(world, path, seconds))
    use_threads()
    machine = together(world, lambda: Machine.of(world))
    rows: list[Row] = []
    calm: dict[int, float] = {}
    for ranks in rank_counts(world.ranks):
        part: World | None = world.first(ranks) if ranks > 1 else LocalWorld() if world.rank == 0 else None
        if part is not None:
            found_rows, calm[ranks] = _measure(part, given, seconds)
            rows += found_rows
        world.rest()
    if world.rank:
        return
    notes = _sentences(machine, rows, calm, given)
    if as_json:
        answer = {
            "rows": [asdict(one) | {"error_percent": one.error_percent} for one in rows],
            "load_average_before": machine.load_average,
            "load_average_after": load_average(),
            "cores": machine.cores,
            "undisturbed": calm,
            "sentences": notes,
        }
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        _print(rows, notes)


def _checked(world: World, path: Path | None, seconds: float) -> Calibrated | None:
    check_ranks(world.ranks, "bench scaling")
    check_seconds(seconds)
    if path is None:
        return None
    given = read_calibrated(path)
    if given.compute is None:
        raise UserError(
            f"{path} has no [compute], the arithmetic of a round; write a file with mpirun -n {world.ranks} decentral "
            "calibrate --out, or give none"
        )
    if given.cluster.n < world.ranks:
        raise UserError(
            f"{path} has {given.cluster.n} workers and MPI {world.ranks} ranks; launch at most {given.cluster.n}, or "
            "calibrate on as many"
        )
    for ranks in rank_counts(world.ranks):
        for kind in KINDS:
            predicted_s(given, kind, ranks, MODEL_BYTES[0])  # a link may be missing
    return given


def _measure(world: World, given: Calibrated | None, seconds: float) -> tuple[list[Row], float]:
    """Rows of this many ranks, and the share of undisturbed samples; a calibration goes in turns with the rounds."""
    machine = Machine.of(world)
    comm = world.communicator(ring_matrix(world.ranks))
    works = {} if given else machine.works(None)
    keys = [(kind, size) for kind in KINDS for size in MODEL_BYTES]
    works |= {("round", kind, size): rounds(comm, kind, size) for kind, size in keys}
    with progress(world, f"{world.ranks} rank(s)", seconds) as tell:
        found = sample(world, works, seconds, tell, machine.crowded)
    calibrated = given or machine.calibrated(found, None)
    rows = [row(calibrated, world.ranks, kind, size, found["round", kind, size]) for kind, size in keys]
    return rows, undisturbed(found.values())


def _sentences(
    machine: Machine, rows: list[Row], calm: dict[int, float], given: Calibrated | None
) -> list[str]:
    worst = max((one for one in rows if one.ranks > 1), key=lambda one: abs(one.error_percent))
    lines = [
        f"Load average {machine.load_average:g} before and {load_average():g} after (these ranks count in it) on "
        f"{machine.cores} cores; undisturbed samples: "
        + ", ".join(f"{100 * share:.0f} % on {ranks}" for ranks, share in calm.items())
        + " rank(s).",
        f"Largest error on two ranks or more: {worst.error_percent:+.0f} %, {_words(worst)} on {worst.ranks} ranks.",
    ]
    if min(share for ranks, share in calm.items() if ranks <= machine.cores) < 0.9:
        lines.append(
            "The machine was not idle: other programs took cores from the ranks, and nothing here foretells that."
        )
    if crowd := [ranks for ranks in calm if ranks > machine.cores]:
        lines.append(
            f"{', '.join(map(str, crowd))} ranks share {machine.cores} cores: they wait for one another to get a core, "
            "which a latency and a bandwidth do not describe; read these rows as an order of magnitude."
        )
    if given is None:
        lines.append(
            "Predicted from exchanges and arithmetic measured on as many ranks, in turns with the rounds."
        )
    elif given.measured is not None:
        lines.append(
            f"Predicted from a calibration of {given.measured.date} on {given.measured.ranks} ranks, at load average "
            f"{given.measured.load_average:g}."
        )
    return lines


def _words(one: Row) -> str:
    size, unit = scaled_unit(one.model_bytes, "B")
    return f"{_NAMES[one.kind]} of {one.model_bytes / size:g} {unit}"


_NAMES = {"gossip": "ring gossip", "all_reduce": "all-reduce"}


def _print(rows: list[Row], notes: list[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80, highlight=False)
    table = Table(
        padding=(0, 1, 0, 0),
        box=SIMPLE_HEAD,
        title="time a round, one worker a rank, float32, in ms",
        title_justify="left",
    )
    table.add_column("ranks", justify="right")
    table.add_column("round", no_wrap=True)
    for head in ("measured", "quartiles", "predicted", "error"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in rows:
        spread = f"{_ms(one.lower_s)} - {_ms(one.upper_s)}"
        table.add_row(
            str(one.ranks), _words(one), _ms(one.measured_s), spread, _ms(one.predicted_s),
            f"{one.error_percent:+.0f} %",
        )  # fmt: skip
    console.print(table)
    for line in notes:
        console.print(line)


def _ms(seconds: float) -> str:
    """Three digits, and all before the point."""
    ms = 1e3 * seconds
    return f"{ms:.3g}" if ms < 1e3 else f"{ms:.0f}"
