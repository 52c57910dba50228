"""One run of rounds, from its first round or its last checkpoint to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch

import topologies
from decentral.comm.links import Links
from decentral.optimizers.clipping import clipped
from decentral.optimizers.rule import is_asked
from decentral.optimizers.spans import nothing_acted_on
from decentral.problems.objective import Objective
from decentral.problems.other_batches import OtherBatches
from decentral.rounds import absence
from decentral.rounds.advance import advance
from decentral.rounds.compiled import CompiledMethod
from decentral.rounds.ruled import Ruled, ruled
from decentral.rounds.trials.columns import cut_note, looks_across
from decentral.rounds.trials.messages import early_messages
from decentral.rounds.trials.momentum import momentum_twice, rule_has_momentum
from decentral.runs import stopping
from decentral.runs.computing import compute_time
from decentral.runs.divergence import Losses, overflow
from decentral.runs.findings import leave_findings
from decentral.runs.journal import Journal, Outcome, Seen
from decentral.runs.metrics import finite, measure, record_interval, traffic
from decentral.runs.place import Here, place_of
from decentral.runs.rescaling import rescaling_of, sparing
from decentral.runs.rounds import checkpoint
from decentral.runs.rounds.attack_times import with_attacks
from decentral.runs.rounds.clock import SimulatedTime
from decentral.runs.rounds.columns import compression_ratios, theory_bias_sq
from decentral.runs.rounds.company import Company
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.evaluations import Evaluations
from decentral.runs.rounds.faults import fault_counts, fault_notes, links_with
from decentral.runs.rounds.noise_scale import RunningNoise
from decentral.runs.rounds.rate import Rate
from decentral.runs.rounds.timeline import Stopwatch, gathered_rounds, middle
from decentral.runs.rounds.trust import FILE, Trust
from decentral.runtime.trace import Trace


class Training:
    """The state of one run: models x (h, d), the method's state, the round, the time spent in rounds.

    ``end``: the round before which the rounds end that are trained like this one. ``company``: where ranks of
    workers have others beside them.
    """

    def __init__(
        self, config: RoundsRun, here: Here, journal: Journal, kept: Mapping[str, Any] | None = None,
        company: Company | None = None,
    ) -> None:  # fmt: skip
        self.company, self.measured = company, here.world.ranks > 1 or company is not None
        self.config, self.world, self.journal = config, here.world, journal
        self.comm = self.world.communicator(self.world.from_root(config.topology.mixing))
        place = place_of(config, self.comm.rows, here.device, config.train.oracle)
        if kept and kept["oracle"] in ("batched", "loop"):
            # this many ranks, or this much memory, might choose others, and the last bits would differ
            place = replace(place, oracle=kept["oracle"], chunk=kept.get("chunk") or config.topology.workers)
        self.objective: Objective = config.problem.build(place)
        if company is not None:
            company.furnish(self.objective, self.comm)
        self._furnish_links()
        self.x = self.objective.start().expand(self.comm.h, -1).clone()
        self.rescaling = rescaling_of(config.optimizer, self.objective)
        rule = sparing(config.optimizer, self.rescaling, config.train.weight_decay)
        method, self.weight_decay = ruled(config.algorithm, rule, config.train.weight_decay)
        if isinstance(method, Ruled):
            method = method.told(lambda: self.objective.losses).asking(OtherBatches(self.objective).evaluated)
        self.state = method.init(self.x, self.comm)
        self.comm.faults = links_with(config.faults, config.algorithm, self.comm, self.x, config.seed)
        self.whole = looks_across(method)
        self.trust = Trust(config.trust_ratios, config.optimizer, self.comm) if config.trust_ratios else None
        if self.trust is not None and isinstance(method, Ruled):
            method = method.watched(self.trust.watch)
        self.method = CompiledMethod(method, self.comm) if config.train.compile else method
        self.noise = RunningNoise(config.noise_scale, config) if config.noise_scale else None
        self.simulated = self._clocks()
        self.t, self.end, self.wall_s, limit = 0, config.train.rounds, 0.0, float("inf")
        self.rate = Rate(config, self.world, journal, kept.get("schedule") if kept else None)
        self.record_rounds = record_interval(config.train, ceil(self.objective.record_cost_rounds()))
        notes = [*self.objective.notes, *_notes(self.comm.schedule), *self._method_notes()]
        if config.faults:
            notes += fault_notes(config.algorithm, self.comm.schedule, config.faults)
        if kept:  # go on from a checkpoint
            self.t, self.wall_s, limit = kept["t"], kept["wall_s"], kept["loss_limit"]
            if kept["threads"] != (threads := torch.get_num_threads()):
                notes.append(
                    f"begun with {kept['threads']} threads and resumed with {threads}: the last bits may differ"
                )
            if (before := kept.get("device", "cpu")) != self.x.device.type:
                notes.append(
                    f"begun on {before} and resumed on {self.x.device.type}: the last bits differ; train.device chooses"
                )
            self._take_up(kept)
        self.evaluations = Evaluations(config.optimizer, self.comm, self.state)
        self.losses = Losses(self.comm, self.x.device, self.t, limit)
        self.watch = Stopwatch(self.world.rank, self.x.device)
        # in one process the timeline is the simulated one
        self.watched = middle(config.train.rounds, self.t) if self.measured else range(0)
        chunk = getattr(self.objective, "chunk", None)
        facts = {"oracle": self.objective.oracle, **({"chunk": chunk} if chunk else {})}
        journal.begin(facts, notes, kept["row"] if kept else None)

    @property
    def unfinished(self) -> bool:
        """Whether there is more to come, so that a checkpoint is of use."""
        return self.t < self.end

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        self.state = checkpoint.restore(kept, self.comm, self.objective, self.x, self.state)
        self.simulated.restore(kept["clocks"], self.t)
        if self.noise is not None:
            self.noise.restore(kept["noise"], self.objective)
        if self.trust is not None:
            self.trust.restore(kept["trust"])

    def _furnish_links(self) -> None:
        config, comm = self.config, self.comm
        comm.layout = self.objective.layout
        if config.compression:
            comm.links = Links(config.compression.compressor(), comm.layout, config.seed, comm.rows)

    def _clocks(self) -> SimulatedTime:
        config = self.config
        place = place_of(config, range(1), torch.device("cpu"))
        compute = self.world.from_root(lambda: compute_time(config.network, config.problem, place))
        if config.faults is not None:
            compute = config.faults.slowed(compute)
        if config.adversarial is not None:
            base = compute
            compute = self.world.from_root(lambda: with_attacks(base, config.problem, place))
        if self.noise is not None:
            compute = self.noise.timed(compute)
        early = sum(early_messages(config.algorithm)) if config.network.overlap else 0
        # over MPI the timeline is the measured one
        drawn = config.network.said and not self.measured
        traced = middle(config.train.rounds, 0) if drawn else range(0)
        return SimulatedTime(config.network, compute, self.comm, config.seed, early, traced)

    def run(self) -> Outcome:
        """All rounds that are left, with records and checkpoints.

        A signal to end leaves a checkpoint of the round that was under way; on ranks, of the next one after which they
        look at their losses together. Raises Stopped then.
        """
        with stopping.put_off():
            outcome = self._run()
            if self.trust is not None:
                self.journal.leave(FILE, self.trust.text())
            return outcome

    def _run(self) -> Outcome:
        train, journal = self.config.train, self.journal
        alone = self.world.ranks == 1
        if self.t == 0:
            self._record()
        began = time.perf_counter()
        while self.t < self.end:
            self._round()
            record = self.t % self.record_rounds == 0 or self.t == self.end
            keep = self.t % train.checkpoint_rounds == 0 and self.unfinished
            watched = bool(self.watched) and self.t == self.watched.stop
            asked = stopping.asked()
            decides = self.rate.decides(self.t)
            if not (record or keep or watched or decides or self.losses.full or (asked and alone)):
                journal.moved(self.t)
                continue
            trouble = self.losses.trouble(asked)  # waits for the device
            if not trouble:
                self.rate.hear(self.losses.seen, self.t)
            self.wall_s += time.perf_counter() - began
            if trouble or (record and (trouble := self._record())):
                return journal.ended("diverged", trouble)
            if watched and (trace := self._timeline()) is not None:
                journal.leave("trace.json", trace.chrome())
            if keep or (any(self.losses.asked) and self.unfinished):
                self._keep()
                stopping.stop_if(self.losses.asked)
            journal.moved(self.t)
            began = time.perf_counter()
        return self._end()

    def _timeline(self) -> Trace | None:
        if self.company is not None:
            return self.company.gathered(self.watch)
        return gathered_rounds(self.watch, self.world, "worker" if self.comm.h == 1 else "rank")

    def _round(self) -> None:
        """One round, and what is noted of it."""
        lr = self.rate.lr(self.t)
        if self.t in self.watched:
            with self.watch.round(self.t, self.comm):
                self._advance(lr, self.watch)
        else:
            self._advance(lr)
        self.simulated.note(*self.evaluations.newly(self.state))
        self.losses.note(self.objective.losses)
        self.t += 1

    def _advance(self, lr: float, watch: Stopwatch | None = None) -> None:
        away, buffers = self.comm.faults.away(self.t) if self.comm.faults else [], self.objective.buffers
        still = absence.stand(away, self.x, self.state, buffers)
        if self.noise is not None:
            self.noise.before(self.t, self.objective)
        gradient = self.objective.gradient(self.x, self.t)
        if watch is not None:
            gradient = watch.computing(gradient)
        if self.noise is not None:
            gradient = self.noise.seen(gradient, self.comm, self.t, self.objective)
        if self.config.train.clip_norm:
            gradient = clipped(gradient, self.config.train.clip_norm)
        self.x, self.state = advance(
            self.method,
            self.x,
            self.state,
            gradient,
            self.comm,
            self.t,
            lr,
            self.weight_decay,
            whole=self.whole,
        )
        if self.rescaling is not None and self.rescaling.is_due(self.t):
            self.rescaling.act(self.objective.layout.views(self.x), buffers)
        absence.put_back(still, self.x, self.state, buffers)

    def _record(self) -> str:
        """One row of metrics; or none, and the message, if the models are no longer finite."""
        values = measure(self.x, self.comm, self.objective, not self.unfinished)
        moved, simulated_s = traffic(self.comm), self.simulated.catch_up()
        if not finite(values):
            return overflow(self.t, self.x, self.comm)
        samples, epoch = self._seen()
        seen = Seen(self.t, samples, epoch, self.wall_s, simulated_s, *moved)
        self.journal.record(seen, {**values, **self._more()})
        return ""

    def _seen(self) -> tuple[int | None, float | None]:
        """Samples, and passes over the data, until here. Every rank calls it."""
        return self.evaluations.of_rounds(self.objective, self.t)

    def _more(self) -> dict[str, float]:
        """Columns of a record besides those of all runs. Every rank calls it."""
        of_method = self.state.method if isinstance(self.method, Ruled) else self.state
        faults = fault_counts(self.comm, of_method) if self.config.faults else {}
        noise = self.noise.columns() if self.noise is not None else {}
        return {**self.rate.columns(self.t), **compression_ratios(self.comm), **faults, **noise}

    def _keep(self) -> None:
        """A checkpoint."""
        self.simulated.catch_up()
        self.journal.keep(
            checkpoint.state(
                self.world, self.comm, self.objective, self.x, self.state,
                t=self.t, wall_s=self.wall_s, loss_limit=self.losses.limit, row=self.journal.row,
                clocks=self.simulated.state(), **self._marks(),
            )
        )  # fmt: skip

    def _marks(self) -> dict[str, Any]:
        """What a checkpoint holds besides."""
        noise = None if self.noise is None else self.noise.state()
        trust = {} if self.trust is None else {"trust": self.trust.state()}
        return {"schedule": self.rate.state(), "noise": noise, **trust}

    def _method_notes(self) -> list[str]:
        method, rule = self.config.algorithm, self.config.optimizer
        notes = [cut_note(method, rule)] if self.whole else []
        if is_asked(rule):
            if rule_has_momentum(rule):
                notes.append(momentum_twice(method, rule.title))
            notes.append(nothing_acted_on(rule, self.objective.layout))
        return [note for note in notes if note]

    def _end(self) -> Outcome:
        if self.simulated.spans:
            self.journal.leave("trace.json", self.simulated.trace().chrome())
        leave_findings(self.journal, self.config.problem, self.objective)
        return self.journal.ended(final=self._final())

    def _final(self) -> dict[str, Any]:
        """Columns of results.csv that do not change over the rounds."""
        schedule = self.comm.schedule
        gap = {"spectral_gap": topologies.spectral_gap(schedule.matrix(0))} if schedule.period == 1 else {}
        return gap | theory_bias_sq(self.config, self.comm, self.objective)


def _notes(mixing: topologies.Schedule) -> list[str]:
    matrices = [mixing.matrix(t) for t in mixing.rounds]
    if all(map(topologies.is_column_stochastic, matrices)):
        return []
    return ["the columns of the mixing matrix do not sum to one: gossip weighs some workers more than others"]
