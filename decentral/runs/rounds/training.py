"""One run, from its first round or its last checkpoint to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import topologies
from decentral.algorithms.traits import traits_of
from decentral.comm.compression import Layout
from decentral.comm.launch import workers_a_rank
from decentral.comm.links import Links
from decentral.errors import UserError
from decentral.network import Gossip, all_reduce_s
from decentral.optimizers.schedules import Constant
from decentral.problems.objective import Linear, Objective, Place
from decentral.rounds import absence
from decentral.rounds.advance import advance
from decentral.rounds.compiled import CompiledMethod
from decentral.rounds.trials.fixed_points import fixed_point
from decentral.rounds.trials.messages import early_messages, messages_a_round
from decentral.rounds.trials.needs import refuse_unmet
from decentral.rounds.trials.stability import refuse_unstable
from decentral.runs.folder import RunFolder
from decentral.runs.metrics import finite, first_divergence, measure, norms, traffic
from decentral.runs.rounds import checkpoint
from decentral.runs.rounds.clock import SimulatedTime, compute_time
from decentral.runs.rounds.config import RunConfig
from decentral.runs.rounds.faults import fault_counts, fault_notes, links_with, refuse_faults
from decentral.runs.rounds.timeline import Stopwatch, gathered_rounds, middle
from decentral.runs.sections.network import PerSample
from decentral.runs.sections.train import Train

_LOSSES_KEPT = 50  # rounds whose losses are looked at together: one synchronisation of the device for many
_SMALL = 5_000  # parameters of all workers up to which the closed form is solved: a second at the most
_BLOW_UP = 1e10  # a loss this many times the first (or 1) has diverged


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished or diverged, why, and its last metrics."""

    status: str
    message: str
    final: dict[str, Any]


def device_of(wish: str, local_rank: int) -> torch.device:
    """The device of this rank: the GPU of its local number, or the CPU. Raises UserError if CUDA is absent."""
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            'train.device = "cuda" but this torch sees no GPU; use "cpu" or "auto", or see `decentral doctor`'
        )
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def place_of(config: RunConfig, rows: range, device: torch.device, oracle: str) -> Place:
    """Where the objective of this run is built on this rank, with which gradient oracle."""
    return Place(
        workers=config.topology.workers,
        rows=rows,
        seed=config.seed,
        dtype=torch.float64 if config.train.dtype == "float64" else torch.float32,
        device=device,
        batch_size=config.train.batch_size,
        weight_decay=config.train.weight_decay,
        oracle=oracle,  # type: ignore[arg-type]
        eval_samples=config.train.eval_samples,
    )


