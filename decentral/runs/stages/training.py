"""One layer-parallel run: profile, drive the program, record, and write down what its stages did when."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import topologies
from decentral.algorithms.traits import traits_of
from decentral.comm.local import LocalComm
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.optimizers.rule import is_asked
from decentral.rounds.ruled import refuse_second_rule, ruled
from decentral.rounds.trials.columns import looks_across_layers
from decentral.rounds.trials.contract import refuse_misfit
from decentral.rounds.trials.momentum import momentum_twice, rule_has_momentum
from decentral.rounds.trials.needs import refuse_unmet
from decentral.runs.divergence import overflow
from decentral.runs.findings import leave_findings
from decentral.runs.gathering import Gathering
from decentral.runs.hosts import hosts
from decentral.runs.journal import Journal, Outcome, Seen
from decentral.runs.metrics import finite, measure, record_interval
from decentral.runs.place import Here
from decentral.runs.rescaling import refuse_rescaling
from decentral.runs.rows import refuse_rows
from decentral.runs.stages.building import Plan
from decentral.runs.stages.config import StageRun
from decentral.runs.stages.snapshots import Assembly, Observer, Snapshot
from decentral.runtime.drive import clock_of, drive
from decentral.runtime.driver import Driver
from decentral.runtime.requests import NonFiniteError, Program, StageError
from decentral.runtime.staleness import histogram, staleness_columns
from decentral.runtime.trace import Trace
from decentral.stages.drawing import begun
from decentral.stages.profile import cost_table, profile


def check(run: StageRun, world: World) -> None:
    """Refuse what does not fit: the cut, the program, its heads, the ranks."""
    _hosts(run, world)
    refuse_rows(run, 1)  # rank 0 has all workers' models when it measures
    if run.topology is not None and run.algorithm is not None:
        refuse_misfit(run.algorithm, getattr(torch, run.train.dtype))
        refuse_unmet(run.algorithm, run.topology.mixing())
        refuse_second_rule(run.algorithm, run.optimizer)
        if traits_of(run.algorithm).whole:
            raise UserError(
                f"{type(run.algorithm).__name__} looks at whole models and a stage holds a part; use another method"
            )
        method, _ = ruled(run.algorithm, run.optimizer, run.train.weight_decay)
        if run.stages.count > 1 and looks_across_layers(method):
            raise UserError(
                f"{type(run.algorithm).__name__} looks across the columns of a model, and a stage has a part of them "
                "and does not wait for the others; use stages.count = 1, or a method that acts alike on every column"
            )
    refuse_rescaling(run, run.optimizer, run.algorithm)
    Plan(run, torch.device("cpu")).rehearse()


def execute(run: StageRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None) -> Outcome:
    """All steps, with records. Every rank calls it. It begins anew: programs have no state to put back."""
    del kept
    return Training(run, here, journal).run()


class Training:
    """The stages that this rank hosts, of one worker or of several that gossip; their program and its records.

    Rank 0 measures. FLOPs, costs and kept activations are found with one worker alone: all have the same stages.
    """

    def __init__(self, config: StageRun, here: Here, journal: Journal) -> None:
        self.config, self.world, self.journal = config, here.world, journal
        world = here.world
        self.plan = Plan(config, here.device)
        self.host = _hosts(config, world)
        self.profile = world.from_root(lambda: profile(config.program, self.plan.trial, self.plan.generators))
        self.costs = cost_table(self.profile, config.stages.costs, config.stages.flops_per_s)
        mine = [k for k, rank in enumerate(self.host) if rank == world.rank]
        topology = config.topology
        self.mixing = None if topology is None else world.from_root(topology.mixing)
        self.stages = self.plan.stages(config.train.rounds, mine, self.mixing)
        self.observers = {s.number: Observer(s, self._is_recorded) for s in self.stages}
        self.objective = self.plan.samples.objective
        self.assembly = Assembly(self.plan.network, self.objective)
        self.comm = LocalComm(np.eye(1) if self.mixing is None else self.mixing)
        # the cosine takes forward and backward: a step
        self.every = record_interval(config.train, 1 + self.objective.record_cost_rounds())
        self.t = 0
        self.trouble = ""
        self.gathering = Gathering(world, len(self.host), self._record)
        self._steps = {stage.number: 0 for stage in self.stages}  # done by each stage of this rank
        cut = [[span.start, span.stop] for span in self.plan.spans]
        notes = [*self.objective.notes, *_notes(config)]
        if self.plan.rescaling is not None and self.plan.rescaling.note:
            notes.append(self.plan.rescaling.note)
        journal.begin({"cut": cut, "hosts": self.host, "clock": clock_of(world)}, notes)

    def run(self) -> Outcome:
        """All steps, with records."""
        config, world = self.config, self.world
        self.journal.leave("costs.json", self._cost_rows())
        self.gathering.begin()
        try:
            trace = drive(
                self._programs(), self.host, world,
                cost=self._cost, link=lambda _: config.network.carry, done=self._done,
                timeout_s=config.stages.timeout_s,
            )  # fmt: skip
        except NonFiniteError as error:
            if world.ranks > 1:
                raise  # the others cannot go on: the job ends with this message
            return self.journal.ended("diverged", str(error))
        self._check_done()
        staleness = {k: v for part in world.agree(self._staleness()) for k, v in part.items()}
        findings = {k: v for part in world.agree(self._findings()) for k, v in part.items()}
        if trace is not None:
            while self.t < config.train.rounds:
                self.gathering.collect()
            self._leave(trace, staleness, findings)
        trouble = world.from_root(lambda: self.trouble)
        status = "diverged" if trouble else "finished"
        return self.journal.ended(status, trouble, self._final(staleness))

    def _programs(self) -> dict[int, Program]:
        program, generators = self.config.program, self.plan.generators
        return {s.number: begun(program, s, generators, self.config.seed) for s in self.stages}

    def _check_done(self) -> None:
        """All programs have ended: refuse one that never said so of its steps, whose records would be waited for."""
        rounds = self.config.train.rounds
        done = min(self.world.agree(min(self._steps.values(), default=rounds)))
        if done < rounds:
            raise StageError(
                f"a stage has ended after step {done} of {rounds}: its program must yield Done(t) after each step t"
            )

    def _is_recorded(self, t: int) -> bool:
        return (t + 1) % self.every == 0 or t + 1 == self.config.train.rounds or t == 0

    def _cost(self, number: int, kind: str) -> float:
        return self.costs.get((number % self.config.stages.count, kind), 0.0)

    def _done(self, driver: Driver, stage: int, t: int) -> None:
        """A stage of this rank has finished step t."""
        if self._is_recorded(t):
            self.gathering.hand_over(t, stage, self.observers[stage].snapshot(t, driver))
        elif self.world.rank == 0:
            self.gathering.collect()
        self.observers[stage].stage.losses.pop(t, None)  # nobody asks for it again
        self._steps[stage] = t + 1
        self.journal.moved(min(self._steps.values()))

    def _record(self, t: int, parts: list[Snapshot]) -> None:
        """One row of metrics, once all stages have finished the step."""
        config, objective, done = self.config, self.objective, t + 1
        self.t = done
        count = config.stages.count
        workers = [parts[i : i + count] for i in range(0, len(parts), count)]
        x = self.assembly.models(workers)
        values = measure(x, self.comm, objective, done == config.train.rounds)
        if not finite(values):
            self.trouble = self.trouble or overflow(done, x, self.comm)
            return
        cosines = [self._cosines(own, i, t) for i, own in enumerate(workers)]
        of_layer = [_mean(per_worker) for per_worker in zip(*cosines, strict=True)]
        more = {
            "batch_loss": _mean([s.loss for s in parts if s.loss is not None]),
            "flops": done * self.profile.flops_step * config.workers,
            "critical_flops": done * self.profile.critical_flops_step,
            "gradient_cosine": _mean(of_layer),
        }
        self.journal.record(
            self._seen(done, workers),
            {**values, **more},
            {f"gradient_cosine_{i}": cosine for i, cosine in enumerate(of_layer)},
        )

    def _cosines(self, own: Sequence[Snapshot], worker: int, t: int) -> list[float]:
        generators = self.plan.generators
        with generators.kept():
            generators.seed(self.config.seed, "model", worker, t)
            return self.assembly.cosines(own, *self.plan.samples.batch(worker, t))

    def _seen(self, done: int, workers: Sequence[Sequence[Snapshot]]) -> Seen:
        """A worker has sent what its stages have, to each other too."""
        parts = [s for own in workers for s in own]
        now_s, simulated = max(s.time_s for s in parts), self.world.ranks == 1
        # over MPI stages run ahead: what counts is when the last one had finished this step
        wall_s = self.gathering.training_s if simulated else max(0.0, now_s - self.gathering.spent_s)
        sent_bytes = [sum(s.sent.bytes for s in own) for own in workers]
        messages, away = sum(s.sent.messages for s in parts), sum(s.sent.away_bytes for s in parts)
        samples, epoch = self.objective.samples(done), self.objective.epoch(done)
        return Seen(done, samples, epoch, wall_s, now_s if simulated else None, sent_bytes, messages, away)

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

    def _leave(self, trace: Trace, staleness: dict[int, Any], findings: dict[str, Any]) -> None:
        journal = self.journal
        journal.leave("boundaries.json", trace.boundaries())
        journal.leave("activation_bytes.json", dict(enumerate(self.profile.activation_bytes)))
        journal.leave("trace.json", trace.chrome())
        journal.leave("staleness.json", staleness)
        leave_findings(journal, self.config.problem, self.objective)
        if findings:
            journal.leave("findings.npz", functools.partial(np.savez, **findings))


def _hosts(run: StageRun, world: World) -> list[int]:
    of_all = f" of {run.workers} workers" if run.workers > 1 else ""
    return hosts(run.stages.count * run.workers, world.ranks, f"stages.count = {run.stages.count}{of_all}")


def _mean(values: Sequence[float]) -> float:
    """Of those that are known; NaN if none is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")


def _notes(run: StageRun) -> list[str]:
    if run.algorithm is None or not is_asked(run.optimizer) or not rule_has_momentum(run.optimizer):
        return []
    note = momentum_twice(run.algorithm, run.optimizer.title)
    return [note] if note else []
