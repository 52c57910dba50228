"""Memory and time with very many workers: diagonal quadratics on a torus, d = 1,000.

Question: does a study of 65,536 workers fit, and does a round grow with the number of workers and no faster?
Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.timing import Line, at_most, print_lines

D, ROWS = 1_000, 12 * 16_384  # about as many rows of work for every size: short rounds need more for a median


def peak_bytes() -> int:
    """The most memory that this process has held (ru_maxrss would count its parent's too)."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text()).group(1))


def one_size(n: int) -> dict[str, float]:
    """Seconds a round, and peak memory above what the process held before, in arrays of n x d."""
    from decentral.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    import topologies
    from decentral.algorithms import DecentLaM
    from decentral.comm import LocalComm
    from decentral.problems.objective import Place
    from decentral.problems.quadratic import Quadratic
    from decentral.rounds.advance import advance

    comm = LocalComm(topologies.mixing_matrix(topologies.torus(n)))
    assert comm.plan.runs
    warm = torch.zeros(1 << 20).add_(1)  # torch's own start-up memory is not the run's
    before = peak_bytes()
    place = Place(n, range(n), 0, torch.float32, torch.device("cpu"), "full", 0.0, "auto", 1)
    objective = Quadratic(dimension=D, diagonal=True).build(place)
    x = torch.zeros(n, D)
    method = DecentLaM(0.9)
    state = method.init(x, comm)
    times = []
    for t in range(max(7, min(96, ROWS // n))):
        began = time.perf_counter()
        x, state = advance(method, x, state, objective.gradient(x, t), comm, t, 0.01)
        times.append(time.perf_counter() - began)
    peak = peak_bytes() - before
    del warm
    return {"round_s": sorted(times)[len(times) // 2], "arrays": peak / (n * D * 4)}


def measure() -> list[Line]:
    sizes = {}
    for n in (4_096, 65_536):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.many_workers", str(n)],
            capture_output=True,
            text=True,
            check=True,
        )
        sizes[n] = json.loads(done.stdout)
    small, large = sizes[4_096], sizes[65_536]
    return [
        at_most("n = 65,536: peak memory in arrays of n x d", large["arrays"], 1.0, 6.0, "{:.2f}".format),
        at_most(
            "n = 65,536: time a round / 16 x that of n = 4,096", large["round_s"], 16 * small["round_s"], 1.5
        ),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one_size(int(sys.argv[1]))))
    else:
        print_lines("many workers", measure())
