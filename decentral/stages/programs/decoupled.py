"""Decoupled greedy learning: stages learn from losses of their own, at their own speed, from buffers of what came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from decentral.runtime import Compute, Done, Program, RecvAny, Send
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS
from decentral.stages.stage import Stage
from topologies.settings import plain_settings


@dataclass(frozen=True)
class Decoupled(StageProgram):
    """Each stage k minimises its own loss a_k, and replays what the stage below has sent; no gradient leaves a stage:

        x_{k+1} = f_k(detach x_k; w_k),    w_k <- w_k - lr d/dw_k loss(a_k(x_{k+1}), labels)

    Nobody waits for a slower stage above, and for a slower one below only with nothing left to train on. A stage
    keeps the newest ``buffer`` batches that have come and trains on the least used of them, of those on the most
    recent, up to ``reuse`` times on each it holds; every time it sends on what it got, which above replaces what came
    of that batch before. So a fast stage trains several times on a batch, and a slow one leaves some out. The last
    stage's loss is the network's own, the others have a ``head``.

    Steps are batches of the first stage: it makes ``stage.steps`` updates. A stage above trains until the one below
    has ended and all that it holds has been used; how many updates that makes depends on the speeds. Done(t) follows
    its first update on batch t or a later one, or its end; an update on batch t has the learning rate of step t.

    Cost: batch x width numbers over a boundary for each update below it, forward only. Memory: ``buffer`` batches of
    inputs, and what has come during one update.
    Exact: where no stage is slower than the one below, ``reuse = 1`` has the bits of the synchronous greedy pipeline,
    since it then never leaves out or repeats a batch.
    Reference: Belilovsky et al. 2020 (arXiv 1901.08164), asynchronous with a replay buffer. ``reuse`` is ours.
    """

    lockstep: ClassVar[bool] = False  # stages make different numbers of updates
    of_one_loss: ClassVar[bool] = False

    head: str = "linear"
    buffer: int = 4
    reuse: int = 4

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.buffer < 1:
            raise ValueError(f"buffer = {self.buffer} must be at least 1 batch")
        if self.reuse < 1:
            raise ValueError(f"reuse = {self.reuse} must be at least 1; 1 trains on a batch once")

    @property
    def local_head(self) -> str:
        """See :class:`StageProgram`."""
        return self.head

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        block = _Block(stage, self.head)
        if stage.first:
            for t in range(stage.steps):
                yield from block.train(t, stage.inputs(t))
                yield Done(t)
        else:
            yield from self._replay(stage, block)
        if not stage.last:
            yield Send(stage.to_next(ACTIVATIONS), None)  # the end

    def _replay(self, stage: Stage, block: _Block) -> Program:
        replay, done, ended = Replay(self.buffer), 0, False
        while True:
            while not ended:
                found = yield RecvAny((stage.from_previous(ACTIVATIONS),), wait=replay.used(self.reuse))
                if found is None:
                    break
                if found[1] is None:
                    ended = True
                else:
                    replay.put(*found[1])
            if ended and replay.used(1):
                break
            t, x = replay.take()
            yield from block.train(t, x)
            for one in range(done, t + 1):
                yield Done(one)
            done = max(done, t + 1)
        for one in range(done, stage.steps):  # the last batches can be left out above several stages
            yield Done(one)


class Replay:
    """The newest ``size`` batches that have come, and how often each has been taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.batches: dict[int, Tensor] = {}  # in the order they came
        self.times: dict[int, int] = {}

    def put(self, t: int, x: Tensor) -> None:
        """Batch t has come, new or again, when it takes its place and keeps its count; the oldest goes if need be."""
        self.batches.pop(t, None)
        self.batches[t] = x
        self.times.setdefault(t, 0)
        if len(self.batches) > self.size:
            oldest = next(iter(self.batches))
            del self.batches[oldest], self.times[oldest]

    def used(self, times: int) -> bool:
        """Whether all batches have been taken so often; true if there is none."""
        return all(count >= times for count in self.times.values())

    def take(self) -> tuple[int, Tensor]:
        """The least used batch; of several, the one that came last."""
        t = min(reversed(self.batches), key=self.times.__getitem__)  # min gives the first of equal ones
        self.times[t] += 1
        return t, self.batches[t]


class _Block:
    """A stage's layers and its head, and how they learn from a batch."""

    def __init__(self, stage: Stage, head: str) -> None:
        self.stage = stage
        self.head = None if stage.last else stage.make_head(head, stage.span.stop - 1)

    def train(self, t: int, x: Tensor) -> Program:
        """One update on batch t; what the stage above begins with goes there."""
        loss, y = yield Compute("forward", self.forward, t, x, tag=t)
        if not self.stage.last:
            yield Send(self.stage.to_next(ACTIVATIONS), (t, y))
        yield Compute("backward", loss.backward, tag=t)
        yield from self.stage.learn(t)

    def forward(self, t: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stage's own loss on its input x, and its output."""
        stage = self.stage
        y, labels = stage.forward(x, input_gradient=False).y, stage.labels(t)
        if self.head is not None:
            return self.head.loss(y, labels, lambda: stage.inputs(t)), y
        loss = stage.loss(y, labels)
        stage.losses[t] = loss.detach()  # not the sum over replays: the latest
        return loss, y
