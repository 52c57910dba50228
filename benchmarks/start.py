"""All that ``decentral run`` does before its first round: imports, configuration, checks, data, models."""

import sys
from pathlib import Path

from decentral.comm.launch import find_world
from decentral.run import prepare


def start(file: Path) -> None:
    """On every rank."""
    from decentral.training import Training, device_of

    world = find_world()
    experiment, _, _ = prepare(world, file, [], Path("results/never"), resume=False)
    config = experiment.runs[0].config
    Training(config, world, device_of("cpu", 0), folder=None)


if __name__ == "__main__":
    start(Path(sys.argv[1]))
