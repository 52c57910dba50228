"""``decentral run``: every mistake is found first; then the runs, one after the other; then table and figures."""

from __future__ import annotations

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
from decentral.disk import write_whole
from decentral.errors import AgreedError, UserError
from decentral.report.stored import sealed
from decentral.runs import lock, stopping
from decentral.runs.agreement import all_ranks, on_root
from decentral.runs.event_files import EventFiles
from decentral.runs.experiment import Experiment, PlannedRun
from decentral.runs.file_notes import file_notes
from decentral.runs.folder import RunFolder, write_results
from decentral.runs.kinds import training_of
from decentral.runs.out_folder import ended_runs
from decentral.runs.preparing import prepare
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
                done = on_root(world, lambda: ended_runs(experiment, folder, resume))  # as it is now
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


def _run_all(
    world: World,
    experiment: Experiment,
    folder: Path,
    done: dict[str, dict[str, Any]],
    tensorboard: bool,
    note: str,
) -> int:
    from decentral.runs.place import device_words

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
        wishes = dict.fromkeys(r.config.train.device for r in experiment.runs if r.id not in done)
        for words in filter(None, (device_words(wish, world) for wish in wishes)):
            progress.say(words, style="dim")
        for planned in experiment.runs:
            if planned.id in done:
                continue
            stopping.stop_if(world.agree(stopping.asked()))
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
    from decentral.runs.place import Here, device_facts, device_of
    from decentral.runs.rounds import checkpoint

    config, root = planned.config, world.rank == 0
    device = device_of(config.train.device, world.local_rank)
    kept = folder.checkpointed() if root else None
    if world.agree(kept is not None)[0] and not root:
        kept = checkpoint.read(folder.checkpoint)

    def begun(facts: Mapping[str, Any], notes: Sequence[str]) -> None:
        if root:
            notes = [*file_notes(config), *notes]
            facts = {**facts, **device_facts(device), "notes": notes}
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
    from decentral.report.reading import read_experiment
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
