"""The gradient on samples and on adversarial examples of them, with two sets of running statistics."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.problems.attack import Attack
from decentral.problems.models.worker_state import BufferRows
from decentral.problems.oracles import Batches, Blocks, LoopOracle

if TYPE_CHECKING:
    from decentral.problems.adversarial import Adversarial

_AUXILIARY, _STALE = "auxiliary: ", "stale models"  # no buffer of a module may be called so, but for a joke


class Attacker(Protocol):
    """Somebody else who makes examples, of one round after the other, while gradients are computed here."""

    @property
    def under_way(self) -> bool:
        """Whether examples have been asked for, and not yet taken."""

    def ask(self, x: Tensor, inputs: Batches, t: int) -> None:
        """Examples of round t against models x (h, d), of as many samples as ``inputs`` has. Returns at once."""

    def take(self, inputs: Batches) -> list[Tensor]:
        """What was asked for, like the inputs of that round; waits for it."""


class AdversarialOracle(LoopOracle):
    """grad L(theta_t; x, y | main) + weight grad L(theta_t; x_adv, y | auxiliary), see :class:`Adversarial`.

    ``kept``: further rows (h, ...) that belong to the workers: the auxiliary buffers, and with ``stale`` theta_{t-1}.
    ``attacker``: who makes the examples; None: they are made here, before the gradient. With ``stale`` he is asked for
    those of round t + 1 as soon as those of round t have come, and makes them meanwhile.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], workers: range, seed: int,
        draws: Collection[str], settings: Adversarial, attack: Attack, start: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(module, layout, buffers, workers, seed, draws, attack.loss)
        self.settings, self.attack, self.main = settings, attack, buffers
        self.attacker: Attacker | None = None
        self.kept: dict[str, Tensor] = {}
        self.weight = start.new_tensor(settings.weight)
        if settings.weight:
            auxiliary = {name: rows.clone() for name, rows in buffers.items()}
            self.auxiliary = BufferRows(module, auxiliary)
            self.kept = {_AUXILIARY + name: rows for name, rows in auxiliary.items()}
        if settings.weight and settings.stale:
            self.stale = self.kept[_STALE] = start.expand(len(workers), -1).clone()
        self._examples: list[Tensor] = []

    def gradient(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> tuple[Tensor, Blocks]:
        """See :class:`LoopOracle`; the losses are the sums of both."""
        if self.settings.weight:
            self._examples = self._made(x, inputs, labels, t)
        return super().gradient(x, inputs, labels, t)

    def attacked(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> list[Tensor]:
        """Of each hosted worker, examples of its batch of round t against its row of x (h, d)."""
        with self.generators.kept():
            return [self._attacked(row, x[row], inputs[row], labels[row], t) for row in range(len(x))]

    def _attacked(self, row: int, x: Tensor, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        self.generators.seed(self.seed, "attack", self.workers[row], t)
        main = {name: rows[row] for name, rows in self.main.items()}
        return self.attack.examples(x, main, inputs, labels)

    def _made(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> list[Tensor]:
        stale = self.stale if self.settings.stale else None
        if (attacker := self.attacker) is None:
            made = self.attacked(x if stale is None else stale, inputs, labels, t)
        else:
            # always so without ``stale``; with it in the first round, or the first after a checkpoint
            if not attacker.under_way:
                attacker.ask(x if stale is None else stale, inputs, t)
            made = attacker.take(inputs)
            if stale is not None:
                attacker.ask(x, inputs, t + 1)
        if stale is not None:
            stale.copy_(x)
        return made

    def _one(self, row: int, x: Tensor, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        loss = super()._one(row, x, inputs, labels, t)
        if not self.settings.weight:
            return loss
        of_examples = self._pass(
            self.auxiliary, "adversarial", row, self._examples[row], labels, t, self.weight
        )
        return loss + self.weight * of_examples
