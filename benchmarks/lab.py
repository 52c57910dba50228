"""A lab: training's measured seconds beside the simulated ones, on nodes with cards of 10, 100 and 1,000 Mb/s.

Question: does the clock foretell what real ranks over TCP take, and where are the cores of this machine the limit?
The same training in a lab without a limit takes what its cores need for computing and for moving bytes: their share.
Needs Linux and the right to make namespaces (`decentral doctor`). It takes some ten minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.lab_cells import WORKERS, cells, stages
from benchmarks.timing import Line

RATES = ("inf", "10", "100", "1000")
"""Mb/s of the cards; the first is without a limit."""
CLOSE, MOST_OF_CORES = 0.15, 0.3
"""How near the clock should be, where no more than that share of the time is the cores'."""
OWN_CARD = 'export OMPI_MCA_btl_tcp_if_include=eth$OMPI_COMM_WORLD_LOCAL_RANK; exec "$@"'
HOSTS = """workers = {workers}
ports = "one"
links = {{ latency_s = 0.0, bandwidth_bytes_s = "{rate} Mb/s" }}
hosts = {{ workers = 2, latency_s = 0.0, bandwidth_bytes_s = inf }}
"""


def in_lab(asked: list[str], *what: str) -> list[dict[str, Any]]:
    """What the ranks of a lab print, a JSON object a line. Raises RuntimeError with what is complained of."""
    ranks = [
        "mpirun",
        "-n",
        str(WORKERS),
        "sh",
        "-c",
        OWN_CARD,
        "sh",
        sys.executable,
        "-m",
        "benchmarks.lab",
        *what,
    ]
    command = [sys.executable, "-m", "decentral", "lab", "exec", *asked, "--", *ranks]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | more, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def at(rate: str) -> list[dict[str, Any]]:
    """All cells at that rate."""
    asked = ["--nodes", str(WORKERS)] + ([] if rate == "inf" else ["--bandwidth", f"{rate} Mb/s"])
    found = in_lab(asked, "cells", rate) + in_lab(asked, "stages", rate)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hosts.toml"
        file.write_text(
            HOSTS.format(workers=WORKERS, rate="1e6" if rate == "inf" else rate), encoding="utf-8"
        )
        return found + in_lab(["--hosts", str(file)], "cells", rate, str(file))


def measure() -> list[Line]:
    try:
        in_lab(["--nodes", "2"], "nothing")
    except RuntimeError as error:
        print(f"lab: left out, there can be none here: {str(error).splitlines()[-1]}", file=sys.stderr)
        return []
    alone = {key(one): one["wall_s"] / one["rounds"] for one in at(RATES[0])}
    return [line(rate, one, alone[key(one)]) for rate in RATES[1:] for one in at(rate)]


def key(one: dict[str, Any]) -> tuple[str, str]:
    """Of the same training at other rates."""
    return one["cell"], one["size"]


def line(rate: str, one: dict[str, Any], alone_s: float) -> Line:
    """``alone_s``: of a round without a limit of the cards."""
    wall_s, simulated_s = one["wall_s"], one["simulated_s"]
    share = min(1.0, one["rounds"] * alone_s / wall_s)
    what = f"{rate} Mb/s, {one['size']}, {one['cell']} ({one['rounds']} rounds; cores {share:.0%})"
    limited = share > MOST_OF_CORES
    ratio = wall_s / simulated_s
    target = "cores are the limit" if limited else f"within {CLOSE:.0%}"
    return Line(
        what, f"{wall_s:.2f} s", f"{simulated_s:.2f} s", ratio, target, limited or abs(ratio - 1) <= CLOSE
    )


if __name__ == "__main__":
    from decentral.comm.world import find_world

    rank = find_world().rank  # which starts MPI as decentral does
    for one in {"cells": cells, "stages": stages, "nothing": lambda: ()}[sys.argv[1]](*sys.argv[2:]):
        if rank == 0:
            print(json.dumps(one), flush=True)
