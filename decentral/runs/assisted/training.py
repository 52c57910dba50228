"""One run of a Boss and its Assistant: on the virtual clock in one process, or on two ranks in real time."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import torch

from decentral.comm.local import LocalComm
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.problems.assistants.scanning import Scan
from decentral.problems.model_objective import ModelObjective
from decentral.runs.assisted.boss import ASSISTANT, BOSS, Boss
from decentral.runs.assisted.config import AssistedRun
from decentral.runs.assisted.feeder import Feeder
from decentral.runs.computing import gradient_flops
from decentral.runs.divergence import overflow
from decentral.runs.findings import leave_findings
from decentral.runs.gathering import Gathering
from decentral.runs.hosts import hosts
from decentral.runs.journal import Journal, Outcome, Seen
from decentral.runs.metrics import finite, measure, record_interval
from decentral.runs.place import Here, place_of
from decentral.runs.rows import refuse_rows
from decentral.runtime.drive import clock_of, drive
from decentral.runtime.driver import Driver, Sent
from decentral.runtime.requests import Program
from decentral.runtime.staleness import staleness_columns


def check(run: AssistedRun, world: World) -> None:
    """Refuse more ranks than programs, what has no room, and data that the Assistant cannot judge."""
    _hosts(world)
    refuse_rows(run, world.ranks)
    try:
        run.assistant.check(run.problem)
    except ValueError as error:
        raise UserError(str(error)) from error


def execute(run: AssistedRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All steps, with records. Every rank calls it. It begins anew: messages under way have no state to put back."""
    del kept
    return Training(run, here, journal).run()


class Training:
    """The programs of this rank; rank 0 has the Boss, which stands still while it is measured."""

    def __init__(self, config: AssistedRun, here: Here, journal: Journal) -> None:
        self.config, self.world, self.journal = config, here.world, journal
        self.host = _hosts(here.world)
        self.objective: ModelObjective = config.problem.build(place_of(config, range(1), here.device))
        train, objective = config.train, self.objective
        self.programs: dict[int, Program] = {}
        if self.host[BOSS] == here.world.rank:
            self.boss = self._boss()
            self.programs[BOSS] = self.boss.run()
        if self.host[ASSISTANT] == here.world.rank:
            self.feeder = self._feeder()
            self.programs[ASSISTANT] = self.feeder.run()
        self.comm = LocalComm(np.eye(1))
        self.every = record_interval(train, ceil(objective.record_cost_rounds()))
        self.gathering = Gathering(here.world, 1, self._record)
        place = place_of(config, range(1), torch.device("cpu"))
        self.step_flops = here.world.from_root(lambda: gradient_flops(config.problem, place))
        journal.begin({"oracle": objective.oracle, "clock": clock_of(here.world)}, objective.notes)

    def _boss(self) -> Boss:
        config, train = self.config, self.config.train
        return Boss(
            self.objective,
            config.assistant,
            config.optimizer.decayed(train.weight_decay),
            train.rounds,
            config.lr,
            train.clip_norm or 0.0,
        )

    def _feeder(self) -> Feeder:
        config, train, objective = self.config, self.config.train, self.objective
        assert isinstance(train.batch_size, int)
        x, y = objective.train_x.flatten(1), objective.train_y
        chooser = config.assistant.chooser(x, y, objective.classes, config.seed)
        scan = Scan(objective.shards[0], train.batch_size, config.assistant.base, config.seed)
        return Feeder(config.assistant, chooser, scan, train.rounds, y)

    def run(self) -> Outcome:
        """All steps, with records."""
        self.gathering.begin()
        if self.world.rank == 0:
            self.gathering.hand_over(0, 0, (Sent(0, 0, 0), 0.0))
        trace = drive(
            self.programs, self.host, self.world,
            cost=self._cost, link=lambda _: self.config.network.carry, done=self._done,
        )  # fmt: skip
        trouble = self.world.from_root(lambda: self.boss.trouble)
        if trace is not None:
            trace.lane = "program"
            self.journal.leave("trace.json", trace.chrome())
        return self.journal.ended("diverged", trouble) if trouble else self.journal.ended()

    def _cost(self, number: int, kind: str) -> float:
        """Seconds of the work that was just done, on two computers alike."""
        del kind
        flops = self.step_flops if number == BOSS else self.feeder.last_flops
        return float(flops / self.config.network.compute.flops_per_s)  # type: ignore[union-attr]

    def _done(self, driver: Driver, number: int, t: int) -> None:
        """The Boss has made step t."""
        del number
        if not self.boss.trouble and (t % self.every == 0 or t == self.config.train.rounds):
            self.gathering.hand_over(t, 0, (driver.sent_by(BOSS), driver.now))
        self.journal.moved(t)

    def _record(self, t: int, parts: list[Any]) -> None:
        """One row of metrics: of the Boss's model, and of what both have done for it."""
        boss, objective = self.boss, self.objective
        values = measure(boss.x, self.comm, objective, t == self.config.train.rounds)
        if not finite(values):
            boss.trouble = overflow(t, boss.x, self.comm)
            return
        sent, now = parts[0]
        away = boss.received if self.host[BOSS] != self.host[ASSISTANT] else 0
        seen = Seen(
            t, objective.samples(t), objective.epoch(t), self.gathering.training_s,
            now if self.world.ranks == 1 else None,
            [sent.bytes + boss.received], sent.messages + t, sent.away_bytes + away,
        )  # fmt: skip
        done = {
            "scanned": boss.scanned,
            "flops": t * self.step_flops + boss.assistant_flops,
            "assistant_steps": boss.assistant_steps,
            "batch_loss": boss.batch_loss,
        }
        self.journal.record(seen, {**values, **done, **staleness_columns(boss.staleness)})
        if t == self.config.train.rounds:
            leave_findings(self.journal, self.config.problem, objective)


def _hosts(world: World) -> list[int]:
    return hosts(2, world.ranks, "[assistant] has 2 programs, the Boss and the Assistant,")
