"""One run of a network of nodes: a round is a pass over the training instances."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from decentral.allocator import collect_rarely
from decentral.comm.local import LocalComm
from decentral.comm.world import World
from decentral.dataflow.control import Controller, serve, updates_of
from decentral.dataflow.ends import Score
from decentral.dataflow.objective import InstanceObjective, row_of
from decentral.dataflow.synchronous import Synchronous
from decentral.dataflow.worker import Worker
from decentral.problems.capabilities import Trainable
from decentral.runs.dataflow.building import Plan
from decentral.runs.dataflow.config import DataflowRun
from decentral.runs.dataflow.snapshots import Recorder, Snapshot, columns_of
from decentral.runs.gathering import Gathering
from decentral.runs.hosts import hosts
from decentral.runs.journal import Journal, Outcome, Seen
from decentral.runs.metrics import measure
from decentral.runs.place import Here, place_of
from decentral.runtime.drive import clock_of, drive
from decentral.runtime.driver import Driver, Sent
from decentral.runtime.requests import NonFiniteError
from decentral.runtime.trace import Trace
from topologies.streams import stream


def check(run: DataflowRun, world: World) -> None:
    """Refuse what does not fit: names of nodes, the placement, the ranks; and try the network on a few instances."""
    _hosts(run, world)
    Plan(run, torch.device("cpu")).layout()


def execute(run: DataflowRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All rounds, with records. Every rank calls it. It begins anew: messages under way have no state to put back."""
    del kept
    return Training(run, here, journal).run()


