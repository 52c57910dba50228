"""One run of asynchronous workers: n rounds' worth of steps without rounds, on the virtual clock or over MPI."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from math import ceil
from typing import Any

import torch

from decentral.comm.local import LocalComm
from decentral.comm.plan import workers_a_rank
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.optimizers.rule import to_ask
from decentral.problems.capabilities import Acted, rounds_a_batch
from decentral.problems.objective import Objective
from decentral.rounds.trials.needs import refuse_unmet
from decentral.runs.asynchronous.cards import Cards
from decentral.runs.asynchronous.config import AsynchronousRun
from decentral.runs.asynchronous.control import Controller
from decentral.runs.asynchronous.neighbours import edges_of, neighbourhoods
from decentral.runs.asynchronous.snapshots import Snapshot, models_of
from decentral.runs.asynchronous.worker import Worker
from decentral.runs.computing import compute_time
from decentral.runs.divergence import overflow
from decentral.runs.findings import leave_findings
from decentral.runs.gathering import Gathering
from decentral.runs.journal import Journal, Outcome, Seen
from decentral.runs.metrics import finite, measure, record_interval
from decentral.runs.place import Here, place_of
from decentral.runs.rescaling import refuse_rescaling, rescaling_of, sparing
from decentral.runs.rows import refuse_rows
from decentral.runtime.clock import Cost
from decentral.runtime.drive import clock_of, drive
from decentral.runtime.driver import Driver, Sent
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Trace


def check(run: AsynchronousRun, world: World) -> None:
    """Refuse what does not fit: ranks, graph, cluster, and what asynchronous workers cannot do."""
    name = type(run.algorithm).__name__
    workers_a_rank(run.workers, world.ranks)
    refuse_rows(run, world.ranks)
    if run.train.compile:
        raise UserError(
            f"train.compile = true is for rounds of workers, and {name} has none; set it to false"
        )
    if run.train.oracle == "batched":
        raise UserError(
            f'train.oracle = "batched" is for workers in step, and those of {name} are not; use "auto" or "loop"'
        )
    if isinstance(run.problem, Acted) and run.problem.actor_ranks:
        raise UserError(
            f"problem.actor_ranks = {run.problem.actor_ranks} is for rounds, and {name} has none; set it to 0"
        )
    if run.network.overlap:
        raise UserError(
            f"network.overlap = true is for rounds of workers; messages of {name} travel while workers compute "
            "anyway: set it to false"
        )
    mixing = run.topology.mixing()
    refuse_unmet(run.algorithm, mixing)
    refuse_rescaling(run, run.optimizer, None)
    Cards(run.network.cluster, edges_of(mixing))


def execute(run: AsynchronousRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All steps, with records. Every rank calls it. It begins anew: messages under way have no state to put back."""
    del kept
    return Training(run, here, journal).run()


