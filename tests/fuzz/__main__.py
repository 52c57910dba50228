"""``python -m tests.fuzz --cases toml=5000,graphs=2000,data=2000,kept=500 --seed 0``: counts, and each fault's case."""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import forks
from .cases import KINDS, try_one


def main():
    """Try them all; the exit code tells whether all answers were right."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", default=",".join(f"{kind}=100" for kind in KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first case, to go on or to repeat one"
    )
    parser.add_argument(
        "--keep", type=Path, default=Path("results/fuzz"), help="where cases with a fault are kept"
    )
    asked = parser.parse_args()
    forks.import_everything()
    began, faults = time.monotonic(), 0
    for part in asked.cases.split(","):
        kind, _, count = part.partition("=")
        counts = Counter()
        for number in range(asked.first, asked.first + int(count or 100)):
            with tempfile.TemporaryDirectory() as folder:
                case, answer, fault = try_one(kind, asked.seed, number, Path(folder))
            counts["fault" if fault else "running" if answer.code is None else f"exit {answer.code}"] += 1
            if fault:
                faults += 1
                print(f"{kind} {number}: {fault}", flush=True)
                _keep(asked.keep / f"{kind}-{asked.seed}-{number}", case, answer, fault)
            if sum(counts.values()) % 250 == 0:
                print(f"  {sum(counts.values())} of {count}, {time.monotonic() - began:.0f} s", flush=True)
        print(f"{kind}: {dict(sorted(counts.items()))}", flush=True)
    print(
        f"{faults} faults, {time.monotonic() - began:.0f} s" + (f"; kept in {asked.keep}" if faults else "")
    )
    return 1 if faults else 0


def _keep(folder, case, answer, fault):
    case.write(folder)
    words = {
        "command": ["decentral", *case.arguments],
        "fault": fault,
        "seconds": answer.seconds,
        "code": answer.code,
    }
    (folder / "fault.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    (folder / "stderr.txt").write_text(answer.err[:100_000], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