class Training:
    """The workers that this rank hosts, and their records; rank 0 puts them together."""

    def __init__(self, config: DataflowRun, here: Here, journal: Journal) -> None:
        self.config, self.world, self.journal = config, here.world, journal
        world = here.world
        collect_rarely()
        self.plan = Plan(config, here.device)
        self.plan.flops, self.plan.place = world.from_root(self.plan.layout)
        self.host = _hosts(config, world)
        self.is_synchronous = config.dataflow.runtime == "synchronous"
        clock = "measured" if self.is_synchronous else clock_of(world)
        self.t = 0
        self.gathering = Gathering(world, 1 if self.is_synchronous else len(self.host), self._all_drained)
        self._wall_s: dict[int, float] = {}  # of rounds that are over
        self.objective: Any
        if isinstance(config.problem, Trainable):  # samples are those of rounds, and so is what is measured
            self.objective = config.problem.build(place_of(config, range(1), here.device))
        else:
            self.objective = InstanceObjective(self.plan.model, config.seed, config.train.eval_samples)
        journal.begin({"place": self.plan.place, "hosts": self.host, "clock": clock}, [])

    def run(self) -> Outcome:
        """All rounds, with records."""
        self.gathering.begin()
        try:
            if not self.is_synchronous:
                self._messages()
            elif self.world.rank == 0:
                self._synchronous()
        except NonFiniteError as error:
            if self.world.ranks > 1:
                raise  # the others cannot go on: the job ends with this message
            return self.journal.ended("diverged", str(error))
        return self.journal.ended()

    def order(self, t: int) -> list[int]:
        """The training instances in the order of round t: a function of the seed."""
        keys = self.plan.model.train
        return [keys[i] for i in stream(self.config.seed, "order", t).permutation(len(keys)).tolist()]

    def lr(self, t: int) -> float:
        """The learning rate of round t."""
        return float(self.config.lr(t))

    def _synchronous(self) -> None:
        train = self.config.train
        baseline = Synchronous(
            self.plan.model,
            lambda parameters: self.config.optimizer.build(parameters, train.lr, train.weight_decay),
            self.config.dataflow.minibatch,
        )
        for t in range(train.rounds):
            score = baseline.learn(self.order(t), self.lr(t), functools.partial(self._came_back, t))
            self._wall_s[t] = self.gathering.training_s
            self.gathering.hand_over(t, 0, score)

    def _messages(self) -> None:
        config, world = self.config, self.world
        workers = {w: self.plan.worker(w) for w, rank in enumerate(self.host) if rank == world.rank}
        recorders = {w: Recorder(worker) for w, worker in workers.items()}
        for worker in workers.values():
            worker.on_drained = functools.partial(self._set_lr, worker)
            self._set_lr(worker, -1)
        phases = (self.order(t) for t in range(config.train.rounds))
        active = config.dataflow.max_active_keys
        programs = {
            w: serve(worker, self._averages)
            if w
            else Controller(worker, active, len(self.host), phases, self._averages, self._came_back).run()
            for w, worker in workers.items()
        }

        def done(driver: Driver, number: int, t: int) -> None:
            if number == 0:
                self._wall_s[t] = self.gathering.training_s
            self.gathering.hand_over(t, number, recorders[number].snapshot(driver))

        trace = drive(
            programs, self.host, world,
            cost=lambda w, _: self.plan.cost(workers[w]), link=lambda _: config.network.carry, done=done,
            timeout_s=config.dataflow.timeout_s,
            most_spans=sys.maxsize,  # recorders count them, and take them out after each pass
        )  # fmt: skip
        found = [(recorder.spans, recorder.staleness()) for recorder in recorders.values()]
        everyone = [part for parts in world.agree(found) for part in parts]
        if trace is not None:
            while self.t < config.train.rounds:
                self.gathering.collect()
            spans = [span for spans, _ in everyone for span in spans] + trace.spans
            trace.spans = sorted(spans, key=lambda span: span.end_s)
            self._leave(trace, {name: lags for _, part in everyone for name, lags in part.items()})

    def _set_lr(self, worker: Worker, t: int) -> None:
        """After round t, that of the round that begins."""
        if t + 1 < self.config.train.rounds:
            for updates in updates_of(worker):
                updates.lr = self.lr(t + 1)

    def _averages(self, t: int) -> bool:
        return (t + 1) % self.config.dataflow.average_every == 0

    def _came_back(self, t: int, instances: int) -> None:
        """So many instances of round t have gone through the network."""
        self.journal.moved(t + instances / len(self.plan.model.train))

    def _all_drained(self, t: int, parts: list[Any]) -> None:
        """On rank 0: every worker is through with round t."""
        if self.is_synchronous:
            self._record(t, None, [Sent(0, 0, 0)], parts[0], {})
            return
        snapshots: list[Snapshot] = parts
        self.plan.load({name: values for s in snapshots for name, values in s.parameters.items()})
        simulated_s = snapshots[0].time_s if self.world.ranks == 1 else None  # worker 0 is drained last
        self._record(
            t, simulated_s, [s.sent for s in snapshots], Snapshot.total(snapshots), columns_of(snapshots)
        )

    def _record(
        self, t: int, simulated_s: float | None, sent: list[Sent], learned: Score, more: Mapping[str, Any]
    ) -> None:
        """One row of metrics; ``learned``: the score of the round's instances while they were learned from."""
        done, wall_s = t + 1, self._wall_s.pop(t)
        instances = len(self.plan.model.train)
        last = done == self.config.train.rounds
        values = measure(row_of(self.plan.model), LocalComm(np.eye(1)), self.objective, last)
        seen = Seen(
            done, done * self.objective.epoch_samples, float(done), wall_s, simulated_s,
            [s.bytes for s in sent], sum(s.messages for s in sent), sum(s.away_bytes for s in sent),
        )  # fmt: skip
        learning = {
            "batch_loss": learned.loss / instances,
            "batch_accuracy": learned.correct / learned.rows,
            "instances_per_s": done * instances / wall_s,
        }
        self.journal.record(seen, {**values, **learning, **more})
        self.t = done

    def _leave(self, trace: Trace, staleness: Mapping[str, Any]) -> None:
        costs = [
            {"node": node, "direction": way, "flops": flops}
            for (node, way), flops in sorted(self.plan.flops.items())
        ]
        for name, content in (("boundaries", trace.boundaries()), ("staleness", staleness), ("costs", costs)):
            self.journal.leave(f"{name}.json", content)
        trace.lane = "worker"
        self.journal.leave("trace.json", trace.chrome())


def _hosts(run: DataflowRun, world: World) -> list[int]:
    workers = run.dataflow.workers
    return hosts(workers, world.ranks, f"dataflow.workers = {workers}")
