"""One stage: some layers of the network, their optimizer, their data, and the passes that a program asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from decentral.optimizers.as_torch import RuleOptimizer
from decentral.optimizers.rescaling import Rescaling
from decentral.runtime.requests import Channel, Compute, NonFiniteError, Program, StageError
from decentral.stages.heads.local_losses import cross_entropy
from decentral.stages.layers import Network

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Batches = Callable[[int], tuple[Tensor, Tensor]]
"""Step t -> (inputs, labels) of its batch: a pure function, so that every stage can ask for the labels it needs."""
_KEPT_BATCHES = 4  # steps that a stage is at, at once


@dataclass(eq=False)
class Pass:
    """A forward pass that is kept for its backward pass: what went in, what came out."""

    x: Tensor
    y: Tensor


class Stage:
    """Stage ``index`` of ``count``: layers ``span`` of a network of L layers; the last one also has the head.

    ``worker``: whose it is. ``steps``: how many a program does. ``lr(t)``: the learning rate of step t. ``clip_norm``:
    what its gradient, local heads' included, is cut to before an update; 0 is without.
    """

    worker = 0

    def __init__(
        self,
        index: int,
        spans: Sequence[range],
        network: Network,
        make_optimizer: MakeOptimizer,
        batches: Batches,
        steps: int,
        lr: Callable[[int], float] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        make_head: Callable[[str, int], Any] | None = None,
        clip_norm: float = 0.0,
    ) -> None:
        self.index, self.count, self.spans = index, len(spans), list(spans)
        self.span, self.depth = spans[index], len(network.layers)
        self.layers = {i: network.layers[i] for i in self.span}
        self.head = network.head if self.last else None
        self.network = network
        # asked once a step, whoever asks: each answer may be new memory, which micro-batches would keep apart
        self.batch: Batches = lru_cache(maxsize=_KEPT_BATCHES)(lambda t: batches(t))
        self.steps, self.lr, self.loss = steps, lr, loss
        self.terms: Callable[[Tensor], int] = getattr(
            loss, "terms", len
        )  # of labels, what their mean loss is over
        self.modules: nn.ModuleList = nn.ModuleList(self.layers.values())
        if self.head is not None:
            self.modules.append(self.head)
        self.make_optimizer = make_optimizer
        self.optimizers: list[torch.optim.Optimizer] = []
        self.learners: list[nn.Module] = []
        self.clip_norm = clip_norm
        self.rescaling: Rescaling | None = None  # of the network's layers that are this stage's
        self.learns(self.modules)
        self._make_head = make_head
        self.losses: dict[int, Tensor] = {}
        self.staleness: Counter[int] = (
            Counter()
        )  # updates between a batch's forward pass and its own -> batches
        self.findings: dict[str, Tensor] = {}  # what a program leaves behind beside the parameters, by name
        self.on_update: Callable[[int], None] | None = (
            None  # called before step t's update, gradients in place
        )

    def make_head(self, name: str, layer: int) -> Any:
        """A local head of that name on the outputs of ``layer``, a module with ``loss(h, labels, inputs)``.

        Its first parameters depend on the seed and the layer, not on the stage. It learns in the stage's updates.
        """
        if self._make_head is None:
            raise StageError(f"stage {self.index} was made without local heads; give it make_head")
        head = self._make_head(name, layer)
        self.learns(head)
        return head

    def learns(self, module: nn.Module) -> None:
        """From now on the module's parameters change in the stage's updates."""
        self.learners.append(module)
        self.optimizers.append(self.make_optimizer(module.parameters()))

    @property
    def learning(self) -> list[nn.Parameter]:
        """The parameters that change in the stage's updates, frozen ones among them."""
        return [p for module in self.learners for p in module.parameters()]

    @property
    def number(self) -> int:
        """What drivers know this stage by."""
        return self.number_of(self.index)

    def number_of(self, index: int) -> int:
        """What drivers know stage ``index`` by."""
        return index

    @property
    def first(self) -> bool:
        """Whether the data come in here."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether the loss is here."""
        return self.index == self.count - 1

    def channel(self, source: int, target: int, name: str, capacity: int | None = None) -> Channel:
        """A channel from stage ``source`` to stage ``target``."""
        return Channel(self.number_of(source), self.number_of(target), name, capacity)

    def to_next(self, name: str, capacity: int | None = None) -> Channel:
        """The channel to the stage above."""
        return self.channel(self.index, self.index + 1, name, capacity)

    def from_previous(self, name: str, capacity: int | None = None) -> Channel:
        """The channel from the stage below."""
        return self.channel(self.index - 1, self.index, name, capacity)

    def to_previous(self, name: str, capacity: int | None = None) -> Channel:
        """The channel to the stage below."""
        return self.channel(self.index, self.index - 1, name, capacity)

    def from_next(self, name: str, capacity: int | None = None) -> Channel:
        """The channel from the stage above."""
        return self.channel(self.index + 1, self.index, name, capacity)

    def inputs(self, t: int, m: int = 0, parts: int = 1) -> Tensor:
        """Inputs of step t, or of its m-th of ``parts`` micro-batches."""
        return torch.tensor_split(self.batch(t)[0], parts)[m]

    def labels(self, t: int, m: int = 0, parts: int = 1) -> Tensor:
        """Labels of step t, or of its m-th of ``parts`` micro-batches."""
        return torch.tensor_split(self.batch(t)[1], parts)[m]

    def forward(self, x: Tensor, input_gradient: bool = True) -> Pass:
        """Through the layers (and the head, if this is the last stage). The graph is kept in the Pass.

        ``input_gradient = False`` saves the product that its gradient would cost, as a first layer may.
        """
        x = x.detach()
        if input_gradient and x.is_floating_point():
            x.requires_grad_()
        y = x
        for layer in self.layers.values():
            y = layer(y)
        if self.head is not None:
            y = self.head(y)
        return Pass(x, self.checked(y))

    def backward(self, kept: Pass, gradient: Tensor | None) -> Tensor | None:
        """Add to the parameters' ``grad``; the gradient at the pass's input, or None where none was asked for.

        ``gradient``: at the pass's output.
        """
        if kept.y.requires_grad:  # else all that the stage has is frozen, and nothing below learns
            torch.autograd.backward(kept.y, gradient)
        gradient_in, kept.x.grad = kept.x.grad, None
        return gradient_in

    def backward_from_loss(self, kept: Pass, labels: Tensor, t: int, share: float = 1.0) -> Tensor | None:
        """:meth:`backward` from ``share`` times the mean loss of the pass's logits, which is noted for step t."""
        loss = self.loss(kept.y, labels)
        if share != 1.0:
            loss = loss * share
        self.note_loss(t, loss)
        return self.backward(Pass(kept.x, loss), None)

    def note_loss(self, t: int, loss: Tensor) -> None:
        """Add to the training loss of step t."""
        noted = loss.detach()
        self.losses[t] = self.losses[t] + noted if t in self.losses else noted

    def learn(self, t: int, tag: Any = None) -> Program:
        """Step t's update, as requests. ``tag``: its number in pictures, if that is not t."""
        yield Compute("update", self.update, t, tag=t if tag is None else tag)

    def update(self, t: int) -> None:
        """The step of layers and local heads with the gradients in ``grad``, which are then forgotten."""
        self.begin_update(t)
        for optimizer in self.optimizers:
            if self.lr is not None:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr(t)
            if isinstance(optimizer, RuleOptimizer):
                optimizer.hear(self.losses.get(t))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.end_update(t)

    def end_update(self, t: int) -> None:
        """Step t's update is made: weights are rescaled, if they are to be."""
        if self.rescaling is not None and self.rescaling.is_due(t):
            self.rescaling.act_on(self.network.modules())

    def begin_update(self, t: int) -> None:
        """Step t's gradients are in place: they are shown, then clipped."""
        if self.on_update is not None:
            self.on_update(t)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.learning, self.clip_norm)

    def checked(self, y: Tensor) -> Tensor:
        """y, if it is finite. Raises NonFiniteError that names the stage and its layers."""
        if not torch.isfinite(y.detach().sum()):  # a sum is finite unless an element is not, or it overflows
            if torch.isfinite(y.detach()).all():
                return y
            raise NonFiniteError(
                f"stage {self.number} (layers {self.span.start} to {self.span.stop - 1}): its activations are not "
                "finite; lower train.lr"
            )
        return y
