"""The folder that an experiment is to be written to: whether it may be, and what has ended in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentral.disk import PART
from decentral.errors import UserError
from decentral.report.stored import STATUS
from decentral.runs import lock
from decentral.runs.experiment import Experiment
from decentral.runs.folder import RunFolder


def ended_runs(experiment: Experiment, folder: Path, resume: bool) -> dict[str, dict[str, Any]]:
    """The runs of this experiment that have ended in ``folder``: id -> status. Refuses one of something else."""
    if _place_of(folder) != folder or all(
        path.suffix == PART or path.name == lock.LOCK for path in folder.iterdir()
    ):
        return {}
    _refuse_folders(folder, ("experiment.toml", "results.csv", "command.txt"))
    if not (folder / "experiment.toml").exists():
        raise UserError(
            f"--out {folder} holds other files and no experiment; choose another folder, or empty it"
        )
    begun = {path.name for path in (folder / "runs").glob("*") if path.is_dir()}
    planned = {r.id for r in experiment.runs}
    if begun - planned:
        raise UserError(
            f"--out {folder} already holds another experiment (its run {min(begun - planned)} is none of "
            "this one's); choose another folder, or remove that one"
        )
    if not resume:
        raise UserError(
            f"--out {folder} already holds this experiment ({_ended_in(folder)} of {len(planned)} runs have ended); "
            "add --resume to go on with it, or choose another folder"
        )
    done = {}
    for run in (RunFolder(folder / "runs" / name) for name in sorted(begun)):
        if (status := run.status()) is not None:
            done[run.path.name] = status
        else:
            _refuse_folders(run.path, ("config.toml", "environment.json", "metrics.csv"))
            run.checkpointed()
    return done


def _place_of(folder: Path) -> Path:
    """The folder itself, or the first above it that there is; where nothing can be written, UserError."""
    absolute = folder.absolute()
    for path in (absolute, *absolute.parents):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"--out {folder}: {path} is a link to nowhere; remove it, or choose another folder"
            )
    there = next(path for path in (folder, *absolute.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: no permission to write in {there}; choose another folder")
    return there


def _refuse_folders(home: Path, files: Sequence[str]) -> None:
    for path in (home / name for name in files):
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, and a file belongs there; remove it, or choose another --out"
            )


def _ended_in(folder: Path) -> int:
    return len(list((folder / "runs").glob(f"*/{STATUS}")))
