"""Kill runs of every kind at random moments, resume them until they end, and compare what they left with whole runs.

``python tests/kills.py --count 300 --seed 0`` prints a table of what was killed and exits 1 if anything differs. A case
is an experiment in a folder of its own: it is killed up to three times, each time by SIGKILL, SIGTERM or SIGINT, then
left to end. Processes come from the servers of warm.py, so that a kill costs no import.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import ranks
from command import but_wall_time, experiment, read_csv

from decentral.report.columns import WALL_CLOCK_COLUMNS, WALL_CLOCK_FILES
from decentral.runs.lock import LOCK

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS_A_CASE = 3
_LONG = {"rounds": 3000, "record_every": 40, "checkpoint_every": 150}
_DIGITS = {"name": "mlp", "hidden": [16]}
_DEEP = {"name": "mlp", "hidden": [16, 16, 16]}
_NETWORK = {"latency_s": 1e-3, "compute": {"name": "lognormal", "median_s": 0.01, "sigma": 1.0}}
EXPERIMENTS = {
    "rounds": (1, experiment(problem={"noise": 0.1}, train=_LONG, network=_NETWORK, seeds=[0, 1])),
    "one-peer": (1, experiment(topology={"name": "one-peer-exponential", "workers": 8}, train=_LONG, network=_NETWORK)),
    "compression": (
        1,
        experiment(
            algorithm={"name": "choco"},
            compression={"name": "top-k", "fraction": 0.5},
            train=_LONG | {"rounds": 900},
        ),
    ),
    "faults": (
        1, experiment(faults={"loss": 0.1, "late": 0.2}, train=_LONG | {"rounds": 900}, network=_NETWORK)
    ),
    "network": (1, experiment(problem=_DIGITS, train={"rounds": 150, "record_every": 10, "checkpoint_every": 20,
                                                      "batch_size": 8, "dtype": "float32"})),
    "asynchronous": (
        1, experiment(problem=_DIGITS, algorithm={"name": "ad-psgd"}, network=_NETWORK,
                      train={"rounds": 60, "record_every": 5, "batch_size": 8}),
    ),
    "stages": (1, {
        "name": "stages", "problem": _DEEP, "program": {"name": "backprop"}, "stages": {"count": 2},
        "train": {"lr": 0.1, "rounds": 300, "record_every": 30, "batch_size": 8},
    }),
    "nodes": (1, {
        "name": "nodes",
        "problem": {"name": "list-reduction", "train": 150, "validation": 50},
        "dataflow": {"workers": 2}, "train": {"lr": 0.1, "rounds": 3},
    }),
    "rounds-on-two": (2, experiment(problem={"noise": 0.1}, train=_LONG | {"rounds": 1500})),
    "compression-on-two": (2, experiment(
        algorithm={"name": "choco"}, compression={"name": "top-k", "fraction": 0.5}, train=_LONG | {"rounds": 600})),
    "stages-on-two": (2, {
        "name": "stages", "problem": _DEEP, "program": {"name": "backprop"}, "stages": {"count": 2},
        "train": {"lr": 0.1, "rounds": 200, "record_every": 20, "batch_size": 8},
    }),
}  # fmt: skip
"""Name -> (ranks, table)."""


def begin(number, file, out):
    """Begin or resume an experiment on so many ranks."""
    undrawn = "import decentral.runs.run as c\nfrom decentral.cli import main\nc._show = lambda folder: None\nmain()"
    command = [
        *ranks.servers().command(number),
        "-c",
        undrawn,
        "run",
        str(file),
        "--out",
        str(out),
        "--resume",
    ]
    if number > 1:
        command = [*ranks.mpirun(), "-n", str(number), *command]
    return subprocess.Popen(
        command, env=ranks.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def killed(process, out, after_s, number):
    """Send a signal to the process that has the folder ``out``, so long after it has taken it; what it said."""
    pid = owner(out, process)
    time.sleep(after_s)
    with suppress(ProcessLookupError, TypeError):
        os.kill(pid, number)
    return process.communicate(timeout=120)[1]


def owner(out, process):
    """The process that has taken the folder ``out``; None if ``process`` has ended before."""
    deadline_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError, ValueError):
            pid = json.loads((out / LOCK).read_text())["pid"]
            os.kill(pid, 0)  # else that of one that was killed before
            return pid
        time.sleep(0.002)
    return None


def check_said(said, code, number, ranks_):
    """What is wrong with how a killed run ended, "" if nothing is."""
    if "Traceback" in said:
        return f"traceback: {said}"
    if number == signal.SIGKILL or code == 0:
        return ""
    if "--resume" not in said:
        return f"no line that says how to go on: {said}"
    if ranks_ == 1 and code != 128 + number:
        return f"exit code {code}"
    return ""


def differences(one, other, ranks_):
    """The files, relative, in which two results folders differ beyond the wall clock."""
    ignored = {*WALL_CLOCK_FILES, *(["trace.json"] if ranks_ > 1 else [])}
    names = [{p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} for folder in (one, other)]
    found = [f"{name} is in one only" for name in names[0] ^ names[1]]
    for name in names[0] & names[1]:
        a, b = one / name, other / name
        if name.suffix == ".csv" and name.name != "staleness.csv":
            same = but_wall_time(read_csv(a)) == but_wall_time(read_csv(b))
        elif name.name == "status.json":
            same = _final(a) == _final(b)
        else:
            same = name.name in ignored or a.read_bytes() == b.read_bytes()
        if not same:
            found.append(str(name))
    return found


def _final(path):
    final = json.loads(path.read_text())["final"]
    return {k: v for k, v in final.items() if k not in WALL_CLOCK_COLUMNS}


def case(name, home, draw, kills):
    """One experiment, killed so many times; (signals that hit, those that came too late, what is wrong)."""
    number, table = EXPERIMENTS[name]
    file, whole, out = home / f"{name}.toml", home / f"{name}-whole", home / f"{name}-killed"
    if not whole.exists():
        write_table(file, table)
        process = begin(number, file, whole)
        owner(whole, process)
        began = time.monotonic()
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
        (home / f"{name}.seconds").write_text(str(time.monotonic() - began))
    lasts = float((home / f"{name}.seconds").read_text())
    shutil.rmtree(out, ignore_errors=True)
    hit, late, wrong = Counter(), 0, []
    for _ in range(kills):
        signal_, process = draw.choice(SIGNALS), begin(number, file, out)
        said = killed(process, out, draw.uniform(0, 0.8 * lasts), signal_)
        if process.returncode == 0 or all_ended(out, whole):
            late += 1
            break
        hit[signal_.name] += 1
        if trouble := check_said(said, process.returncode, signal_, number):
            wrong.append(f"{name}, {signal_.name}: {trouble}")
    process = begin(number, file, out)
    said = process.communicate(timeout=300)[1]
    if process.returncode != 0:
        return hit, late, [*wrong, f"{name}: resumed to {process.returncode}: {said}"]
    return hit, late, wrong + [f"{name}: {text}" for text in differences(whole, out, number)]


def all_ended(out, whole):
    """Whether there was nothing left to do but to end."""
    of_whole = {path.relative_to(whole) for path in whole.rglob("status.json")}
    return (out / "results.csv").exists() and all((out / path).exists() for path in of_whole)


def write_table(file, table):
    """The experiment's file."""
    import tomli_w

    file.write_text(tomli_w.dumps(table), encoding="utf-8")


def main(count, seed, only=None):
    """That many kills; 1 if anything went wrong."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so would runs
    draw, total, wrong = random.Random(seed), Counter(), []
    rows = {name: Counter() for name in only or EXPERIMENTS}
    with tempfile.TemporaryDirectory(prefix="kills") as home:
        while total.total() < count:
            for name in rows:
                if total.total() >= count:
                    break
                hit, late, found = case(name, Path(home), draw, min(KILLS_A_CASE, count - total.total()))
                total += hit
                rows[name] += hit + Counter({"runs": 1, "ended first": late, "wrong": len(found)})
                wrong += found
                for text in found:
                    print(text, flush=True)
    heads = ("runs", *(s.name for s in SIGNALS), "ended first", "wrong")
    print(f"{'':20}" + "".join(f"{head:>12}" for head in heads))
    for name, row in {**rows, "all": sum(rows.values(), Counter())}.items():
        print(f"{name:20}" + "".join(f"{row[head]:12}" for head in heads))
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=EXPERIMENTS)
    given = parser.parse_args()
    sys.exit(main(given.count, given.seed, given.only))
