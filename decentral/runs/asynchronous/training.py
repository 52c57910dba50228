"""One run of asynchronous workers: n rounds' worth of steps without rounds, on the virtual clock or over MPI."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import topologies
from decentral.algorithms.asynchronous.side import Neighbourhood
from decentral.comm.launch import workers_a_rank
from decentral.comm.local import LocalComm
from decentral.errors import UserError
from decentral.rounds.trials.needs import refuse_unmet
from decentral.runs.asynchronous.cards import Cards
from decentral.runs.asynchronous.control import Controller
from decentral.runs.asynchronous.snapshots import Snapshot, csv_of, models_of, traffic
from decentral.runs.asynchronous.worker import Worker
from decentral.runs.folder import write_whole
from decentral.runs.metrics import finite, measure
from decentral.runs.rounds.clock import compute_time
from decentral.runs.rounds.training import Outcome, place_of, record_interval
from decentral.runtime.clock import VirtualClock
from decentral.runtime.gathering import Gathering
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Trace

if TYPE_CHECKING:
    from decentral.problems.objective import Objective
    from decentral.runs.folder import RunFolder
    from decentral.runs.rounds.config import RunConfig

_SPANS = 100_000  # kept, the latest: what a trace file holds


def check(config: RunConfig, world: Any) -> None:
    """Refuse what does not fit: ranks, graph, cluster, and what asynchronous workers cannot do."""
    name = type(config.algorithm).__name__
    workers_a_rank(config.topology.workers, world.ranks)
    if config.train.compile:
        raise UserError(
            f"train.compile = true is for rounds of workers, and {name} has none; set it to false"
        )
    if config.train.oracle == "batched":
        raise UserError(
            f'train.oracle = "batched" is for workers in step, and those of {name} are not; use "auto" or "loop"'
        )
    mixing = config.topology.mixing()
    refuse_unmet(config.algorithm, mixing)
    if config.faults is not None:
        raise UserError(
            f"[faults] are of rounds of workers, and {name} has none; remove the section (a slow worker is "
            'network.compute.name = "one-slow-worker")'
        )
    if config.network.overlap:
        raise UserError(
            f"network.overlap = true is for rounds of workers; messages of {name} travel while workers compute "
            "anyway: set it to false"
        )
    Cards(config.network.cluster, edges_of(mixing))


def edges_of(mixing: topologies.Schedule) -> list[tuple[int, int]]:
    """The directed edges (from, to) of a mixing matrix that does not change."""
    receiver, sender = mixing.matrix(0).nonzero()
    return [(int(j), int(i)) for i, j in zip(receiver, sender, strict=True) if i != j]


def neighbourhoods(mixing: topologies.Schedule, seed: int) -> list[Neighbourhood]:
    """Each worker's neighbours, and its column of the mixing matrix."""
    w = mixing.matrix(0)
    columns, own = w.tocsc(), w.diagonal()
    into: list[list[int]] = [[] for _ in range(mixing.n)]
    for source, target in edges_of(mixing):
        into[target].append(source)
    found = []
    for i in range(mixing.n):
        begin, end = columns.indptr[i : i + 2]
        shares = {
            int(j): float(share)
            for j, share in zip(columns.indices[begin:end], columns.data[begin:end], strict=True)
            if share and j != i
        }
        targets = tuple(sorted(shares))
        found.append(
            Neighbourhood(
                i, seed, targets, tuple(sorted(into[i])), tuple(shares[j] for j in targets), float(own[i])
            )
        )
    return found


