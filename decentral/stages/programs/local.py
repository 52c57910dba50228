"""Truncated local back-propagation: blocks of layers learn from losses of their own; no gradient leaves a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from decentral.runtime import Compute, Done, Program, Recv, Send
from decentral.stages.lending import Lending
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, backprop_step
from decentral.stages.stage import Stage
from topologies.settings import plain_settings
from topologies.wording import shown

KINDS = ("greedy", "chunked", "overlapping")


@dataclass(frozen=True)
class Local(StageProgram):
    """Each block j of layers minimises its own loss a_j(x_j), and what it passes on is detached:

        x_{j+1} = f_j(detach x_j; w_j),    w_j <- w_j - lr d/dw_j loss(a_j(x_{j+1}), labels)

    ``blocks``: "greedy", a layer each; "chunked", ``size`` layers each; "overlapping", ``window`` layers each, one
    further on at every block, so that a layer is in several. Its gradient is then the mean over its blocks, that is,
    its duplicates are averaged at every step; window = L is back-propagation. The last block's loss is the network's
    own, the others have a ``head`` of their own. Every ``global_every``-th step, if not 0, is one of back-propagation
    through all stages.

    Cost: batch x width numbers over each boundary, forward only. Overlapping blocks also borrow layers from the
    stages above: gradients and parameters of each borrowed layer travel once a step.
    Exact: greedy and chunked have no staleness; a pipelined run has the bits of the serial one, however it is cut.
    Overlapping stages wait for each other's averages, so they do not pipeline across steps.
    Reference: Laskin et al. 2020 (arXiv 2012.03837).
    """

    blocks: Literal["greedy", "chunked", "overlapping"] = "greedy"
    size: int = 2
    window: int = 2
    head: str = "linear"
    global_every: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.blocks not in KINDS:
            raise ValueError(f"blocks = {shown(self.blocks)} must be one of {', '.join(KINDS)}")
        for name in ("size", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1 layer")
        if self.global_every < 0:
            raise ValueError(f"global_every = {self.global_every} must not be negative; 0 is never")

    def blocks_of(self, depth: int) -> list[range]:
        """The layers of each block of a network of ``depth`` layers."""
        if self.blocks == "overlapping":
            return [range(j, j + self.window) for j in range(depth - self.window + 1)]
        size = 1 if self.blocks == "greedy" else self.size
        return [range(a, min(a + size, depth)) for a in range(0, depth, size)]

    @property
    def local_head(self) -> str:
        """See :class:`StageProgram`."""
        return self.head

    def check(self, spans: Sequence[range], layers: Sequence[nn.Module]) -> None:
        """Refuse a cut through a block, a window wider than the network, and duplicates with batch norm."""
        blocks = self.blocks_of(len(layers))
        if self.blocks != "overlapping":
            cut = next((b for b in blocks if not any(b.start in s and b.stop <= s.stop for s in spans)), None)
            if cut is not None:
                starts = [b.start for b in blocks[1:]]
                raise ValueError(
                    f"the block of layers {cut.start} to {cut.stop - 1} lies on two stages; cut at some of {starts}"
                )
        elif not blocks:
            raise ValueError(f"window = {self.window} is wider than the network of {len(layers)} layers")
        elif self.window > 1 and any(_is_batch_norm(m) for layer in layers for m in layer.modules()):
            raise ValueError(
                "overlapping blocks would keep several batch-norm statistics of one layer; use greedy or chunked blocks"
            )

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        blocks = _Blocks(stage, self)
        lending = blocks.lending
        for t in range(stage.steps):
            received = []
            if self.global_every and (t + 1) % self.global_every == 0:
                yield from backprop_step(stage, t)
            else:
                if blocks.here:
                    x = stage.inputs(t) if stage.first else (yield Recv(stage.from_previous(ACTIVATIONS)))
                for block in blocks.here:
                    loss, x = yield Compute("forward", blocks.forward, block, x, t, tag=t)
                    if block is blocks.here[-1] and blocks.above:
                        yield Send(stage.to_next(ACTIVATIONS), x)
                    yield Compute("backward", loss.backward, tag=t)
                for owner, borrower, layers in lending.pairs:
                    channel = stage.channel(borrower, owner, "gradients of borrowed layers")
                    if stage.index == borrower:
                        yield Send(channel, lending.gradients(layers))
                    else:
                        received.append((layers, (yield Recv(channel))))
                lending.average(received)
            yield from stage.learn(t)
            for owner, borrower, layers in lending.pairs:
                channel = stage.channel(owner, borrower, "parameters of lent layers")
                if stage.index == owner:
                    yield Send(channel, lending.values(layers))
                else:
                    lending.take(layers, (yield Recv(channel)))
            yield Done(t)


class _Blocks:
    """The blocks that begin on this stage, and their heads."""

    def __init__(self, stage: Stage, program: Local) -> None:
        blocks = program.blocks_of(stage.depth)
        host = {b: k for b in blocks for k, span in enumerate(stage.spans) if b.start in span}
        self.stage = stage
        self.here = [b for b in blocks if host[b] == stage.index]
        self.above = any(k > stage.index for k in host.values())
        self.stride = 1 if program.blocks == "overlapping" else program.size
        self.lending = Lending(stage, host)
        self.heads = {b: stage.make_head(program.head, b.stop - 1) for b in self.here if b.stop < stage.depth}

    def forward(self, block: range, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The block's loss on x, and what the next block begins with."""
        stage, outputs = self.stage, []
        for i in block:
            x = self.lending.modules[i](x)
            outputs.append(x)
        stage.checked(x)
        if block in self.heads:
            loss = self.heads[block].loss(x, stage.labels(t), lambda: stage.inputs(t))
        else:
            loss = stage.loss(self.lending.modules[stage.depth](x), stage.labels(t))
            stage.note_loss(t, loss)
        return loss, outputs[min(self.stride, len(outputs)) - 1].detach()


def _is_batch_norm(module: Any) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
