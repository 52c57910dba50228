"""The controller injects instances, never more than a limit at a time, and says when the network is drained.

It lives on worker 0, which hosts the Input. Control messages to the other workers: ``(DONE, keys, answer)``, instances
have come back; ``(DRAINED, phase, answer)``, all of a phase have; None, the end. The first two are acknowledged if
``answer`` says so, and copies of nodes always, whether asked for, by none, or sent back averaged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from decentral.dataflow.edges import InvariantError
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.replicas import copies_on, means, put
from decentral.dataflow.transforms import Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.errors import UserError
from decentral.runtime.requests import Channel, Compute, Done, Program, RecvAny, Send

CONTROL, ACKNOWLEDGED, COPIES = "control", "acknowledged", "copies"
DONE, DRAINED = 1, 2


class Controller:
    """Worker 0's program: each phase is a sequence of instances; at its end the network is drained.

    ``active``: instances under way at the most. ``workers``: how many there are. ``averages(number)``: whether copies
    of nodes are averaged after a phase. ``on_back(number, instances)`` is told how many of a phase are back.
    """

    def __init__(
        self,
        worker: Worker,
        active: int,
        workers: int,
        phases: Iterable[Sequence[int]],
        averages: Callable[[int], bool] = lambda _: False,
        on_back: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        if active < 1:
            raise UserError(f"active = {active} must be at least 1")
        self.worker, self.active, self.phases, self.averages = worker, active, phases, averages
        self.on_back, self.phase, self.phase_back = on_back, 0, 0
        (self.input,) = worker.network.of_type(Input)
        self.input.finished = self._finished
        self.others = range(1, workers)
        self.by_instance = any(u.unit == "instances" for u in updates_of(worker, everywhere=True))
        self.under_way = self.most_under_way = 0
        self.unacknowledged = 0
        self.back: list[int] = []  # instances that have come back, not yet told
        self.copies: dict[str, list[Tensor]] = {}  # of nodes on all workers, while they are averaged

    def run(self) -> Program:
        """The program."""
        for number, keys in enumerate(self.phases):
            self.phase, self.phase_back = number, 0
            yield from self._go(deque(keys))
            yield from self._tell(DRAINED, number, answer=True)
            while self.unacknowledged:
                yield from self._receive(wait=True)
            drained(self.worker, number)
            if self.worker.network.replicas and self.averages(number):
                yield from self._average()
            yield Done(number)
        for other in self.others:
            yield Send(Channel(0, other, CONTROL), None)

    def _go(self, keys: deque[int]) -> Program:
        worker = self.worker
        while keys or self.under_way:
            # with one instance at a time the next one finds all updates made
            free = 0 if self.active == 1 and self.unacknowledged else self.active - self.under_way
            if free > 0 and keys:
                worker.doing = "", "inject", 0
                yield Compute("inject", self._inject, [keys.popleft() for _ in range(min(free, len(keys)))])
                yield from worker.flush()
            if self.others:
                yield from self._receive(wait=not worker.ready)
            if worker.ready:
                yield from worker.work()
            elif not self.others and not self.back:
                held = worker.network.held()
                raise InvariantError(
                    f"{self.under_way} instances are under way and nothing is left to do: {held}"
                )
            if self.back:
                yield from self._tell_back()

    def _average(self) -> Program:
        """Collect the copies of nodes, average them and send the means back."""
        self.copies = copies_on(self.worker)
        for answer in (False, True):
            values = means(self.worker.network, self.copies) if answer else {}
            for other in self.others:
                yield Send(Channel(0, other, COPIES), list(values.items()))
                self.unacknowledged += 1
            while self.unacknowledged:
                yield from self._receive(wait=True)
        put(self.worker, values)

    def _inject(self, keys: list[int]) -> None:
        self.under_way += len(keys)
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.input.inject(keys)

    def _finished(self, key: int) -> None:
        self.under_way -= 1
        self.back.append(key)
        self.phase_back += 1
        self.on_back(self.phase, self.phase_back)

    def _tell_back(self) -> Program:
        back, self.back = self.back, []
        if not self.by_instance:
            return
        losses = list(self.worker.network.of_type(Loss))
        learned = [key for key in back if any(loss.learns(key) for loss in losses)]
        if learned:
            count_instances(self.worker, learned)
            yield from self._tell(DONE, learned, answer=self.active == 1)

    def _tell(self, what: int, about: Any, answer: bool) -> Program:
        for other in self.others:
            yield Send(Channel(0, other, CONTROL), (what, about, answer))
            self.unacknowledged += answer

    def _receive(self, wait: bool) -> Program:
        """All that has come; with ``wait`` at least one thing, where anything can come."""
        found = yield RecvAny((), wait=wait and (self.unacknowledged > 0 or self.under_way > 0))
        while found is not None:
            channel, value = found
            if channel.name == ACKNOWLEDGED:
                self.unacknowledged -= 1
                self.copies.update(value)
            else:
                self.worker.deliver(value)
                yield from self.worker.flush()  # what only passes through
            found = yield RecvAny((), wait=False)


def serve(worker: Worker, averages: Callable[[int], bool] = lambda _: False) -> Program:
    """The program of a worker other than 0; it is done with a phase when copies, if they are averaged, are averaged."""
    unfinished: list[int] = []  # phases
    while True:
        found = yield RecvAny((), wait=not worker.ready)
        while found is not None:
            channel, value = found
            if channel.name == COPIES:
                if value:
                    put(worker, dict(value))
                    for number in unfinished:
                        yield Done(number)
                    unfinished.clear()
                yield Send(Channel(worker.number, 0, ACKNOWLEDGED), list(copies_on(worker).items()))
            elif channel.name != CONTROL:
                worker.deliver(value)
                yield from worker.flush()
            elif value is None:
                return
            else:
                what, about, answer = value
                if what == DONE:
                    count_instances(worker, about)
                else:
                    drained(worker, about)
                    if worker.network.replicas and averages(about):
                        unfinished.append(about)
                    else:
                        yield Done(about)
                if answer:
                    yield Send(Channel(worker.number, 0, ACKNOWLEDGED), ())
            found = yield RecvAny((), wait=False)
        if worker.ready:
            yield from worker.work()


def updates_of(worker: Worker, everywhere: bool = False) -> list[Updates]:
    """Those of the worker's nodes; ``everywhere``: of all nodes of the network."""
    nodes = worker.network.nodes if everywhere else worker.nodes
    found = (node.updates for node in nodes.values() if isinstance(node, Transform))
    return [updates for updates in found if updates is not None]


def count_instances(worker: Worker, keys: Sequence[int]) -> None:
    """Instances have gone through the network and back."""
    transforms = [node for node in worker.nodes.values() if isinstance(node, Transform)]
    for key in keys:
        for node in transforms:
            node.instance_done(key)


def drained(worker: Worker, number: int) -> None:
    """All instances of phase ``number`` are back: nothing may be left. Updates are made with what was gathered."""
    left = {name: count for name, node in worker.nodes.items() if (count := node.held())}
    if left:
        raise InvariantError(f"after a drain worker {worker.number} still holds messages: {left}")
    for updates in updates_of(worker):
        updates.drained()
    worker.on_drained(number)