def check(config: RunConfig, world: Any) -> None:
    """Refuse what is known to fail before the first round: a bad mixing, an unstable one, one not to compile."""
    workers_a_rank(config.topology.workers, world.ranks)
    mixing, train = config.topology.mixing(), config.train
    if config.faults:
        refuse_faults(
            config.algorithm, mixing, config.faults,
            compressed=config.compression is not None, compiled=train.compile,
        )  # fmt: skip
    if train.compile:
        if config.compression or not traits_of(config.algorithm).linear:
            raise UserError(
                "train.compile = true is for methods of arithmetic, mixing and means alone; set it to false, or do "
                f"without {'[compression]' if config.compression else type(config.algorithm).__name__}"
            )
        CompiledMethod(config.algorithm, world.communicator(mixing))
    refuse_unmet(config.algorithm, mixing)
    _check_network(config, mixing)
    if not config.allow_unstable:
        rounds = range(0, train.rounds, max(1, train.rounds // 10_000))
        lr = max(config.schedule.lr(t, train.rounds, train.lr) for t in rounds)
        refuse_unstable(config.algorithm, mixing, lr, config.problem, config.seed, train.weight_decay)


def _check_network(config: RunConfig, mixing: topologies.Schedule) -> None:
    cluster = config.network.cluster
    try:
        Gossip(mixing, cluster)
        if cluster.between is None and messages_a_round(config.algorithm).averages:
            all_reduce_s(config.network.all_reduce, cluster, 0.0)
    except UserError as error:
        raise UserError(f"[network] {error}") from None
    if isinstance(config.network.compute, PerSample):
        compute_time(config.network, config.problem, place_of(config, range(1), torch.device("cpu"), "loop"))
    if config.network.overlap and not any(early_messages(config.algorithm)):
        raise UserError(
            f"network.overlap = true, but nothing that {type(config.algorithm).__name__} sends is ready before the "
            'gradient; set it to false, or use a method such as dsgd with algorithm.variant = "awc"'
        )


def record_interval(train: Train, objective: Objective) -> int:
    """Rounds from one record to the next. By default a 20th of the run, but records take a 20th of the work at most."""
    if train.record_every != "auto":
        return train.record_every
    return max(1, train.rounds // 20, 20 * objective.record_cost_rounds())


class Training:
    """The state of one run: models x (h, d), the method's state, the round, the time spent in rounds."""

    def __init__(
        self,
        config: RunConfig,
        world: Any,
        device: torch.device,
        folder: RunFolder | None,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.world, self.folder = config, world, folder
        self.comm = world.communicator(world.from_root(config.topology.mixing))
        oracle = config.train.oracle
        if kept and kept["oracle"] in ("batched", "loop"):
            # this many ranks might choose another, and the last bits would differ
            oracle = kept["oracle"]
        self.objective: Objective = config.problem.build(place_of(config, self.comm.rows, device, oracle))
        self.comm.layout = getattr(self.objective, "layers", None) or Layout.whole(self.objective.d)
        if config.compression:
            self.comm.links = Links(
                config.compression.compressor(), self.comm.layout, config.seed, self.comm.rows
            )
        self.x = self.objective.start().expand(self.comm.h, -1).clone()
        self.state = config.algorithm.init(self.x, self.comm)
        self.comm.faults = links_with(config.faults, config.algorithm, self.comm, self.x, config.seed)
        method = config.algorithm
        self.method = CompiledMethod(method, self.comm) if config.train.compile else method
        self.simulated = self._clocks()
        self.t, self.wall_s, self.loss_limit = 0, 0.0, float("inf")
        self.record_rounds = record_interval(config.train, self.objective)
        self.row: dict[str, Any] = {}
        self.facts = {"oracle": self.objective.oracle}
        self.notes = [*self.objective.notes, *_notes(self.comm.schedule)]
        if config.faults:
            self.notes += fault_notes(config.algorithm, self.comm.schedule, config.faults)
        if kept:  # go on from a checkpoint
            self.t, self.wall_s, self.loss_limit = kept["t"], kept["wall_s"], kept["loss_limit"]
            self.row = kept["row"]
            if kept["threads"] != (threads := torch.get_num_threads()):
                self.notes.append(
                    f"begun with {kept['threads']} threads and resumed with {threads}: the last bits may differ"
                )
            self.state = checkpoint.restore(kept, self.comm, self.objective, self.x, self.state)
            self.simulated.restore(kept["clocks"], self.t)

    def _clocks(self) -> SimulatedTime:
        config = self.config
        place = place_of(config, range(1), torch.device("cpu"), "loop")
        compute = self.world.from_root(lambda: compute_time(config.network, config.problem, place))
        if config.faults is not None:
            compute = config.faults.slowed(compute)
        early = sum(early_messages(config.algorithm)) if config.network.overlap else 0
        # over MPI the timeline is the measured one
        drawn = config.network.said and self.world.ranks == 1
        traced = middle(config.train.rounds, 0) if drawn else range(0)
        return SimulatedTime(config.network, compute, self.comm, config.seed, early, traced)

    def run(self, progress: Callable[[float, dict[str, Any]], None]) -> Outcome:
        """All rounds that are left, with records and checkpoints. Every rank calls it.

        ``progress`` is told of each round (on a GPU: that it was asked for) and of the newest record.
        """
        train, schedule = self.config.train, self.comm.schedule
        losses = torch.zeros(_LOSSES_KEPT, self.comm.h, dtype=torch.float64, device=self.x.device)
        seen = self.t
        watched = (
            middle(train.rounds, self.t) if self.world.ranks > 1 and self.folder is not None else range(0)
        )
        watch = Stopwatch(self.world.rank, self.x.device)
        if self.t == 0:
            self._record()
        began = time.perf_counter()
        while self.t < train.rounds:
            lr = self.config.schedule.lr(self.t, train.rounds, train.lr)
            if self.t in watched:
                with watch.round(self.t, self.comm):
                    self._advance(lr, watch)
            else:
                self._advance(lr)
            self.simulated.note()
            losses[self.t - seen] = self.objective.losses
            self.t += 1
            record = self.t % self.record_rounds == 0 or self.t == train.rounds
            keep = self.t % train.checkpoint_rounds == 0 and self.t < train.rounds
            end_of_watch = bool(watched) and self.t == watched.stop
            if not (record or keep or end_of_watch or self.t - seen == _LOSSES_KEPT):
                progress(self.t, self.row)
                continue
            bad = self._diverged(losses[: self.t - seen].cpu().numpy(), seen)  # waits for the device
            self.wall_s += time.perf_counter() - began
            if bad:
                return Outcome("diverged", bad, self.row)
            seen = self.t
            if record and not self._record():
                return Outcome(
                    "diverged", f"round {self.t}, worker {self._overflown()}: its model overflowed", self.row
                )
            if keep and self.folder is not None:
                self.simulated.catch_up()
                checkpoint.save(
                    self.folder.checkpoint, self.world, self.comm, self.objective, self.x, self.state,
                    t=self.t, wall_s=self.wall_s, loss_limit=self.loss_limit, row=self.row,
                    clocks=self.simulated.state(),
                )  # fmt: skip
            if end_of_watch:
                self._write_trace(watch)
            progress(self.t, self.row)
            began = time.perf_counter()
        if self.simulated.spans and self.folder is not None:
            self.simulated.trace().write_chrome(self.folder.path / "trace.json")
        gap = {"spectral_gap": topologies.spectral_gap(schedule.matrix(0))} if schedule.period == 1 else {}
        return Outcome("finished", "", self.row | gap | self._theory())

    def _advance(self, lr: float, watch: Stopwatch | None = None) -> None:
        """One round."""
        away, buffers = self.comm.faults.away(self.t) if self.comm.faults else [], self.objective.buffers
        still = absence.stand(away, self.x, self.state, buffers)
        gradient = self.objective.gradient(self.x, self.t)
        if watch is not None:
            gradient = watch.computing(gradient)
        self.x, self.state = advance(
            self.method, self.x, self.state, gradient, self.comm, self.t, lr, self.config.train.weight_decay
        )
        absence.put_back(still, self.x, self.state, buffers)

    def _write_trace(self, watch: Stopwatch) -> None:
        trace = gathered_rounds(watch, self.world, self.comm.h)
        if trace is not None and self.folder is not None:
            trace.write_chrome(self.folder.path / "trace.json")

    def _diverged(self, losses: Any, start: int) -> str:
        if start == 0:
            first = self.comm.observe(np.ascontiguousarray(losses[0])).max()
            self.loss_limit = _BLOW_UP * max(1.0, float(first)) if np.isfinite(first) else _BLOW_UP
        bad = first_divergence(losses, start, self.loss_limit, self.comm)
        return f"round {bad[0]}, worker {bad[1]}: its loss is {bad[2]:.4g}" if bad else ""

    def _overflown(self) -> int:
        return int(np.argmin(np.isfinite(self.comm.observe(norms(self.x)))))

    def _record(self) -> bool:
        """One row of metrics; False, and no row, if the models are no longer finite."""
        train = self.config.train
        values = measure(self.x, self.comm, self.objective, self.t == train.rounds)
        counts, simulated_s = traffic(self.comm), self.simulated.catch_up()
        if not finite(values):
            return False
        epoch = self.objective.epoch(self.t)
        batch = 0 if train.batch_size == "full" else train.batch_size
        self.row = {
            "round": self.t,
            **({} if epoch is None else {"epoch": epoch}),
            **({"samples": self.t * batch * self.comm.n} if batch and epoch is not None else {}),
            "wall_s": round(self.wall_s, 6),
            "simulated_s": simulated_s,
            **counts,
            **values,
            **self._compressed(),
            **(fault_counts(self.comm, self.state) if self.config.faults else {}),
        }
        if self.folder is not None and self.world.rank == 0:
            self.folder.append(self.row)
        return True

    def _compressed(self) -> dict[str, float]:
        """compression_ratio: bytes of the vectors sent since the last record, over those of their packets.

        Also by kind of layer, where the compressor sends layers apart. In the first record there is none.
        """
        if self.comm.links is None:
            return {}
        counts = self.comm.links.take_counts()
        shares = np.zeros((self.comm.h, len(counts), 2))
        shares[0] = list(counts.values())  # counted by rank, carried by its first worker
        ratios = {}
        for kind, (vector_bytes, packet_bytes) in zip(
            counts, self.comm.observe(shares).sum(axis=0), strict=True
        ):
            name = f"compression_ratio_{kind}" if kind else "compression_ratio"
            ratios[name] = float(vector_bytes / packet_bytes) if packet_bytes else float("nan")
        return ratios

    def _theory(self) -> dict[str, float]:
        """theory_bias_sq: the bias of the closed-form steady state, where there is one."""
        config, problem, schedule = self.config, self.config.problem, self.comm.schedule
        if (
            not isinstance(problem, Linear)
            or config.compression
            or self.comm.faults is not None
            or not problem.exact(config.train)
            or self.objective.optimum is None
        ):
            return {}
        if (
            not isinstance(config.schedule, Constant)
            or schedule.period != 1
            or self.comm.n * self.objective.d > _SMALL
        ):
            return {}
        hessians, linear = problem.linear_terms(self.comm.n, config.seed)
        hessians = hessians + config.train.weight_decay * np.eye(linear.shape[1])
        rest = fixed_point(config.algorithm, schedule.matrix(0), hessians, linear, config.train.lr)
        if rest is None:
            return {}
        apart = rest - self.objective.optimum.double().cpu().numpy()
        return {"theory_bias_sq": float((apart**2).sum(1).mean())}


def _notes(mixing: topologies.Schedule) -> list[str]:
    matrices = [mixing.matrix(t) for t in mixing.rounds]
    if all(map(topologies.is_column_stochastic, matrices)):
        return []
    return ["the columns of the mixing matrix do not sum to one: gossip weighs some workers more than others"]
