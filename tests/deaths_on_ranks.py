"""Ranks that die in many ways, at many moments, in all kinds of run: none may hang, and a line must name the rank.

    python tests/deaths_on_ranks.py --count 60 --seed 0

prints a table: what died and how, the exit code, the seconds from the death to the end of the job, and what was said.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from command import write
from ranks import run_ranks

SECONDS = 10.0
WAYS = {
    "sys.exit(0)": "sys.exit(0)",
    "sys.exit('text')": "sys.exit('text')",
    "os._exit(0)": "os._exit(0)",
    "os._exit(3)": "os._exit(3)",
    "SIGKILL": "os.kill(os.getpid(), 9)",
    "SIGTERM": "os.kill(os.getpid(), 15)",
    "SIGSEGV": "os.kill(os.getpid(), 11)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "MemoryError": "raise MemoryError",
    "RecursionError": "recurse()",
    "OverflowError": "raise OverflowError('too large')",
    "UserError": "raise UserError('a mistake')",
    "ZeroDivisionError": "1 / 0",
}
"""Name -> the statement that a rank comes to."""

CALLS = {"averages alone": "with optimizer.averaged(): pass", "leaves out steps": "steps = 0"}
"""What a rank of a script may do otherwise than the others."""

MOMENTS = {
    "rounds": ("prepare", "first", "later"),
    "asynchronous": ("prepare", "first", "later"),
    "stages": ("prepare", "first", "later"),
    "nodes": ("prepare", "first", "later"),
    "script": ("first", "later"),
}
MLP = {"name": "mlp", "data": "digits", "hidden": [8]}
KINDS = {
    "rounds": {"problem": MLP, "train": {"lr": 0.1, "rounds": 10_000, "dtype": "float32"}},
    "asynchronous": {
        "problem": MLP, "algorithm": {"name": "ad-psgd"}, "train": {"lr": 0.1, "rounds": 10_000, "dtype": "float32"},
    },
    "stages": {
        "problem": {**MLP, "hidden": [8, 8]}, "topology": None, "algorithm": None, "stages": {"count": 2},
        "program": {"name": "backprop"}, "train": {"lr": 0.1, "rounds": 10_000, "dtype": "float32"},
    },
    "nodes": {
        "problem": MLP, "topology": None, "algorithm": None, "dataflow": {"workers": 2},
        "train": {"lr": 0.1, "rounds": 1_000, "dtype": "float32"},
    },
}  # fmt: skip

DEATH = """
import os, pathlib, sys, time
from decentral.errors import UserError
folder, rank, calls = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def recurse():
    return recurse()
def come(seen=[0]):
    seen[0] += 1
    if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK")) == rank and seen[0] == calls:
        (folder / "died").write_text(str(time.time()))
        WAY
"""
OTHER = """
def other():
    if comm.rank == int(rank) and optimizer.t == calls:
        (folder / "died").write_text(str(time.time()))
        return True
"""
RUN = """
import decentral.cli, decentral.runs.kind, decentral.runs.rounds.training, decentral.runtime.ranks as ranks
def before(owner, name):
    made = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: (come(), made(*args, **more))[1])
if PREPARES:
    before(decentral.runs.kind.Run, "prepare")
else:
    before(decentral.runs.rounds.training.Training, "_round")
    before(ranks, "do_work")  # of stages, nodes and asynchronous workers
sys.argv = ["decentral", "run", str(folder / "x.toml"), "--out", str(folder / "out")]
decentral.cli.main()
"""
SCRIPT = """
import torch, decentral as dc
comm = dc.join("ring")
model = torch.nn.Linear(4, 3)
optimizer = dc.Decentralized(torch.optim.SGD(model.parameters(), lr=0.1), method=dc.algorithms.DSGD(), comm=comm)
steps = 10_000
while optimizer.t < steps:
    optimizer.zero_grad()
    model(torch.randn(3, 4)).square().sum().backward()
    HERE
    optimizer.step()
"""


class Case(NamedTuple):
    """Rank ``rank`` of ``ranks`` dies in this way."""

    kind: str
    moment: str
    way: str
    rank: int
    ranks: int = 2


class Ended(NamedTuple):
    """``seconds`` from the death to the end of the job; ``said``: the lines that begin with "decentral: "."""

    code: int
    seconds: float
    said: tuple[str, ...]
    output: str

    def is_good(self, case):
        """Whether all ranks have ended soon, with a code and one line that names the one that did first."""
        names = f"rank {case.rank}\\b" if case.way not in CALLS else "rank 0 comes|has ended after"
        alone = len(self.said) == 1 and re.search(names, self.said[0])
        return self.code != 0 and self.seconds < SECONDS and bool(alone)


def die(case, folder, start=run_ranks):
    """Run ``case`` in the empty ``folder``; how it ended. Raises TimeoutError where it hangs. ``start``: the ranks."""
    calls = {"prepare": 1, "first": 1, "later": 40}[case.moment]
    death = DEATH.replace("WAY", WAYS.get(case.way, "pass"))
    if case.kind == "script":
        here = "come()" if case.way in WAYS else f"if other():\n        {CALLS[case.way]}"
        code = death + OTHER + SCRIPT.replace("HERE", here)
    else:
        write(folder / "x.toml", **{key: value for key, value in KINDS[case.kind].items() if value})
        _without(folder / "x.toml", [key for key, value in KINDS[case.kind].items() if value is None])
        code = death + RUN.replace("PREPARES", str(case.moment == "prepare"))
    done = start(case.ranks, "-c", code, folder, case.rank, calls, timeout=120)
    died = float((folder / "died").read_text())
    said = tuple(line.strip() for line in done.stderr.splitlines() if line.strip().startswith("decentral: "))
    return Ended(done.returncode, time.time() - died, said, done.stdout + done.stderr)


def _without(path, sections):
    import tomllib

    import tomli_w

    table = tomllib.loads(path.read_text())
    path.write_text(tomli_w.dumps({key: value for key, value in table.items() if key not in sections}))


def cases(count, seed):
    """So many different cases, in an order that the seed says; kinds take turns."""
    draw, found = random.Random(seed), {}
    for number in range(20 * count):
        kind = list(MOMENTS)[number % len(MOMENTS)]
        ways = [*WAYS, *(CALLS if kind == "script" else ())]
        ranks = 2 if kind in ("stages", "nodes") else draw.choice([2, 2, 4])
        case = Case(kind, draw.choice(MOMENTS[kind]), draw.choice(ways), draw.randrange(ranks), ranks)
        found[case] = None
    return list(found)[:count]


def main():
    """Print the table; exit code 1 if a case hung, or said nothing of the rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    bad = 0
    for number, case in enumerate(cases(asked.count, asked.seed), 1):
        with tempfile.TemporaryDirectory() as folder:
            try:
                ended = die(case, Path(folder))
                good = ended.is_good(case)
                text = f"{ended.code:4} {ended.seconds:5.1f} s  {' | '.join(ended.said)[:150]}"
            except (TimeoutError, OSError) as error:
                good, text = False, f"{type(error).__name__}: {str(error)[-300:]}"
        bad += not good
        what = f"{case.kind:13}{case.moment:8}{case.way:18} rank {case.rank} of {case.ranks}"
        if not good and isinstance(text, str) and "Error" not in text:
            text += f"\n{ended.output[-1500:]}"
        print(f"{number:3} {'ok  ' if good else 'BAD '}{what} {text}", flush=True)
    print(f"{bad} of {asked.count} bad")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
