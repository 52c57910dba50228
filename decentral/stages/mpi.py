"""The MPI driver: each rank hosts some stages; real messages, real time. It grants what the virtual clock grants.

The stages of a rank take turns; a Compute ends a turn. While none can go on, the rank polls and offers its core.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch

from decentral.comm.launch import check_launch, yield_when_oversubscribed

yield_when_oversubscribed()
import mpi4py  # noqa: E402

mpi4py.rc.thread_level = "funneled"  # only the main thread of a rank speaks MPI
from mpi4py import MPI  # noqa: E402

from decentral.stages.clock import do_work  # noqa: E402
from decentral.stages.consensus import Consensus  # noqa: E402
from decentral.stages.pauses import Interval, common, cut_out  # noqa: E402
from decentral.stages.requests import (  # noqa: E402
    Channel,
    Compute,
    DeadlockError,
    Done,
    Program,
    Recv,
    RecvAny,
    Send,
    StageError,
    waiting_for,
)
from decentral.stages.trace import Span, Trace, captured, payload_bytes  # noqa: E402
from decentral.stages.wires import Wires  # noqa: E402

_EMPTY_POLLS = 50  # before the core is offered to others
_BARRIERS = 9  # at the start, to compare clocks


class MPIDriver:
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
        on_done: Callable[[int, int], None] | None = None,
        timeout_s: float = 60.0,
        world: Any = None,
    ) -> None:
        self.world = MPI.COMM_WORLD if world is None else world
        check_launch(MPI.COMM_WORLD.size)
        self.programs, self.host, self.on_done, self.timeout_s = programs, list(host), on_done, timeout_s
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
        self.trace = Trace("measured")
        self._ready: deque[tuple[int, Any]] = deque()  # stages that can go on, and the answers they get
        self._blocked: dict[int, tuple[Any, float]] = {}  # stage -> what it waits for, since when
        self._queues: defaultdict[Channel, deque[Any]] = defaultdict(deque)
        self._under_way: defaultdict[Channel, int] = defaultdict(int)  # of channels that begin here
        self._inbound: defaultdict[int, list[Channel]] = defaultdict(list)  # seen so far, in order
        self._pauses: list[Interval] = []  # in on_done
        self._granted = 0

    def run(self) -> Trace:
        """On all ranks together; the trace of this rank's stages, in seconds since all began.

        Raises StageError if work fails here: the caller ends the job. Raises DeadlockError on all ranks if no stage
        of any rank can go on.
        """
        comm = self.world.Dup()
        self._wires = Wires(comm, self._arrive, self._taken)
        consensus = Consensus(comm)
        self._start = _common_start(comm)
        self._ready.extend((stage, None) for stage in self.programs)
        unfinished = self._serve(consensus)
        self._wires.finish()
        self._wires.close()
        if unfinished:
            self._raise_deadlock(comm)
        everyone = comm.allgather(self._pauses)
        cut_out(self.trace, common([everyone[rank] for rank in sorted(set(self.host))]))
        comm.Free()
        return self.trace

    @property
    def now(self) -> float:
        """Seconds since all began, pauses included."""
        return perf_counter() - self._start

    def sent_by(self, stage: int) -> tuple[int, int]:
        """Bytes and messages that the stage, one of this rank, has sent so far."""
        sizes, counts = self.trace.channel_bytes, self.trace.channel_messages
        channels = [channel for channel in counts if channel.source == stage]
        return sum(sizes[channel] for channel in channels), sum(counts[channel] for channel in channels)

    def _serve(self, consensus: Consensus) -> int:
        """Until nothing can happen on any rank; how many stages are then unfinished, over all ranks."""
        empty, since = 0, self.now
        while True:
            granted = self._granted
            if self._ready:
                self._resume(*self._ready.popleft())
            self._wires.poll()
            if self._granted != granted:
                empty = 0
                continue
            if empty == 0:
                since = self.now
            empty += 1
            if not self._ready and (not self._blocked or self.now - since > self.timeout_s):
                unfinished = consensus.ask(self._wires.sent, self._wires.received, len(self._blocked))
                if unfinished is not None:
                    return unfinished
            if empty > _EMPTY_POLLS:
                os.sched_yield()  # time.sleep(0) would sleep as long as the kernel's timers are coarse

    def _resume(self, stage: int, value: Any) -> None:
        """Let the program run until it has worked or has to wait."""
        program = self.programs[stage]
        if isinstance(value, RecvAny):  # a poll that was put off
            _, value = self._take(stage, value)
        while True:
            grad_mode = torch.is_grad_enabled()
            try:
                request = program.send(value)
            except StopIteration:
                self._granted += 1
                self.trace.makespan_s = self.now
                return
            if torch.is_grad_enabled() is not grad_mode:
                torch.set_grad_enabled(grad_mode)
                raise StageError(f"stage {stage} yielded inside torch.no_grad() or the like; close it before")
            value = None
            if isinstance(request, Compute):
                self._granted += 1
                self._ready.append((stage, self._work(stage, request)))
                return
            if isinstance(request, Send):
                if self._is_full(request.channel):
                    self._blocked[stage] = request, self.now
                    return
                self._post(request)
            elif isinstance(request, Done):
                if self.on_done:
                    begin = self.now
                    self.on_done(stage, request.t)
                    self._pauses.append((begin, self.now))
            else:
                found, value = self._take(stage, request)
                if not found:
                    self._blocked[stage] = request, self.now
                    return
                if value is None and isinstance(request, RecvAny):
                    self._ready.append((stage, request))  # what has come by now is looked for first
                    return
            self._granted += 1

    def _work(self, stage: int, request: Compute) -> Any:
        begin = self.now
        value = do_work(stage, request)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # kernels run on after the call that started them
        self.trace.spans.append(Span(stage, request.kind, begin, self.now, request.tag))
        return value

    def _is_full(self, channel: Channel) -> bool:
        return channel.capacity is not None and self._under_way[channel] >= channel.capacity

    def _post(self, request: Send) -> None:
        channel, value = request.channel, request.value
        self.trace.channel_bytes[channel] += payload_bytes(value)
        self.trace.channel_messages[channel] += 1
        self._under_way[channel] += 1
        rank = self.host[channel.target]
        if rank == self.world.rank:
            self._arrive(channel, captured(value))
        else:
            self._wires.send(rank, channel, value)

    def _arrive(self, channel: Channel, value: Any) -> None:
        target = channel.target
        if channel not in self._inbound[target]:
            self._inbound[target].append(channel)
        self._queues[channel].append(value)
        request, since = self._blocked.get(target, (None, 0.0))
        if isinstance(request, Recv | RecvAny):
            found, answer = self._take(target, request)
            if found:
                self._wake(target, since, answer)

    def _take(self, stage: int, request: Recv | RecvAny) -> tuple[bool, Any]:
        """Whether the request can be granted now, and its answer."""
        if isinstance(request, Recv):
            queue = self._queues[request.channel]
            return (True, self._pop(request.channel)) if queue else (False, None)
        for channel in request.channels or self._inbound[stage]:
            if self._queues[channel]:
                return True, (channel, self._pop(channel))
        return not request.wait, None

    def _pop(self, channel: Channel) -> Any:
        value = self._queues[channel].popleft()
        if self.host[channel.source] == self.world.rank:
            self._taken(channel)
        elif channel.capacity is not None:
            self._wires.acknowledge(channel)
        return value

    def _taken(self, channel: Channel) -> None:
        """A message of a channel that begins here was taken: a sender that waited for room has it."""
        self._under_way[channel] -= 1
        request, since = self._blocked.get(channel.source, (None, 0.0))
        if isinstance(request, Send) and request.channel == channel:
            self._wake(channel.source, since, None)
            self._post(request)

    def _wake(self, stage: int, since: float, value: Any) -> None:
        del self._blocked[stage]
        self._granted += 1
        self.trace.spans.append(Span(stage, "wait", since, self.now))
        self._ready.append((stage, value))

    def _raise_deadlock(self, comm: Any) -> None:
        mine = [(stage, waiting_for(stage, request)) for stage, (request, _) in self._blocked.items()]
        everyone = sorted(text for part in comm.allgather(mine) for text in part)
        comm.Free()
        raise DeadlockError("; ".join(text for _, text in everyone))


def _common_start(comm: Any) -> float:
    """One moment on this rank's clock, the same for all ranks: the end of rank 0's last barrier.

    Clocks are compared by the median of several barriers, because the system may hold a rank up after one.
    """
    ends = []
    for _ in range(_BARRIERS):
        comm.Barrier()
        ends.append(perf_counter())
    first = comm.bcast(ends)
    return float(first[-1] + median(mine - its for mine, its in zip(ends, first, strict=True)))


def gathered(trace: Trace, world: Any = None) -> Trace | None:
    """The traces of all ranks as one, on rank 0; None elsewhere. All ranks call it, after :meth:`MPIDriver.run`.

    Each channel was counted once, by the rank that its messages began on.
    """
    parts = (MPI.COMM_WORLD if world is None else world).gather(trace)
    if parts is None:
        return None
    whole = Trace(trace.clock, makespan_s=max(part.makespan_s for part in parts))
    whole.spans = sorted((span for part in parts for span in part.spans), key=lambda span: span.end_s)
    for part in parts:
        whole.channel_bytes += part.channel_bytes
        whole.channel_messages += part.channel_messages
    return whole