class Training:
    """The workers that this rank hosts, and the records; rank 0 puts them together, and hosts the controller.

    A run that was interrupted begins anew (``kept`` is None): messages under way have no state to put back.
    Over MPI rank 0's own workers stand still while it measures, and the others go on; ``wall_s`` holds that time.
    """

    def __init__(
        self, config: RunConfig, world: Any, device: torch.device, folder: RunFolder | None, kept: None = None
    ) -> None:
        del kept
        self.config, self.world, self.folder, self.device = config, world, folder, device
        self.n, train = config.topology.workers, config.train
        mixing = world.from_root(config.topology.mixing)
        h = workers_a_rank(self.n, world.ranks)
        self.host = [*(i // h for i in range(self.n)), 0]  # the last one is the controller
        hosted = range(world.rank * h, (world.rank + 1) * h)
        rows = range(self.n) if world.rank == 0 else hosted  # rank 0 measures all of them
        self.objective: Objective = config.problem.build(place_of(config, rows, device, "loop"))
        self.comm = LocalComm(mixing)
        near = neighbourhoods(mixing, config.seed)
        rate = self._lr(0)
        self.workers: dict[int, Worker] = {}
        for i in hosted:
            side = config.algorithm.side(self.objective.start()[None].clone(), near[i])
            alone = self.objective.alone(i - rows.start)
            self.workers[i] = Worker(side, near[i], alone, self.n, rate, train.weight_decay)
        every = record_interval(train, self.objective)
        self.controller = Controller(self.n, [*range(every, train.rounds, every), train.rounds], self._lr)
        self.edges = edges_of(mixing)
        self.t = 0
        self.row: dict[str, Any] = {}
        self.clock = "simulated" if world.ranks == 1 else "measured"
        self.facts = {"oracle": self.objective.oracle, "clock": self.clock}
        self.notes = list(self.objective.notes)
        self._moments: dict[int, dict[str, float]] = {}  # round -> columns of time
        self.gathering = Gathering(world, self.n, self._record)
        self._began = 0.0
        self._progress: Callable[[int, dict[str, Any]], None] = lambda *_: None

    def run(self, progress: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """All steps, with records. Every rank calls it."""
        self._progress = progress
        programs = {i: worker.run() for i, worker in self.workers.items()}
        if self.world.rank == 0:
            self._record_start()
            programs[self.n] = self.controller.run()
        self._began = time.perf_counter()
        if self.world.ranks == 1:
            network, seed = self.config.network, self.config.seed
            place = place_of(self.config, range(1), torch.device("cpu"), "loop")
            seconds = compute_time(network, self.config.problem, place)
            cards = Cards(network.cluster, self.edges)

            def cost(number: int, kind: str) -> float:
                del kind  # workers compute nothing else than gradients
                return float(seconds.draw(self.workers[number].t, range(number, number + 1), seed)[0])

            self.driver: Any = VirtualClock(programs, cost, cards, self._done)
            cards.clock = self.driver
            trace: Trace | None = self.driver.run()
        else:
            from decentral.runtime.mpi import MPIDriver, gathered

            self.driver = MPIDriver(programs, self.host, self._done)
            trace = gathered(self.driver.run())
        parts = self.world.agree(histogram(worker.side.staleness for worker in self.workers.values()))
        counts = histogram(parts)
        status, message = self.world.from_root(self._end)
        if trace is not None:
            self._write(trace, counts)
        final = {"answered": self.controller.answered, **staleness_columns(counts)}
        return Outcome(status, message, self.row | final)

    def _lr(self, t: int) -> float:
        train = self.config.train
        return self.config.schedule.lr(min(t, train.rounds - 1), train.rounds, train.lr)

    def _end(self) -> tuple[str, str]:
        """Rank 0: the last copies are on their way. The status."""
        while self._moments:
            self.gathering.collect()
        trouble = self.controller.trouble
        return ("diverged", trouble) if trouble else ("finished", "")

    def _done(self, number: int, mark: int) -> None:
        """A worker of this rank, or the controller, is in round ``mark``."""
        del self.driver.trace.spans[:-_SPANS]
        if number == self.n:
            spent_s = time.perf_counter() - self._began
            moment = {
                "wall_s": round(spent_s - (self.gathering.spent_s if self.world.ranks == 1 else 0.0), 6)
            }
            if self.clock == "simulated":
                moment["simulated_s"] = self.driver.now
            self._moments[mark] = moment
            return
        self.gathering.hand_over(mark, number, Snapshot.of(self.workers[number]))

    def _record_start(self) -> None:
        times = {"wall_s": 0.0, **({"simulated_s": 0.0} if self.clock == "simulated" else {})}
        self._moments[0] = times
        x = self.objective.start()[None]
        buffers = {name: value[:1] for name, value in self.objective.buffers.items()}
        self._record(0, [Snapshot(i, x, buffers, 0, {}, 0, {}) for i in range(self.n)])

    def _record(self, mark: int, parts: list[Snapshot]) -> None:
        """One row of metrics, from the copies of all workers in their order."""
        train, objective = self.config.train, self.objective
        times = self._moments.pop(mark)
        if self.controller.trouble:
            return
        x, buffers = models_of(parts, self.device)
        for name, value in buffers.items():
            objective.buffers[name].copy_(value)
        values = measure(x, self.comm, objective, mark >= train.rounds)
        if not finite(values):
            self.controller.trouble = f"round {mark}, worker {_overflown(x)}: its model overflowed"
            return
        steps = sum(s.steps for s in parts)
        epoch = objective.epoch(1)
        batch = 0 if train.batch_size == "full" else train.batch_size
        self.row = {
            "round": mark,
            **({} if epoch is None else {"epoch": epoch * steps / self.n}),
            **({"samples": steps * batch} if batch and epoch is not None else {}),
            **times,
            **traffic(parts, self.host),
            **values,
            **staleness_columns(histogram(s.staleness for s in parts)),
        }
        self.t = mark
        if self.folder is not None:
            self.folder.append(self.row)
        self._progress(self.t, self.row)

    def _write(self, trace: Trace, counts: dict[int, int]) -> None:
        if self.folder is None:
            return
        write_whole(self.folder.path / "staleness.csv", csv_of(counts))
        trace.lane = "worker"
        trace.spans = [span for span in trace.spans if span.stage < self.n]
        trace.write_chrome(self.folder.path / "trace.json")


def _overflown(x: Tensor) -> int:
    return int(np.argmin(np.isfinite(x.double().square().sum(1).cpu().numpy())))
