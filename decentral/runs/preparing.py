"""All checks of ``decentral run``, before anything is written: by rank 0 for all, and by each rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentral.comm.world import World
from decentral.runs import lock
from decentral.runs.agreement import on_root, together
from decentral.runs.digests import Digests, Leaf, refuse_different
from decentral.runs.event_files import need_tensorboard
from decentral.runs.experiment import Experiment, load
from decentral.runs.kinds import training_of
from decentral.runs.out_folder import ended_runs


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
    done = ended_runs(experiment, folder, resume)
    configs = [planned.config for planned in experiment.runs if planned.id not in done]
    for config in {repr(config): config for config in configs}.values():
        training_of(config).check(config, world)
        config.lr(0)  # a schedule that does not fit into the run says so
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
