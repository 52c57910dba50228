"""The driver of ranks: each hosts some stages; real messages, real time. It grants what the virtual clock grants.

The stages of a rank take turns; a Compute ends a turn. While none can go on, the rank polls and offers its core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch

from decentral.comm.ranks import giving_way
from decentral.runtime.consensus import Consensus
from decentral.runtime.driver import Driver, Line, do_work
from decentral.runtime.pauses import Interval, common, cut_out
from decentral.runtime.requests import Channel, Compute, DeadlockError, Program, RecvAny
from decentral.runtime.trace import Span, Trace, captured
from decentral.runtime.wires import Wires

_EMPTY_POLLS = 50  # before the core is offered to others
_PAUSE_S = 1e-4  # what is shorter stays in the trace: a long run has one a step
_BARRIERS = 9  # at the start, to compare clocks


class RanksDriver(Driver):
    """Runs the programs of this rank's stages to their end; ``host[k]`` is the rank of stage k, the same on every rank.

    ``on_done(stage, t)`` is called when a stage has finished step t. It may be a collective over the ranks: the time
    in which every rank with stages is in it is cut out of the trace.
    ``timeout_s``: how long a rank that cannot go on waits before it asks the others whether anybody can.
    Raises ValueError if the programs are not those of the stages that ``host`` gives to this rank.
    """

    def __init__(
        self,
        programs: Mapping[int, Program],
        host: Sequence[int],
        world: Any,
        on_done: Callable[[int, int], None] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(programs, on_done, Trace("measured"))
        self.world = world
        self._offer = giving_way(world)
        self.host, self.timeout_s = list(host), timeout_s
        mine = [k for k, rank in enumerate(host) if rank == self.world.rank]
        if sorted(programs) != mine:
            raise ValueError(
                f"rank {self.world.rank} was given programs of stages {sorted(programs)}, but host = {self.host} puts "
                f"stages {mine} here; give these"
            )
        if not set(host) <= set(range(self.world.size)):
            raise ValueError(
                f"host = {self.host} names a rank that is not one of the {self.world.size}; launch more"
            )
        self._pauses: list[Interval] = []  # in on_done

    def run(self) -> Trace:
        """On all ranks together; the trace of this rank's stages, in seconds since all began.

        Raises StageError if work fails here: the caller ends the job. Raises DeadlockError on all ranks if no stage
        of any rank can go on.
        """
        comm = self.world.Dup()
        self._wires = Wires(
            comm,
            lambda channel, value: self.arrive(self.line(channel), value),
            lambda channel: self.make_room(self.line(channel)),
        )
        consensus = Consensus(comm)
        self._start = common_start(comm)
        unfinished = self._serve(consensus)
        self._wires.finish()
        self._wires.close()
        if unfinished:
            everyone = sorted(text for part in comm.allgather(self.waiting()) for text in part)
            comm.Free()
            raise DeadlockError("; ".join(text for _, text in everyone))
        self.count_traffic()
        everyone = comm.allgather(self._pauses)
        cut_out(self.trace, common([everyone[rank] for rank in sorted(set(self.host))]))
        comm.Free()
        return self.trace

    @property
    def now(self) -> float:
        """Seconds since all began, pauses included."""
        return perf_counter() - self._start

    def compute(self, stage: int, request: Compute) -> tuple[bool, Any]:
        """See :class:`Driver`: the stage's turn ends with the work."""
        begin = self.now
        value = do_work(stage, request)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # kernels run on after the call that started them
        self.trace.add(Span(stage, request.kind, begin, self.now, request.tag))
        self.ready.append((stage, value))
        return False, None

    def carry(self, line: Line, value: Any, size: int) -> None:
        """See :class:`Driver`."""
        del size
        rank = self.host[line.channel.target]
        if rank == self.world.rank:
            self.arrive(line, captured(value))
        else:
            self._wires.send(rank, line.channel, value)

    def is_away(self, channel: Channel) -> bool:
        """See :class:`Driver`."""
        return self.host[channel.source] != self.host[channel.target]

    def taken(self, line: Line) -> None:
        """See :class:`Driver`: another rank's sender is told, if it counts."""
        if self.host[line.channel.source] == self.world.rank:
            self.make_room(line)
        elif line.channel.capacity is not None:
            self._wires.acknowledge(line.channel)

    def poll_later(self, stage: int, request: RecvAny) -> bool:
        """See :class:`Driver`: what has come by now is looked for first."""
        self.ready.append((stage, request))
        return True

    def done(self, stage: int, t: int) -> None:
        """See :class:`Driver`."""
        begin = self.now
        super().done(stage, t)
        if self.on_done and self.now - begin > _PAUSE_S:
            self._pauses.append((begin, self.now))

    def _serve(self, consensus: Consensus) -> int:
        """Until nothing can happen on any rank; how many stages are then unfinished, over all ranks."""
        empty, since = 0, self.now
        while True:
            granted = self.granted
            if self.ready:
                self.resume(*self.ready.popleft())
                self.trace.makespan_s = self.now
            self._wires.poll()
            if self.granted != granted:
                empty = 0
                continue
            if empty == 0:
                since = self.now
            empty += 1
            if not self.ready and (not self.blocked or self.now - since > self.timeout_s):
                unfinished = consensus.ask(self._wires.sent, self._wires.received, len(self.blocked))
                if unfinished is not None:
                    return unfinished
            if empty > _EMPTY_POLLS:
                self._offer()


def common_start(comm: Any) -> float:
    """One moment on this rank's clock, the same for all ranks: the end of rank 0's last barrier.

    Clocks are compared by the median of several barriers, because the system may hold a rank up after one.
    """
    ends = []
    for _ in range(_BARRIERS):
        comm.Barrier()
        ends.append(perf_counter())
    first = comm.bcast(ends)
    return float(first[-1] + median(mine - its for mine, its in zip(ends, first, strict=True)))


def gathered(trace: Trace, world: Any) -> Trace | None:
    """The traces of all ranks as one, on rank 0; None elsewhere. All ranks call it, after :meth:`RanksDriver.run`.

    Each channel was counted once, by the rank that its messages began on.
    """
    parts = world.gather(trace)
    if parts is None:
        return None
    whole = Trace(trace.clock, makespan_s=max(part.makespan_s for part in parts), lane=trace.lane)
    whole.spans = sorted((span for part in parts for span in part.spans), key=lambda span: span.end_s)
    for part in parts:
        whole.channel_bytes += part.channel_bytes
        whole.channel_messages += part.channel_messages
        whole.dropped += part.dropped
    return whole
