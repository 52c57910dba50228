"""One layer-parallel run: profile, drive the program, record, and write down what its stages did when."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import topologies
from decentral.algorithms.traits import traits_of
from decentral.errors import UserError
from decentral.rounds.trials.needs import refuse_unmet
from decentral.runs.folder import write_whole
from decentral.runs.rounds.training import Outcome
from decentral.runs.stages.building import Plan, hosts
from decentral.runs.stages.snapshots import Assembly, Observer, Snapshot, row_of
from decentral.runtime.clock import VirtualClock
from decentral.runtime.gathering import Gathering
from decentral.runtime.requests import NonFiniteError
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Trace
from decentral.stages.heads.local_losses import cross_entropy
from decentral.stages.profile import cost_table, profile

if TYPE_CHECKING:
    from decentral.runs.folder import RunFolder
    from decentral.runs.sections.stages import StageConfig
    from decentral.runs.sections.train import Train
    from decentral.runs.stages.samples import Samples


def check(config: StageConfig, world: Any) -> None:
    """Refuse what does not fit: the cut, the program, its heads, the ranks."""
    hosts(config.stages.count, config.workers, world.ranks)
    if config.topology is not None:
        refuse_unmet(config.algorithm, config.topology.mixing())
        if traits_of(config.algorithm).whole:
            raise UserError(
                f"{type(config.algorithm).__name__} looks at whole models and a stage holds a part; use another method"
            )
    Plan(config, torch.device("cpu"))


def record_interval(train: Train, samples: Samples, workers: int) -> int:
    """Steps from one record to the next. By default a 20th of the run, but records take a 20th of the work at most."""
    if train.record_every != "auto":
        return train.record_every
    train_seen, test_seen = (min(len(y), train.eval_samples) for _, y in (samples.train, samples.test))
    seen = train_seen + test_seen * (1 if workers == 1 else workers + 1)
    # that cost as much: forward and backward are thrice a forward pass
    steps = 1 + seen / (3 * samples.step_samples)
    return max(1, train.rounds // 20, math.ceil(20 * steps))


class Training:
    """The stages that this rank hosts, of one worker or of several that gossip; their program and its records.

    Rank 0 measures. FLOPs, costs and kept activations are found with one worker alone: all have the same stages.

    A run that was interrupted begins anew (``kept`` is None): programs have no state to put back.
    """

    def __init__(
        self, config: StageConfig, world: Any, device: torch.device, folder: RunFolder | None, kept: None
    ) -> None:
        del kept
        self.config, self.world, self.folder = config, world, folder
        self.plan = Plan(config, device)
        self.host = hosts(config.stages.count, config.workers, world.ranks)
        self.profile = world.from_root(lambda: profile(config.program, self.plan.trial))
        self.costs = cost_table(self.profile, config.stages.costs, config.stages.flops_per_s)
        mine = [k for k, rank in enumerate(self.host) if rank == world.rank]
        topology = config.topology
        self.mixing = None if topology is None else world.from_root(topology.mixing)
        self.stages = self.plan.stages(config.train.rounds, mine, self.mixing)
        self.observers = {s.number: Observer(s, self._is_recorded) for s in self.stages}
        self.assembly = Assembly(self.plan.network, cross_entropy)
        self.every = record_interval(config.train, self.plan.samples, config.workers)
        self.t = 0
        self.row: dict[str, Any] = {}
        self.notes: list[str] = []
        self.clock = "simulated" if world.ranks == 1 else "measured"
        self.facts = {
            "cut": [[span.start, span.stop] for span in self.plan.spans],
            "hosts": self.host,
            "clock": self.clock,
        }
        self.gathering = Gathering(world, len(self.host), self._record)
        self._steps = {stage.number: 0 for stage in self.stages}  # done by each stage of this rank
        self._progress: Callable[[float, dict[str, Any]], None] = lambda *_: None

    def run(self, progress: Callable[[float, dict[str, Any]], None]) -> Outcome:
        """All steps, with records. Every rank calls it.

        ``progress`` is told of each step, by the slowest stage of this rank, and of the newest record.
        """
        self._progress = progress
        self._write("costs.json", self._cost_rows())
        programs = {s.number: self.config.program.run(s) for s in self.stages}
        if self.world.ranks == 1:
            self.driver: Any = VirtualClock(programs, self._cost, self.config.network.carry, self._done)
        else:
            from decentral.runtime.mpi import MPIDriver, gathered

            self.driver = MPIDriver(programs, self.host, self._done, self.config.stages.timeout_s)
        try:
            trace = self.driver.run()
        except NonFiniteError as error:
            if self.world.ranks > 1:
                raise  # the others cannot go on: the job ends with this message
            return Outcome("diverged", str(error), self.row)
        if self.world.ranks > 1:
            trace = gathered(trace)
        staleness = {k: v for part in self.world.agree(self._staleness()) for k, v in part.items()}
        findings = {k: v for part in self.world.agree(self._findings()) for k, v in part.items()}
        if self.world.rank == 0:
            while self.t < self.config.train.rounds:
                self.gathering.collect()
            self._write_trace(trace)
            self._write("staleness.json", staleness)
            if findings and self.folder is not None:
                write_whole(self.folder.path / "findings.npz", lambda file: np.savez(file, **findings))
        return Outcome("finished", "", self.row | self._final(staleness))

    def _is_recorded(self, t: int) -> bool:
        return (t + 1) % self.every == 0 or t + 1 == self.config.train.rounds or t == 0

    def _cost(self, number: int, kind: str) -> float:
        return self.costs.get((number % self.config.stages.count, kind), 0.0)

    def _done(self, stage: int, t: int) -> None:
        """A stage of this rank has finished step t."""
        if self._is_recorded(t):
            sent = self.driver.sent_by(stage)
            self.gathering.hand_over(t, stage, self.observers[stage].snapshot(t, self.driver.now, *sent))
        elif self.world.rank == 0:
            self.gathering.collect()
        self._steps[stage] = t + 1
        self._progress(min(self._steps.values()), self.row)

    def _record(self, t: int, parts: list[Snapshot]) -> None:
        """One row of metrics, once all stages have finished the step."""
        train, samples = self.config.train, self.plan.samples
        row = {"round": t + 1, **row_of(parts, self.clock)}
        if "wall_s" in row:  # rank 0's stages stood still while it measured
            row["wall_s"] = max(0.0, row["wall_s"] - self.gathering.spent_s)
        n, count = self.config.workers, self.config.stages.count
        row["samples"] = (t + 1) * samples.step_samples
        row["epoch"] = row["samples"] / samples.epoch_samples
        row["flops"] = (t + 1) * self.profile.flops_step * n
        row["critical_flops"] = (t + 1) * self.profile.critical_flops_step
        workers = [parts[i * count : (i + 1) * count] for i in range(n)]
        cosines = [self.assembly.cosines(own, *samples.batch(i, t)) for i, own in enumerate(workers)]
        of_layer = [_mean(values) for values in zip(*cosines, strict=True)]
        row["gradient_cosine"] = _mean(of_layer)
        row |= self._evaluate(workers, t + 1 == train.rounds)
        self.row, self.t = row, t + 1
        if self.folder is not None:
            self.folder.append({**row, **{f"gradient_cosine_{i}": c for i, c in enumerate(of_layer)}})
        self._progress(self.t, row)

    def _evaluate(self, workers: Sequence[Sequence[Snapshot]], last: bool) -> dict[str, float]:
        """Losses and accuracies of the averaged model; where there are several, what is measured of workers."""
        samples, most, values = self.plan.samples, self.config.train.eval_samples, {}
        models = [[s.after for s in own] for own in workers]
        if len(models) > 1:
            accuracies = []
            for states in models:
                self.assembly.load(states)
                accuracies.append(self.assembly.measure(*_first(samples.test, most))[1])
            values["test_accuracy_worker_mean"] = sum(accuracies) / len(models)
            values["test_accuracy_worker_min"] = min(accuracies)
            values["consensus_sq"] = self.assembly.consensus_sq(models)  # and loads the average
        else:
            self.assembly.load(models[0])
        for name, size in (("train", most), ("test", None if last else most)):
            part = _first(getattr(samples, name), size)
            values[f"{name}_loss"], values[f"{name}_accuracy"] = self.assembly.measure(*part)
        return values

    def _staleness(self) -> dict[int, dict[int, int]]:
        return {s.number: dict(sorted(s.staleness.items())) for s in self.stages if s.staleness}

    def _findings(self) -> dict[str, Any]:
        return {
            f"stage_{s.number:d}_{name}": value.detach().cpu().numpy()
            for s in self.stages
            for name, value in s.findings.items()
        }

    def _final(self, staleness: dict[int, dict[int, int]]) -> dict[str, float]:
        found = self.profile
        final = {
            "flops_step": found.flops_step * self.config.workers,
            "critical_flops_step": found.critical_flops_step,
            "activation_bytes_max": max(found.activation_bytes),
            "activation_bytes_sum": sum(found.activation_bytes),
        }
        if self.mixing is not None and self.mixing.period == 1:
            final["spectral_gap"] = topologies.spectral_gap(self.mixing.matrix(0))
        counts = histogram(staleness.values())
        return final | (staleness_columns(counts) if counts else {})

    def _cost_rows(self) -> list[dict[str, Any]]:
        found = self.profile
        return [
            {
                "stage": k, "kind": kind, "flops": found.flops[k, kind],
                "measured_s": found.seconds.get((k, kind), 0.0), "clock_s": self.costs.get((k, kind), 0.0),
            }
            for k, kind in sorted(found.flops)
        ]  # fmt: skip

    def _write(self, name: str, content: Any) -> None:
        if self.folder is not None and self.world.rank == 0:
            write_whole(self.folder.path / name, json.dumps(content, indent=1) + "\n")

    def _write_trace(self, trace: Trace) -> None:
        if self.folder is None:
            return
        self._write("boundaries.json", trace.boundaries())
        self._write("activation_bytes.json", dict(enumerate(self.profile.activation_bytes)))
        trace.write_chrome(self.folder.path / "trace.json")


def _first(part: tuple[Any, Any], size: int | None) -> tuple[Any, Any]:
    x, y = part
    return x[:size], y[:size]


def _mean(values: Sequence[float]) -> float:
    """Of those that are known; NaN if none is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")
