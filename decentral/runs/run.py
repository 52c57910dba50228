"""``decentral run``: every mistake is found first; then the runs, one after the other; then table and figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from decentral.comm.launch import use_threads
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.runs.agreement import all_ranks, on_root, together
from decentral.runs.digests import Digests, Leaf, refuse_different
from decentral.runs.event_files import EventFiles, need_tensorboard
from decentral.runs.experiment import Experiment, PlannedRun, load
from decentral.runs.folder import PART, RunFolder, write_results, write_whole
from decentral.runs.kinds import training_of
from decentral.runs.progress import Progress
from decentral.runs.provenance import command_line, environment
from decentral.runs.reading import resolved
from decentral.runtime.requests import DeadlockError, NonFiniteError

_FINISHED, _USER, _DIVERGED, _INTERRUPTED = 0, 2, 3, 130


def run(
    file: Path, overrides: Sequence[str], out: Path | None, resume: bool, tensorboard: bool = False
) -> int:
    """Run an experiment file; the exit code: 0, or 3 if a run diverged. Mistakes: 2, and nothing written.

    ``tensorboard``: records are written as TensorBoard's event files too.
    """
    with all_ranks() as world:
        experiment, folder, done = prepare(world, file, overrides, out, resume, tensorboard)
        try:
            return _run_all(world, experiment, folder, done, tensorboard)
        except KeyboardInterrupt:
            return _end(
                world,
                f"interrupted; the same command with --resume goes on from here (in {folder})",
                _INTERRUPTED,
            )
        except UserError as error:
            return _end(world, str(error), _USER)
        except NonFiniteError as error:  # of a stage on one of several ranks: the others cannot go on
            return _end(world, f"diverged: {error}", _DIVERGED)
        except DeadlockError as error:
            return _end(world, f"no stage can go on: {error}", 1)


def _end(world: World, text: str, code: int) -> int:
    """End this process, or all ranks, with a line on standard error."""
    if world.ranks > 1:
        world.abort(text, code)
    print(f"decentral: {text}", file=sys.stderr)
    return code


def prepare(
    world: World,
    file: Path,
    overrides: Sequence[str],
    out: Path | None,
    resume: bool,
    tensorboard: bool = False,
) -> tuple[Experiment, Path, dict[str, dict[str, Any]]]:
    """The experiment, its folder, the runs that have ended; all checks, before anything is written.

    Rank 0 reads the file for all; each rank looks for its device and its data.
    If any finds a mistake, rank 0 raises UserError and the others end.
    """
    planned = on_root(world, lambda: _plan(world, file, overrides, out, resume, tensorboard))
    refuse_different(world, together(world, lambda: _check_rank(world, planned[0], planned[2])))
    return planned


def _plan(
    world: World, file: Path, overrides: Sequence[str], out: Path | None, resume: bool, tensorboard: bool
) -> tuple[Experiment, Path, dict[str, dict[str, Any]]]:
    """Rank 0's part: the experiment, its folder and the runs that have ended."""
    if tensorboard:
        need_tensorboard()
    experiment = load(file, overrides)
    folder = out or Path("results") / experiment.name
    done = _check_folder(experiment, folder, resume)
    configs = [planned.config for planned in experiment.runs if planned.id not in done]
    for config in {repr(config): config for config in configs}.values():
        training_of(config).check(config, world)
    return experiment, folder, done


def _check_rank(world: World, experiment: Experiment, done: dict[str, Any]) -> dict[str, Leaf]:
    """Each rank's part: its device, its data and models, and among several ranks what tells these apart."""
    from decentral.runs.place import device_of

    checked: set[str] = set()
    digests = Digests()
    for planned in experiment.runs:
        config = planned.config
        if planned.id in done:
            continue
        device_of(config.train.device, world.local_rank)
        if (data := repr((config.problem, config.workers, config.seed))) not in checked:
            prepared = config.prepare()
            if world.ranks > 1:
                digests.add(planned.id, prepared)
        if world.ranks > 1:
            digests.add_code(planned.id, config)
        checked.add(data)
    return digests.leaves


