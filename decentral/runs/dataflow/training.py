"""One run of a network of nodes: a round is a pass over the training instances, and an evaluation after it."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from decentral.dataflow.control import Controller, serve, updates_of
from decentral.dataflow.synchronous import Synchronous
from decentral.dataflow.worker import Worker
from decentral.runs.dataflow.building import Plan
from decentral.runs.dataflow.snapshots import Clock, Recorder, Snapshot, row_of
from decentral.runs.folder import write_whole
from decentral.runs.rounds.training import Outcome
from decentral.runs.stages.building import hosts
from decentral.runtime.clock import VirtualClock
from decentral.runtime.gathering import Gathering
from decentral.runtime.requests import NonFiniteError
from decentral.runtime.trace import Trace
from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.runs.folder import RunFolder
    from decentral.runs.sections.dataflow import DataflowConfig


def check(config: DataflowConfig, world: Any) -> None:
    """Refuse what does not fit: names of nodes, the placement, the ranks; and try the network on a few instances."""
    hosts(config.dataflow.workers, 1, world.ranks)
    Plan(config, torch.device("cpu")).layout()


class Training:
    """The workers that this rank hosts, and their records; rank 0 puts them together.

    A run that was interrupted begins anew (``kept`` is None): messages under way have no state to put back.
    """

    def __init__(
        self, config: DataflowConfig, world: Any, device: torch.device, folder: RunFolder | None, kept: None
    ) -> None:
        del kept
        self.config, self.world, self.folder = config, world, folder
        self.plan = Plan(config, device)
        self.plan.flops, self.plan.place = world.from_root(self.plan.layout)
        self.host = hosts(config.dataflow.workers, 1, world.ranks)
        self.clock: Clock = "measured" if world.ranks > 1 or self._is_synchronous else "simulated"
        self.facts = {"place": self.plan.place, "hosts": self.host, "clock": self.clock}
        self.notes: list[str] = []
        self.t = 0
        self.row: dict[str, Any] = {}
        self.gathering = Gathering(world, len(self.host), self._all_drained)
        self._drained: dict[int, list[Snapshot]] = {}
        self._progress: Callable[[float, dict[str, Any]], None] = lambda *_: None

    def run(self, progress: Callable[[float, dict[str, Any]], None]) -> Outcome:
        """All rounds, with records. Every rank calls it."""
        self._progress = progress
        try:
            if not self._is_synchronous:
                self._messages()
            elif self.world.rank == 0:
                self._synchronous()
        except NonFiniteError as error:
            if self.world.ranks > 1:
                raise  # the others cannot go on: the job ends with this message
            return Outcome("diverged", str(error), self.row)
        return Outcome("finished", "", self.row)

    def order(self, t: int) -> list[int]:
        """The training instances in the order of round t: a function of the seed."""
        keys = self.plan.model.train
        return [keys[i] for i in stream(self.config.seed, "order", t).permutation(len(keys)).tolist()]

    def evaluated(self, t: int) -> Sequence[int]:
        """The instances that are evaluated after round t: all of them after the last one."""
        last = t + 1 == self.config.train.rounds
        found: Sequence[int] = self.plan.model.validation[: None if last else self.config.train.eval_samples]
        return found

    def lr(self, t: int) -> float:
        """The learning rate of round t."""
        train = self.config.train
        return self.config.schedule.lr(t, train.rounds, train.lr)

    @property
    def _is_synchronous(self) -> bool:
        return self.config.dataflow.runtime == "synchronous"

    def _synchronous(self) -> None:
        train, spent_s = self.config.train, 0.0
        baseline = Synchronous(
            self.plan.model,
            lambda parameters: self.config.optimizer.build(parameters, train.lr, train.weight_decay),
            self.config.dataflow.minibatch,
        )
        for t in range(train.rounds):
            order, began = self.order(t), time.perf_counter()
            score = baseline.learn(order, self.lr(t), functools.partial(self._came_back, 2 * t))
            spent_s += time.perf_counter() - began
            row = {"wall_s": round(spent_s, 6), "instances_per_s": (t + 1) * len(order) / spent_s}
            self._record(t, row, score, baseline.score(self.evaluated(t)))

    def _messages(self) -> None:
        self.workers = {w: self.plan.worker(w) for w, rank in enumerate(self.host) if rank == self.world.rank}
        recorders = {w: Recorder(worker) for w, worker in self.workers.items()}
        for worker in self.workers.values():
            worker.on_drained = functools.partial(self._set_lr, worker)
            self._set_lr(worker, -1)
        rounds = range(self.config.train.rounds)
        phases = [keys for t in rounds for keys in (self.order(t), self.evaluated(t))]
        active = self.config.dataflow.max_active_keys
        programs = {
            w: serve(worker)
            if w
            else Controller(worker, active, len(self.host), phases, self._averages, self._came_back).run()
            for w, worker in self.workers.items()
        }

        def done(number: int, phase: int) -> None:
            self.gathering.hand_over(phase, number, recorders[number].snapshot(driver))

        driver: Any
        if self.world.ranks == 1:
            driver = VirtualClock(
                programs, lambda w, _: self.plan.cost(self.workers[w]), self.config.network.carry, done
            )
        else:
            from decentral.runtime.mpi import MPIDriver

            driver = MPIDriver(programs, self.host, done, self.config.dataflow.timeout_s)
        trace = driver.run()
        for recorder in recorders.values():
            recorder.keep_spans(trace)
        trace.spans = sorted((s for r in recorders.values() for s in r.spans), key=lambda span: span.end_s)
        if self.world.ranks > 1:
            from decentral.runtime.mpi import gathered

            trace = gathered(trace)
        lags = self.world.agree(
            {k: v for recorder in recorders.values() for k, v in recorder.staleness().items()}
        )
        if self.world.rank == 0:
            while self.t < self.config.train.rounds:
                self.gathering.collect()
            self._write(trace, {name: found for part in lags for name, found in part.items()})

    def _set_lr(self, worker: Worker, phase: int) -> None:
        """After an evaluation, that of the round that begins."""
        t = (phase + 1) // 2
        if phase % 2 and t < self.config.train.rounds:
            for updates in updates_of(worker):
                updates.lr = self.lr(t)

    def _averages(self, phase: int) -> bool:
        return phase % 2 == 0 and (phase // 2 + 1) % self.config.dataflow.average_every == 0

    def _came_back(self, phase: int, instances: int) -> None:
        """So many instances of a phase have gone through the network: half of the phases learn, half evaluate."""
        t, evaluates = divmod(phase, 2)
        self._progress(t + (1.0 if evaluates else instances / len(self.plan.model.train)), self.row)

    def _all_drained(self, phase: int, parts: list[Snapshot]) -> None:
        """On rank 0: every worker is through with ``phase``."""
        self._drained[phase] = parts
        if phase % 2:
            t, phases = phase // 2, self._drained
            row = row_of(phases, t, self.clock, len(self.plan.model.train))
            learned, judged = (Snapshot.total(phases[phase]) for phase in (2 * t, 2 * t + 1))
            self._record(t, row, learned, judged)

    def _record(self, t: int, row: dict[str, Any], learned: Any, judged: Any) -> None:
        """One row of metrics: ``learned`` is the score of the round's instances while they were learned from."""
        instances = (t + 1) * len(self.plan.model.train)
        self.row = {
            "round": t + 1, "epoch": t + 1, "samples": instances, **row,
            "train_loss": learned.loss / len(self.plan.model.train), "train_accuracy": learned.correct / learned.rows,
            "test_loss": judged.loss / len(self.evaluated(t)), "test_accuracy": judged.correct / judged.rows,
        }  # fmt: skip
        self.t = t + 1
        if self.folder is not None:
            self.folder.append(self.row)
        self._progress(self.t, self.row)

    def _write(self, trace: Trace, staleness: dict[str, Any]) -> None:
        if self.folder is None:
            return
        costs = [
            {"node": node, "direction": way, "flops": flops}
            for (node, way), flops in sorted(self.plan.flops.items())
        ]
        for name, content in (("boundaries", trace.boundaries()), ("staleness", staleness), ("costs", costs)):
            write_whole(self.folder.path / f"{name}.json", json.dumps(content, indent=1) + "\n")
        trace.lane = "worker"
        trace.write_chrome(self.folder.path / "trace.json")