class Training:
    """The workers that this rank hosts, and the records; rank 0 puts them together, and hosts the controller.

    Over MPI rank 0's own workers stand still while it measures, and the others go on.
    """

    def __init__(self, config: AsynchronousRun, here: Here, journal: Journal) -> None:
        self.config, self.world, self.journal, self.device = config, here.world, journal, here.device
        world, train = here.world, config.train
        self.n = config.workers
        self.mixing = world.from_root(config.topology.mixing)
        h = workers_a_rank(self.n, world.ranks)
        self.host = [*(i // h for i in range(self.n)), 0]  # the last one is the controller
        hosted = range(world.rank * h, (world.rank + 1) * h)
        rows = range(self.n) if world.rank == 0 else hosted  # rank 0 measures all of them
        self.objective: Objective = config.problem.build(place_of(config, rows, here.device))
        self.comm = LocalComm(self.mixing)
        near = neighbourhoods(self.mixing, config.seed)
        rescaling = rescaling_of(config.optimizer, self.objective)
        rule, weight_decay = to_ask(
            sparing(config.optimizer, rescaling, train.weight_decay), train.weight_decay
        )
        self.begun = self.objective.start()[None].clone()
        if rescaling is not None:  # a worker may hear of another before its own first step
            rescaling.act(self.objective.layout.views(self.begun), self.objective.buffers)
        self.workers: dict[int, Worker] = {}
        for i in hosted:
            side = config.algorithm.side(self.begun.clone(), near[i])
            alone = self.objective.alone(i - rows.start)
            self.workers[i] = Worker(
                side,
                near[i],
                alone,
                self.n,
                self._lr(0),
                weight_decay,
                rule,
                train.clip_norm or 0.0,
                rescaling,
            )
        every = record_interval(train, ceil(self.objective.record_cost_rounds()))
        self.controller = Controller(self.n, [*range(every, train.rounds, every), train.rounds], self._lr)
        self.gathering = Gathering(world, self.n, self._record)
        self._times: dict[int, tuple[float, float | None]] = {}  # round -> seconds on both clocks
        facts = {"oracle": self.objective.oracle, "clock": clock_of(world)}
        journal.begin(facts, self.objective.notes)

    def run(self) -> Outcome:
        """All steps, with records."""
        programs = {i: worker.run() for i, worker in self.workers.items()}
        if self.world.rank == 0:
            self._record_start()
            programs[self.n] = self.controller.run()
        cards = Cards(self.config.network.cluster, edges_of(self.mixing))
        self.gathering.begin()
        trace = drive(programs, self.host, self.world, cost=self._cost(), link=cards.of, done=self._done)
        parts = self.world.agree(histogram(worker.side.staleness for worker in self.workers.values()))
        counts = histogram(parts)
        status, message = self.world.from_root(self._end)
        if trace is not None:
            self._leave(trace, counts)
        final = {"answered": self.controller.answered, **staleness_columns(counts)}
        return self.journal.ended(status, message, final)

    def _lr(self, t: int) -> float:
        return self.config.lr(min(t, self.config.train.rounds - 1))

    def _cost(self) -> Cost:
        """Seconds of a worker's gradient on the clock; workers compute nothing else."""
        if self.world.ranks > 1:
            return lambda *_: 0.0
        config, seed = self.config, self.config.seed
        seconds = compute_time(
            config.network, config.problem, place_of(config, range(1), torch.device("cpu"))
        )
        return lambda i, _: float(seconds.draw(self.workers[i].t, range(i, i + 1), seed)[0])

    def _end(self) -> tuple[str, str]:
        """Rank 0: the last copies are on their way. The status."""
        while self._times:
            self.gathering.collect()
        trouble = self.controller.trouble
        return ("diverged", trouble) if trouble else ("finished", "")

    def _done(self, driver: Driver, number: int, mark: int) -> None:
        """A worker of this rank, or the controller, is in round ``mark``."""
        if number == self.n:
            simulated_s = driver.now if self.world.ranks == 1 else None
            self._times[mark] = self.gathering.training_s, simulated_s
        else:
            self.gathering.hand_over(mark, number, Snapshot.of(self.workers[number], driver.sent_by(number)))

    def _record_start(self) -> None:
        self._times[0] = 0.0, 0.0 if self.world.ranks == 1 else None
        x = self.begun
        buffers = {name: value[:1] for name, value in self.objective.buffers.items()}
        self._record(0, [Snapshot(x, buffers, 0, Sent(0, 0, 0), {}) for _ in range(self.n)])

    def _record(self, mark: int, parts: list[Snapshot]) -> None:
        """One row of metrics, from the copies of all workers in their order."""
        objective, times = self.objective, self._times.pop(mark)
        if self.controller.trouble:
            return
        x, buffers = models_of(parts, self.device)
        for name, value in buffers.items():
            objective.buffers[name].copy_(value)
        values = measure(x, self.comm, objective, mark >= self.config.train.rounds)
        if not finite(values):
            self.controller.trouble = overflow(mark, x, self.comm)
            return
        steps = sum(s.steps for s in parts)
        few = rounds_a_batch(self.config.problem)  # of which each has n steps
        samples, epoch = objective.samples(few), objective.epoch(few)
        bytes_, messages, away = zip(*(s.sent for s in parts), strict=True)
        seen = Seen(
            mark,
            None if samples is None else samples * steps // (few * self.n),
            None if epoch is None else epoch * steps / (few * self.n),
            *times, bytes_, sum(messages), sum(away),
        )  # fmt: skip
        self.journal.record(seen, values | staleness_columns(histogram(s.staleness for s in parts)))

    def _leave(self, trace: Trace, counts: Mapping[int, int]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("staleness", "messages"))
        writer.writerows(counts.items())
        self.journal.leave("staleness.csv", text.getvalue())
        trace.lane = "worker"
        trace.spans = [span for span in trace.spans if span.stage < self.n]
        self.journal.leave("trace.json", trace.chrome())
        leave_findings(self.journal, self.config.problem, self.objective)
