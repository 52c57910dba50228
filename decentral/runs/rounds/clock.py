"""The simulated clock of a run of rounds: seconds that ``[network]`` gives to what the ledger saw.

A round's gossip goes first, one message after the other where a method sends several, then its averages. Nothing here
depends on measured time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.comm import Communicator
from decentral.comm.ledger import Traffic
from decentral.network import Clocks, Gossip, Phase, Together, all_gather_s, all_reduce_s
from decentral.network.compute import ComputeTime
from decentral.runs.rounds.attack_times import AttackedTime
from decentral.runs.sections.network import Network
from decentral.runtime.trace import Span, Trace

LANES = 64
"""Workers whose spans are kept."""


class SimulatedTime:
    """The clocks of all workers, on rank 0; elsewhere the part of their traffic that is known there.

    Rounds are noted as they go, and clocks follow when they are asked for, so that rounds cost nothing more.
    ``early``: messages of a round that are sent while workers compute. ``traced``: rounds whose spans are kept.
    """

    def __init__(
        self, network: Network, compute: ComputeTime, comm: Communicator, seed: int, early: int, traced: range
    ) -> None:
        self.network, self.comm, self.early, self.traced = network, comm, early, traced
        self.clocks = Clocks(network.cluster, compute, seed) if comm.rank == 0 else None
        self.fates = comm.faults.fates if comm.faults is not None else None
        sent = self.fates.sent if self.fates is not None else None
        self.gossip = Gossip(comm.schedule, network.cluster, sent) if comm.rank == 0 else None
        self.spans: list[tuple[int, str, NDArray[np.float64], NDArray[np.float64]]] = []
        self._noted: list[Traffic] = []
        self._evaluations: list[NDArray[np.int64]] = []

    def note(self, *evaluations: NDArray[np.int64]) -> None:
        """A round is over; ``evaluations`` (h,): gradients beside its own that workers computed, if it tells of any."""
        self._noted.append(self.comm.ledger.take_traffic())
        self._evaluations += evaluations

    def computes(self, compute: ComputeTime) -> None:
        """From the next round on a worker computes so long, and sends nothing meanwhile. Every rank calls it."""
        self.catch_up()
        self.early = 0
        if self.clocks is not None:
            self.clocks.compute = compute

    def catch_up(self) -> float:
        """Seconds until the last worker has finished the last noted round. Every rank calls it; rank 0 is told."""
        noted, self._noted = self._noted, []
        if self.comm.links is not None:
            noted = self._of_all_workers(noted)
        evaluations, self._evaluations = self._evaluations, []
        times = 1 + self.comm.observe(np.stack(evaluations, 1)) if evaluations else None
        if self.clocks is None:
            return 0.0
        begun = self.clocks.round
        for t, traffic in enumerate(noted, begun):
            phases = self._phases(t, traffic)
            self.clocks.spans = [] if t in self.traced else None
            away = self.fates.away(t) if self.fates is not None else ()
            gradients = None if times is None else times[:, t - begun]
            self.clocks.advance(t, phases[self.early :], phases[: self.early], away, gradients)
            self.spans += [(t, *span) for span in self.clocks.spans or ()]
        return float(self.clocks.time_s.max())

    def trace(self) -> Trace:
        """What the first workers did in the rounds that are traced."""
        trace = Trace("simulated", lane="worker")
        compute = self.clocks.compute if self.clocks is not None else None
        for t, kind, begin_s, end_s in self.spans:
            lanes = list(zip(begin_s[:LANES].tolist(), end_s[:LANES].tolist(), strict=True))
            spans = [Span(worker, kind, a, b, t) for worker, (a, b) in enumerate(lanes) if b > a]
            if kind == "compute" and isinstance(compute, AttackedTime):
                spans = [one for span in spans for one in compute.spans(span, len(lanes))]
                trace.lane = "rank" if compute.settings.attackers else "worker"
            trace.spans += spans
        trace.spans.sort(key=lambda span: span.end_s)
        trace.makespan_s = max((span.end_s for span in trace.spans), default=0.0)
        return trace

    def state(self) -> list[Any]:
        """What a checkpoint keeps, after :meth:`catch_up`: on rank 0 only. The last part: spans, of a few workers."""
        if self.clocks is None:
            return []
        times = [part.tolist() for part in (self.clocks.time_s, self.clocks.compute_s, self.clocks.wait_s)]
        spans = [[t, kind, a[:LANES].tolist(), b[:LANES].tolist()] for t, kind, a, b in self.spans]
        return [*times, spans]

    def restore(self, kept: Sequence[Any], t: int) -> None:
        """Go on after round t - 1 from what :meth:`state` gave."""
        if self.clocks is not None:
            self.clocks.round = t
            self.clocks.time_s, self.clocks.compute_s, self.clocks.wait_s = map(np.array, kept[:3])
            if self.traced:
                self.spans = [(at, kind, np.array(a), np.array(b)) for at, kind, a, b in kept[3]]

    def _phases(self, t: int, traffic: Traffic) -> list[Phase]:
        assert self.gossip is not None
        cluster = self.network.cluster
        phases: list[Phase] = []
        if traffic.gossips:
            phases += [self.gossip.phase(t, traffic.gossip_bytes / traffic.gossips)] * traffic.gossips
        if traffic.reduces:
            seconds = all_reduce_s(self.network.all_reduce, cluster, traffic.reduced_bytes / traffic.reduces)
            phases += [Together(seconds)] * traffic.reduces
        if traffic.gathers:
            longest = float(np.max(traffic.gathered_bytes)) / traffic.gathers
            phases += [Together(all_gather_s(cluster, longest))] * traffic.gathers
        return phases

    def _of_all_workers(self, noted: list[Traffic]) -> list[Traffic]:
        """With the packets of every worker in place of those of the hosted ones."""
        if not noted:
            return []
        h = self.comm.h
        mine = np.zeros((h, len(noted), 2))
        for k, traffic in enumerate(noted):
            mine[:, k, 0], mine[:, k, 1] = traffic.gossip_bytes, traffic.gathered_bytes
        everyone = self.comm.observe(mine)
        return [
            traffic._replace(gossip_bytes=everyone[:, k, 0].copy(), gathered_bytes=everyone[:, k, 1].copy())
            for k, traffic in enumerate(noted)
        ]
