"""One layer-parallel run: profile, drive the program, record, and write down what its stages did when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from decentral.recorder import write_whole
from decentral.stages.building import Plan, hosts
from decentral.stages.clock import VirtualClock
from decentral.stages.local_losses import cross_entropy
from decentral.stages.profile import cost_table, profile
from decentral.stages.recording import Assembly, Observer, Snapshot, row_of
from decentral.stages.requests import Channel, NonFiniteError
from decentral.stages.trace import Trace
from decentral.training import Outcome

if TYPE_CHECKING:
    from decentral.config import Train
    from decentral.recorder import RunFolder
    from decentral.stage_config import StageConfig
    from decentral.stages.samples import Samples


def check(config: StageConfig, world: Any) -> None:
    """Refuse what does not fit: the cut, the program, its heads, the ranks."""
    hosts(config.stages.count, world.ranks)
    Plan(config, torch.device("cpu"))


def record_interval(train: Train, samples: Samples) -> int:
    """Steps from one record to the next. By default a 20th of the run, but records take a 20th of the work at most."""
    if train.record_every != "auto":
        return train.record_every
    seen = sum(min(len(y), train.eval_samples) for _, y in (samples.train, samples.test))
    steps = 1 + seen / (
        3 * samples.batch_size
    )  # that cost as much: forward and backward are thrice a forward pass
    return max(1, train.rounds // 20, math.ceil(20 * steps))


class Training:
    """The stages that this rank hosts, their program and its records; rank 0 measures.

    A run that was interrupted begins anew (``kept`` is None): programs have no state to put back.
    """

    def __init__(
        self, config: StageConfig, world: Any, device: torch.device, folder: RunFolder | None, kept: None
    ) -> None:
        del kept
        self.config, self.world, self.folder = config, world, folder
        self.plan = Plan(config, device)
        self.host = hosts(config.stages.count, world.ranks)
        self.profile = world.from_root(lambda: profile(config.program, self.plan.trial))
        self.costs = cost_table(self.profile, config.stages.costs, config.stages.flops_per_s)
        mine = [k for k, rank in enumerate(self.host) if rank == world.rank]
        self.stages = self.plan.stages(config.train.rounds, mine)
        self.observers = {s.index: Observer(s, self._is_recorded) for s in self.stages}
        self.assembly = Assembly(self.plan.network, cross_entropy)
        self.every = record_interval(config.train, self.plan.samples)
        self.t = 0
        self.row: dict[str, Any] = {}
        self.notes: list[str] = []
        self.clock = "simulated" if world.ranks == 1 else "measured"
        self.facts = {
            "cut": [[span.start, span.stop] for span in self.plan.spans],
            "hosts": self.host,
            "clock": self.clock,
        }
        self._waiting: dict[int, list[Snapshot]] = {}
        self._evaluating_s = 0.0
        self._progress: Callable[[int, dict[str, Any]], None] = lambda *_: None

    def run(self, progress: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """All steps, with records. Every rank calls it."""
        self._progress = progress
        self._write("costs.json", self._cost_rows())
        programs = {s.index: self.config.program.run(s) for s in self.stages}
        if self.world.ranks == 1:
            self.driver: Any = VirtualClock(
                programs, lambda k, kind: self.costs.get((k, kind), 0.0), self._link, self._done
            )
        else:
            from decentral.stages.mpi import MPIDriver, gathered

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
        if self.world.rank == 0:
            while self.t < self.config.train.rounds:
                self._collect()
            self._write_trace(trace)
            self._write("staleness.json", staleness)
        return Outcome("finished", "", self.row | self._final(staleness))

    def _is_recorded(self, t: int) -> bool:
        return (t + 1) % self.every == 0 or t + 1 == self.config.train.rounds or t == 0

    def _link(self, channel: Channel, size: int) -> tuple[float, float]:
        del channel
        network = self.config.network
        return size / network.bandwidth_bytes_s, network.latency_s

    def _done(self, stage: int, t: int) -> None:
        """A stage of this rank has finished step t."""
        if self._is_recorded(t):
            sent = self.driver.sent_by(stage)
            snapshot = self.observers[stage].snapshot(t, self.driver.now, *sent)
            if self.world.rank == 0:
                self._arrived(snapshot)
            else:
                self.world.post(snapshot)
        if self.world.rank == 0:
            self._collect()

    def _collect(self) -> None:
        for snapshot in self.world.posted():
            self._arrived(snapshot)

    def _arrived(self, snapshot: Snapshot) -> None:
        parts = self._waiting.setdefault(snapshot.t, [])
        parts.append(snapshot)
        if len(parts) == self.config.stages.count:
            began = time.perf_counter()
            self._record(sorted(self._waiting.pop(snapshot.t), key=lambda s: s.stage))
            self._evaluating_s += time.perf_counter() - began

    def _record(self, parts: list[Snapshot]) -> None:
        """One row of metrics, once all stages have finished the step."""
        train, samples, t = self.config.train, self.plan.samples, parts[0].t
        row = row_of(parts, self.clock)
        if "wall_s" in row:  # rank 0's stages stood still while it measured
            row["wall_s"] = max(0.0, row["wall_s"] - self._evaluating_s)
        row["samples"] = (t + 1) * samples.batch_size
        row["epoch"] = row["samples"] / samples.epoch_samples
        row["flops"] = (t + 1) * self.profile.flops_step
        row["critical_flops"] = (t + 1) * self.profile.critical_flops_step
        cosines = self.assembly.cosines(parts, *samples.batch(t))
        known = [c for c in cosines if not math.isnan(c)]
        row["gradient_cosine"] = sum(known) / len(known) if known else float("nan")
        self.assembly.load([s.after for s in parts])
        last = t + 1 == train.rounds
        seen = {"train": train.eval_samples, "test": None if last else train.eval_samples}
        for name, most in seen.items():
            x, y = getattr(samples, name)
            row[f"{name}_loss"], row[f"{name}_accuracy"] = self.assembly.measure(x[:most], y[:most])
        self.row, self.t = row, t + 1
        if self.folder is not None:
            self.folder.append({**row, **{f"gradient_cosine_{i}": c for i, c in enumerate(cosines)}})
        self._progress(self.t, row)

    def _staleness(self) -> dict[int, dict[int, int]]:
        return {s.index: dict(sorted(s.staleness.items())) for s in self.stages if s.staleness}

    def _final(self, staleness: dict[int, dict[int, int]]) -> dict[str, float]:
        found = self.profile
        final = {
            "flops_step": found.flops_step,
            "critical_flops_step": found.critical_flops_step,
            "activation_bytes_max": max(found.activation_bytes),
            "activation_bytes_sum": sum(found.activation_bytes),
        }
        counts = [(lag, many) for histogram in staleness.values() for lag, many in histogram.items()]
        if counts:
            final["staleness_mean"] = sum(lag * many for lag, many in counts) / sum(
                many for _, many in counts
            )
            final["staleness_max"] = max(lag for lag, _ in counts)
        return final

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
        rows = [
            {**c._asdict(), "bytes": size, "messages": trace.channel_messages[c]}
            for c, size in sorted(trace.channel_bytes.items(), key=lambda item: item[0][:3])
        ]
        self._write("boundaries.json", rows)
        self._write("activation_bytes.json", dict(enumerate(self.profile.activation_bytes)))
        trace.write_chrome(self.folder.path / "trace.json")
