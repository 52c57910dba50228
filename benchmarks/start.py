"""All that ``decentral run`` does before its first round: imports, configuration, checks, data, models."""

import sys
from pathlib import Path

from decentral.cli import load_run


def start(file: Path) -> None:
    """On every rank."""
    run = load_run()
    world = run.find_world()
    experiment, _, _ = run.prepare(world, file, [], Path("results/never"), resume=False)
    from decentral.runs.journal import Journal
    from decentral.runs.place import Here, device_of
    from decentral.runs.rounds.training import Training

    Training(experiment.runs[0].config, Here(world, device_of("cpu", 0)), Journal())


if __name__ == "__main__":
    start(Path(sys.argv[1]))
