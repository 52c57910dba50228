"""``python -m benchmarks.gpu`` (`make gpu`): what must hold on a GPU is checked, then its speed is measured.

One table, one JSON file, at most ``--budget`` seconds; what there was no time for is named. Exit code 1 if a check
failed, 2 without a GPU. ``--pretend``: tiny sizes on the tests' pretended GPU, to see that this works.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_checks import NotRunError, checks
from benchmarks.gpu_runs import gpu
from benchmarks.gpu_speed import Speed, bandwidth, measured, wanted

BUDGET_S, CHECKS_SHARE = 400.0, 0.5
RANKS_S = 90.0
Found = dict[str, Any]


class Budget:
    """Seconds until the end."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """How many are left."""
        return self.end - time.monotonic()


def check_all(pretend: bool, budget: Budget, only: str) -> list[Found]:
    """Each check's name, result ("ok", "failed", "not run"), words and seconds; one that fails does not stop others."""
    found = []
    for words, check in checks(pretend, lambda: max(1.0, min(RANKS_S, budget.left()))):
        if only not in words:
            continue
        began = time.monotonic()
        result, said = _tried(check) if budget.left() > 0 else ("not run", "no time was left")
        found.append({"check": words, "result": result, "said": said, "seconds": time.monotonic() - began})
        _tell(f"{words}: {result}, {said}" if result != "ok" else f"{words}: ok")
    return found


def _tried(check: Callable[[], str]) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "ok", check()
    except NotRunError as error:
        return "not run", str(error)
    except Exception as error:  # whatever it is, the others are still of interest
        return "failed", (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:300]


def measure_all(pretend: bool, budget: Budget) -> list[Found]:
    """Each measurement, as :class:`Speed` has it, or why there is none."""
    rates: dict[str, float] = {}
    last: dict[str, tuple[int, float]] = {}  # of the size before: workers, and seconds of a round
    found = []
    for model, workers, device, compiled in wanted(pretend):
        what: Found = {"model": model, "workers": workers, "device": device, "compiled": compiled}
        kind, began = f"{model} {device} {compiled}", time.monotonic()
        before, round_s = last.get(kind, (workers, 0.0))
        if 5 * round_s * workers / before > budget.left() / 4 or budget.left() <= 0:
            found.append({**what, "said": "no time was left"})
            continue
        try:
            where = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
            if device not in rates:
                rates[device] = bandwidth(where, 1 << (16 if pretend else 28 if device == "cpu" else 30))
            speed: Speed = measured(
                model, workers, where, compiled, rates[device], 0.05 if pretend else 2.0, pretend
            )
            found.append({**asdict(speed), **what, "bytes_s": rates[device]})
            last[kind] = workers, speed.round_s
        except Exception as error:
            found.append(
                {**what, "said": f"{type(error).__name__}: {error}".splitlines()[0][:300], "failed": True}
            )
        gc.collect()
        extra = ", compiled" if compiled else ""
        _tell(f"{model}, {workers} workers, {device}{extra}: {time.monotonic() - began:.1f} s")
    return found


def table_of(speeds: list[Found], name: str) -> Table:
    """One row a measurement on the GPU, with that on the CPU beside."""
    cpu = {(s["model"], s["workers"]): s for s in speeds if s["device"] == "cpu"}
    table = Table(title=f"{name}: rounds a second of DmSGD on a ring, batches of 16", title_justify="left")
    for column in (
        "model",
        "workers",
        "d",
        "compiled",
        "chunk",
        "rounds/s",
        "x floor",
        "MB/worker",
        "CPU rounds/s",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for s in (s for s in speeds if s["device"] == "cuda"):
        head = [s["model"], f"{s['workers']:,}"]
        beside = cpu.get((s["model"], s["workers"]), {})
        last = f"{1 / beside['round_s']:,.1f}" if "round_s" in beside else beside.get("said", "")[:20]
        yes = "yes" if s["compiled"] else "no"
        if "round_s" not in s:
            table.add_row(*head, "", yes, "", s["said"][:20], "", "", last)
            continue
        times, size = s["round_s"] / s["floor_s"], s["worker_bytes"] / 1e6
        cells = (
            f"{s['parameters']:,}",
            yes,
            f"{s['chunk']:,}",
            f"{1 / s['round_s']:,.1f}",
            f"{times:.1f}",
            f"{size:.1f}",
        )
        table.add_row(*head, *cells, last)
    return table


def main() -> int:
    """All of it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--pretend", action="store_true", help="tiny sizes on a pretended GPU")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="default: %(default)s"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="checks whose names have these words")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.json"), help="the JSON file; default: %(default)s"
    )
    args = parser.parse_args()
    if not args.pretend and not torch.cuda.is_available():
        print("decentral: torch sees no GPU; see `decentral doctor`, or try --pretend", file=sys.stderr)
        return 2
    budget = Budget(args.budget)
    with gpu(args.pretend):
        name = torch.cuda.get_device_name(0)
        _tell(f"{name}: checks")
        found = check_all(args.pretend, Budget(args.budget * CHECKS_SHARE), args.only)
        speeds = measure_all(args.pretend, budget)
    facts = {"gpu": name, "torch": torch.__version__, "cuda": torch.version.cuda, "host": platform.node()}
    facts |= {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()}
    args.out.write_text(json.dumps({**facts, "checks": found, "speeds": speeds}, indent=1) + "\n")
    return _report(found, speeds, name, args.out)


def _report(found: list[Found], speeds: list[Found], name: str, out: Path) -> int:
    console = Console(width=100)
    console.print(table_of(speeds, name))
    missing = [
        f"{s['model']}, {s['workers']} workers, {s['device']}: {s['said']}" for s in speeds if "said" in s
    ]
    others: dict[str, list[str]] = {}
    for one in (one for one in found if one["result"] != "ok"):
        others.setdefault(f"{one['result']} ({one['said']})", []).append(one["check"])
    for said, names in others.items():
        console.print(f"{said}: {', '.join(names)}", markup=False)
    for words in missing:
        console.print(f"not measured: {words}", markup=False)
    counts = [sum(one["result"] == result for one in found) for result in ("ok", "failed", "not run")]
    console.print(
        f"checks: {counts[0]} ok, {counts[1]} failed, {counts[2]} not run; all of it in {out}", markup=False
    )
    return int(counts[1] > 0 or any("failed" in s for s in speeds))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
