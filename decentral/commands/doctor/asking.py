"""A program in a process of its own, under a time limit: a library that crashes or hangs is then a finding."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from decentral.comm.launch import launched_ranks

_SECONDS = 12.0


class Answer(NamedTuple):
    """What a sub-process said; its code is None if it had to be stopped."""

    code: int | None
    out: str
    complaint: str


def ask(command: Sequence[str]) -> Answer:
    """Run a command to its end, or until the time is over."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=_clean_environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Answer(126, "", str(error))
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        _stop(process)
        return Answer(None, "", f"no answer in {_SECONDS:.0f} s")
    return Answer(process.returncode, out, _complaint(err) or f"exit code {process.returncode}")


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