def _check_folder(experiment: Experiment, folder: Path, resume: bool) -> dict[str, dict[str, Any]]:
    """The runs of this experiment that have ended in ``folder``: id -> status. Refuses one of something else."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {folder}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: no permission to write in {there}; choose another folder")
    if there != folder or all(path.suffix == PART for path in folder.iterdir()):
        return {}
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
    done = {name: status for name in begun if (status := RunFolder(folder / "runs" / name).status())}
    if not resume:
        raise UserError(
            f"--out {folder} already holds this experiment ({len(done)} of {len(planned)} runs have ended); "
            "add --resume to go on with it, or choose another folder"
        )
    return done


def _run_all(
    world: World, experiment: Experiment, folder: Path, done: dict[str, dict[str, Any]], tensorboard: bool
) -> int:
    if world.ranks > 1:
        use_threads()
    root = world.rank == 0
    if root:
        write_whole(folder / "experiment.toml", tomli_w.dumps(dict(experiment.table)))
        if not (folder / "command.txt").exists():
            write_whole(folder / "command.txt", command_line() + "\n")
    ended = dict(done)
    with Progress(experiment, done, show=root) as progress:
        for planned in experiment.runs:
            if planned.id in done:
                continue
            progress.begin(planned)
            events = None
            if root and tensorboard:
                facts = {**planned.swept, "seed": planned.config.seed}
                events = EventFiles(folder / "tensorboard" / planned.id, facts)
            ended[planned.id] = _one(
                world, planned, RunFolder(folder / "runs" / planned.id, events), progress
            )
            progress.end(ended[planned.id]["status"])
            if root:
                write_results(folder / "results.csv", _results(experiment, ended))
    if root:
        write_results(folder / "results.csv", _results(experiment, ended))
        _show(folder)
    diverged = [name for name, status in ended.items() if status["status"] == "diverged"]
    if diverged and root:
        for name in diverged:
            progress.say(f"diverged: {name}: {ended[name]['message']}", style="yellow")
    return _DIVERGED if diverged else _FINISHED


def _one(world: World, planned: PlannedRun, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Run or resume one run; its status."""
    from decentral.runs.journal import Journal
    from decentral.runs.place import Here, device_of
    from decentral.runs.rounds import checkpoint

    config, root = planned.config, world.rank == 0
    device = device_of(config.train.device, world.local_rank)
    began = world.agree(folder.checkpoint.exists() if root else False)[0]
    kept = checkpoint.read(folder.checkpoint) if began else None

    def begun(facts: Mapping[str, Any], notes: Sequence[str]) -> None:
        if root:
            facts = {**facts, "device": str(device), "notes": list(notes)}
            folder.begin(resolved(config), environment(world.ranks, **facts))
            for note in notes:
                progress.say(f"{planned.id}: {note}", style="dim")

    journal = Journal(folder if root else None, progress.update, begun)
    outcome = training_of(config).execute(config, Here(world, device), journal, kept)
    status = {"status": outcome.status, "message": outcome.message, "final": outcome.final}
    if root:
        folder.end(status)
    return status


def _results(experiment: Experiment, ended: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for planned in experiment.runs:
        if planned.id in ended:
            status = ended[planned.id]
            head = {"run": planned.id, "status": status["status"], "message": status["message"]}
            rows.append({**head, **planned.swept, "seed": planned.config.seed, **status["final"]})
    return rows


def _show(folder: Path) -> None:
    """The closing table, the figures and the report, all from the files."""
    from rich.console import Console

    from decentral.algorithms.titles import titles
    from decentral.report.html import write_report
    from decentral.report.plots import draw_experiment
    from decentral.report.results import read_experiment
    from decentral.report.summary import summary_table

    console = Console(width=min(Console().width, 100))
    of_methods = titles()
    console.print(summary_table(read_experiment(folder, of_methods), console.width))
    try:
        figures = draw_experiment(folder, of_methods)
    except UserError as error:
        raise UserError(
            f"{error}; all runs have ended: mend [[figure]] and draw again with --resume"
        ) from error
    report = write_report(folder, figures, of_methods)
    console.print(f"figures in {folder / 'figures'}, report in {report}", soft_wrap=True, markup=False)
