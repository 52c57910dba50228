"""``decentral run``: every mistake is found first; then the runs, one after the other; then table and figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from decentral import disk
from decentral.comm.launch import use_threads
from decentral.comm.world import World
from decentral.disk import PART, write_whole
from decentral.errors import AgreedError, UserError
from decentral.report.stored import STATUS, sealed
from decentral.runs import lock, stopping
from decentral.runs.agreement import all_ranks, on_root, together
from decentral.runs.digests import Digests, Leaf, refuse_different
from decentral.runs.event_files import EventFiles, need_tensorboard
from decentral.runs.experiment import Experiment, PlannedRun, load
from decentral.runs.file_notes import file_notes
from decentral.runs.folder import RunFolder, write_results
from decentral.runs.kinds import training_of
from decentral.runs.progress import Progress
from decentral.runs.provenance import command_line, environment
from decentral.runs.reading import resolved
from decentral.runtime.requests import DeadlockError, NonFiniteError
from topologies.wording import one_line

_FINISHED, _USER, _DIVERGED = 0, 2, 3


def run(
    file: Path, overrides: Sequence[str], out: Path | None, resume: bool, tensorboard: bool = False
) -> int:
    """Run an experiment file; the exit code: 0, or 3 if a run diverged. Mistakes: 2, and nothing written.

    ``tensorboard``: records are written as TensorBoard's event files too.
    """
    with all_ranks() as world:
        experiment, folder, done = prepare(world, file, overrides, out, resume, tensorboard)
        try:
            with _locked(world, folder) as note:
                done = on_root(world, lambda: _check_folder(experiment, folder, resume))  # as it is now
                return _run_all(world, experiment, folder, done, tensorboard, note)
        except KeyboardInterrupt as error:
            return _stopped(world, experiment, folder, error)
        except AgreedError:
            raise
        except UserError as error:
            return _end(world, str(error), _USER)
        except NonFiniteError as error:  # of a stage on one of several ranks: the others cannot go on
            return _end(world, f"diverged: {error}", _DIVERGED)
        except DeadlockError as error:
            return _end(world, f"no stage can go on: {error}", 1)
        except OSError as error:
            if not disk.is_of_disk(error):
                raise
            kept = f"what was recorded is kept (in {folder}), and --resume goes on"
            return _end(world, f"{disk.words(error)}; {kept}", disk.EXIT_CODE)


@contextmanager
def _locked(world: World, folder: Path) -> Iterator[str]:
    """The folder is this job's: rank 0 has it for all. Gives a note for people, or ""."""
    with ExitStack() as stack:
        yield on_root(world, lambda: stack.enter_context(lock.taken(folder)))


def _stopped(world: World, experiment: Experiment, folder: Path, error: KeyboardInterrupt) -> int:
    """End after a signal, with a line that says how to go on. Ranks that all know of it end by themselves."""
    if all(planned.config.goes_on for planned in experiment.runs):
        then = "goes on from here"
    else:
        then = "begins a run of this kind that was under way anew, and keeps those that have ended"
    text = f"{stopping.words(error)}; the same command with --resume {then} (in {folder})"
    code = stopping.exit_code(error)
    if world.ranks == 1 or not stopping.is_known_to_all(error):
        if world.rank > 0:
            time.sleep(0.5)  # rank 0 may have had the signal too, and speaks for all
        return _end(world, text, code)
    if world.rank == 0:
        _say(text)
    return code


def _end(world: World, text: str, code: int) -> int:
    """End this process, or all ranks, with a line on standard error."""
    if world.ranks > 1:
        world.abort(one_line(text), code)
    _say(text)
    return code


def _say(text: str) -> None:
    print(f"decentral: {one_line(text)}", file=sys.stderr, flush=True)


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
    experiment = load(file, overrides, world.ranks)
    folder = out or Path("results") / experiment.name
    lock.refuse_if_taken(folder)
    done = _check_folder(experiment, folder, resume)
    configs = [planned.config for planned in experiment.runs if planned.id not in done]
    for config in {repr(config): config for config in configs}.values():
        training_of(config).check(config, world)
    return experiment, folder, done


def _check_rank(world: World, experiment: Experiment, done: dict[str, Any]) -> dict[str, Leaf]:
    """Each rank's part: its device, its data and models, and among several ranks what tells these apart."""
    from decentral.runs.place import device_of, rehearse

    checked: set[str] = set()
    digests = Digests()
    for planned in experiment.runs:
        config = planned.config
        if planned.id in done:
            continue
        device = device_of(config.train.device, world.local_rank)
        if (data := repr((config.problem, config.workers, config.seed))) not in checked:
            prepared = config.prepare()
            if world.ranks > 1:
                digests.add(planned.id, prepared)
        if world.ranks > 1:
            digests.add_code(planned.id, config)
        checked.add(data)
        rehearse(config, device)
    return digests.leaves


def _check_folder(experiment: Experiment, folder: Path, resume: bool) -> dict[str, dict[str, Any]]:
    """The runs of this experiment that have ended in ``folder``: id -> status. Refuses one of something else."""
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
    if there != folder or all(path.suffix == PART or path.name == lock.LOCK for path in folder.iterdir()):
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


def _refuse_folders(home: Path, files: Sequence[str]) -> None:
    for path in (home / name for name in files):
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, and a file belongs there; remove it, or choose another --out"
            )


def _ended_in(folder: Path) -> int:
    return len(list((folder / "runs").glob(f"*/{STATUS}")))


def _run_all(
    world: World,
    experiment: Experiment,
    folder: Path,
    done: dict[str, dict[str, Any]],
    tensorboard: bool,
    note: str,
) -> int:
    if world.ranks > 1:
        use_threads()
    root = world.rank == 0
    if root:
        for name in done:
            RunFolder(folder / "runs" / name).tidy()
        write_whole(folder / "experiment.toml", sealed(tomli_w.dumps(dict(experiment.table))))
        if not (folder / "command.txt").exists():
            write_whole(folder / "command.txt", command_line() + "\n")
    ended = dict(done)
    with Progress(experiment, done, show=root) as progress:
        if note:
            progress.say(note, style="dim")
        for planned in experiment.runs:
            if planned.id in done:
                continue
            stopping.stop_if(max(world.agree(stopping.asked())))
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
    kept = folder.checkpointed() if root else None
    if world.agree(kept is not None)[0] and not root:
        kept = checkpoint.read(folder.checkpoint)

    def begun(facts: Mapping[str, Any], notes: Sequence[str]) -> None:
        if root:
            notes = [*file_notes(config), *notes]
            facts = {**facts, "device": str(device), "notes": notes}
            folder.begin(resolved(config), environment(world.ranks, **facts))
            for note in notes:
                progress.say(f"{planned.id}: {note}", style="dim")

    journal = Journal(folder if root else None, progress.update, begun)
    outcome = training_of(config).execute(config, Here(world, device), journal, kept)
    status: dict[str, Any] = {"status": outcome.status, "message": outcome.message, "final": outcome.final}
    status |= {"swept": dict(planned.swept), "seed": config.seed}
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
