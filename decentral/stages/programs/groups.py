"""The groups of a G-LSTM on different stages: a layer is in all of them, and they meet in its projection."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decentral.problems.models.projected_lstm import GroupLSTM
from decentral.runtime import Compute, Done, Program, Recv, Request, Send
from decentral.stages.cut import cut_evenly
from decentral.stages.group_pass import GroupPass, GroupShare
from decentral.stages.layers import Network
from decentral.stages.program import StageProgram
from decentral.stages.programs.backprop import ACTIVATIONS, GRADIENTS
from decentral.stages.stage import Pass, Stage

PROJECTIONS = "projections"


@dataclass(frozen=True)
class Groups(StageProgram):
    """Back-propagation of a g-lstm whose k groups lie on S stages, a run of groups each, in every layer.

        h_t = sum_s P_s m_{s,t}      stage s has m_{s,t} and needs the slice of h_t that its groups see

    Forward each stage sends, of every step of every layer, the others their slices of its P_s m_{s,t}; backward, its
    slice of the gradient at h_t to all. Sums over stages ascend. The embedding is on stage 0, the head on the last
    stage; slices of what goes in and comes out travel once a batch, as do their gradients.
    Cost: 2 (S - 1) / S of the batch x tokens x p numbers a layer and stage; S - 1 messages a token and direction.
    Exact: the gradients of the whole network, but for the order of the sums over groups.
    Reference: Kuchaiev, Ginsburg 2017 (arXiv 1703.10722), whose groups are independent up to the projection; the
    schedule is ours.
    """

    across: ClassVar[bool] = True

    def check(self, spans: Sequence[range], layers: Sequence[nn.Module]) -> None:
        """Refuse what is no g-lstm, more stages than groups, and dropout."""
        grouped = [layer for layer in layers[1:] if isinstance(layer, GroupLSTM)]
        if not grouped or len(grouped) < len(layers) - 1 or not isinstance(layers[0], nn.Embedding):
            raise ValueError("program groups is for problem.name = 'g-lstm' without dropout; use backprop")
        if len(spans) > grouped[0].k:
            raise ValueError(
                f"stages.count = {len(spans)}: the layers have {grouped[0].k} groups, so 1 to {grouped[0].k} stages"
            )

    def part(self, network: Network, index: int, count: int) -> Network:
        """See :class:`StageProgram`: the stage's groups of each layer, and the embedding on stage 0."""
        first, *grouped = network.layers
        layers = [first if index == 0 else nn.Identity()]
        for layer in grouped:
            assert isinstance(layer, GroupLSTM)
            layers.append(GroupShare(layer, cut_evenly(layer.k, count)[index], count))
        return Network(tuple(layers), network.head)

    def run(self, stage: Stage) -> Program:
        """The stage's program."""
        first, *shares = stage.layers.values()
        for t in range(stage.steps):
            embedded: Pass | None = None
            passes: list[GroupPass] = []
            if stage.first:
                embedded = yield Compute("forward", _through, first, stage.inputs(t), tag=t)
                own = yield from _dealt(stage, embedded.y, shares[0], ACTIVATIONS)
            else:
                own = yield Recv(stage.channel(0, stage.index, ACTIVATIONS))
            for share in shares:
                own = yield from _forward(stage, share, own, passes, t)
            gradient = yield from _head(stage, own, shares[-1], t)
            while passes:
                gradient = yield from _backward(stage, passes.pop(), gradient, t)
            gathered = yield from _gathered(stage, gradient, 0, GRADIENTS)
            if embedded is not None:
                yield Compute("backward", stage.backward, embedded, torch.cat(gathered, -1), tag=t)
            yield from stage.learn(t)
            yield Done(t)


Steps = Generator[Request, Any, Any]


def _through(layer: nn.Module, x: Tensor) -> Pass:
    return Pass(x, layer(x))


def _forward(stage: Stage, share: Any, x: Tensor, passes: list[GroupPass], t: int) -> Steps:
    """The own slices of h (B, T, p') of those of the input."""
    made = yield Compute("forward", GroupPass, share, x, tag=t)
    passes.append(made)
    met: list[Tensor] = []
    for step in range(made.steps):
        partial = yield Compute("forward", made.forward, step, met, tag=(t, step))
        met = yield from _exchanged(stage, _slices(partial, share), PROJECTIONS)
    output = yield Compute("forward", made.output, met, tag=t)
    return stage.checked(output)


def _backward(stage: Stage, made: GroupPass, dy: Tensor, t: int) -> Steps:
    """The gradient at the own slices of the layer's input; those of its parameters are in place."""
    made.turn(dy)
    for step in reversed(range(made.steps)):
        met = yield from _exchanged(stage, [made.dh[step]] * stage.count, GRADIENTS)
        yield Compute("backward", made.backward, step, met, tag=(t, step))
    dx = yield Compute("backward", made.learn, tag=t)
    return dx


def _head(stage: Stage, own: Tensor, share: Any, t: int) -> Steps:
    """The gradient at the own slices of what the head sees."""
    last = stage.count - 1
    gathered = yield from _gathered(stage, own, last, ACTIVATIONS)
    if not stage.last:
        gradient = yield Recv(stage.channel(last, stage.index, GRADIENTS))
        return gradient
    h = torch.cat(gathered, -1).requires_grad_()
    assert stage.head is not None
    kept = yield Compute("forward", _through, stage.head, h, tag=t)
    dh = yield Compute("backward", stage.backward_from_loss, kept, stage.labels(t), t, tag=t)
    own = yield from _dealt(stage, dh, share, GRADIENTS)
    return own


def _slices(whole: Tensor, share: Any) -> list[Tensor]:
    """Each stage's slice of the last axis: that of its groups."""
    width = whole.shape[-1] // share.k
    return list(whole.split_with_sizes([len(own) * width for own in cut_evenly(share.k, share.count)], -1))


def _exchanged(stage: Stage, given: Sequence[Tensor], name: str) -> Steps:
    """Send each other stage its tensor; what all have sent here, ascending, the own one among them."""
    others = [s for s in range(stage.count) if s != stage.index]
    for s in others:
        yield Send(stage.channel(stage.index, s, name), given[s])
    met = []
    for s in range(stage.count):
        met.append(given[s] if s == stage.index else (yield Recv(stage.channel(s, stage.index, name))))
    return met


def _dealt(stage: Stage, whole: Tensor, share: Any, name: str) -> Steps:
    """Send each other stage its slice; the own one."""
    slices = _slices(whole.detach(), share)
    for s, part in enumerate(slices):
        if s != stage.index:
            yield Send(stage.channel(stage.index, s, name), part)
    return slices[stage.index]


def _gathered(stage: Stage, own: Tensor, at: int, name: str) -> Steps:
    """On stage ``at`` all stages' slices, ascending; the others have sent theirs, and have none."""
    if stage.index != at:
        yield Send(stage.channel(stage.index, at, name), own)
        return []
    met = []
    for s in range(stage.count):
        met.append(own if s == at else (yield Recv(stage.channel(s, at, name))))
    return met
