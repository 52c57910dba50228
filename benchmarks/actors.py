"""Actors on ranks: how many environment steps a second one and two actor ranks make beside one learner.

Question: do actors really run beside the learner, and beside each other? The learner has a small batch, an actor a wide
policy in many environments, so that it waits for them, asleep: a learner with a core's work of its own, as with an
eighth of these steps a round, takes that from the second actor. Both runs have two actors, and so the same numbers; the
ranks beside the learner share them. Without two free cores the line says how much longer work takes side by side.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.ranks import cores_note, launch, main, slowed
from benchmarks.timing import Line

ROUNDS, TURNS = 12, 8
STEPS = 2 * 128 * 64  # of both actors, in a round
TABLE = """
name = "actors"
[problem]
name = "rl"
width = 256
warmup = 10
replay = 20000
actors = 2
actor_ranks = {beside}
envs = 128
steps = 64
pull_every = 5
episodes = 1
episode_steps = 50
[topology]
name = "complete"
workers = 1
[algorithm]
name = "dsgd"
[optimizer]
name = "adam"
[train]
lr = 0.001
rounds = {rounds}
batch_size = 16
record_every = {rounds}
"""


def measure() -> list[Line]:
    found = json.loads(launch(3, "-m", "benchmarks.actors", "in_turns").splitlines()[-1])
    one, two = found["steps"]
    what = "environment steps a second: two actor ranks / one" + cores_note(found["slowed"])
    return [Line(what, f"{two:,.0f}", f"{one:,.0f}", two / one, ">= 1.6", two / one >= 1.6)]


def in_turns() -> dict[str, Any]:
    """The most environment steps a second with one actor rank and with two, in turns; 3 ranks call it."""
    from decentral.comm.launch import use_threads
    from decentral.comm.world import find_world

    whole: Any = find_world()
    use_threads()
    least = {beside: float("inf") for beside in (1, 2)}
    small = whole.first(2)
    for turn in range(TURNS + 1):
        for beside, world in ((1, small), (2, whole)):
            seconds = _seconds(beside, world) if world is not None else float("inf")
            whole.rest()
            least[beside] = min(least[beside], seconds) if turn else least[beside]
    pair = slowed(small) if small is not None else 1.0
    whole.rest()
    return {"steps": [ROUNDS * STEPS / least[beside] for beside in (1, 2)], "slowed": pair}


def _seconds(beside: int, world: Any) -> float:
    """In the rounds of such a run; every rank of the world calls it."""
    import torch

    from decentral.runs.experiment import expand
    from decentral.runs.journal import Journal
    from decentral.runs.kinds import training_of
    from decentral.runs.place import Here
    from decentral.tables import parse_toml

    config: Any = expand(parse_toml(TABLE.format(beside=beside, rounds=ROUNDS), "actors")).runs[0].config
    outcome = training_of(config).execute(config, Here(world, torch.device("cpu")), Journal(), None)
    return float(outcome.final["wall_s"])


if __name__ == "__main__":
    main("actors", measure, in_turns)
