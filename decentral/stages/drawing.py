"""Stages whose layers draw random numbers: worker, step and stage name the stream of each pass.

So two runs draw alike, on any number of ranks, whatever the order in which stages work. The first stage draws in a
step's forward pass as the same worker does in that round of a run of rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from decentral.problems.models.draws import Generators
from decentral.runtime.requests import Compute, Program
from decentral.stages.program import StageProgram
from decentral.stages.stage import Stage


def begun(
    program: StageProgram, stage: Stage, generators: Generators | None = None, seed: int = 0
) -> Program:
    """The stage's program; its passes draw from named streams if there are ``generators``."""
    asked = program.run(stage)
    return asked if generators is None or not generators.names else _drawn(asked, stage, generators, seed)


def _drawn(asked: Program, stage: Stage, generators: Generators, seed: int) -> Program:
    answer: Any = None
    latest: dict[str, tuple[Any, int]] = {}  # kind -> the tag of the last pass, and how many had it before

    def seeded(work: Callable[..., Any], name: tuple[str | int, ...], *args: Any) -> Any:
        with generators.kept():
            generators.seed(seed, *name)
            return work(*args)

    while True:
        try:
            request = asked.send(answer)
        except StopIteration:
            return
        if isinstance(request, Compute) and request.kind != "update":  # a method's step waits in the middle
            kind, tag = request.kind, request.tag
            before = latest.get(kind)
            count = before[1] + 1 if before is not None and before[0] == tag else 0
            latest[kind] = tag, count
            request.args = (request.work, _name(stage, kind, tag, count), *request.args)
            request.work = seeded
        answer = yield request


def _name(stage: Stage, kind: str, tag: Any, count: int) -> tuple[str | int, ...]:
    t, *part = tag if isinstance(tag, tuple) else (tag,)
    rest = [stage.index, count, *part]
    step = ("model", stage.worker, str(t))
    return (*step, kind, *map(str, rest)) if any(rest) or kind != "forward" else step
