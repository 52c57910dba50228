"""Asynchronous push-sum: shares of a sum and of a weight, sent whenever a worker has made a step."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.asynchronous.side import Letter, Neighbourhood


@dataclass(frozen=True)
class AsyncPushSum:
    """Each worker pushes shares of a sum x_i and of a weight w_i; its model is the quotient z_i = x_i / w_i.

        g_i at z_i as it is now;  shares that have come meanwhile are added to x_i and w_i;  x_i <- x_i - lr w_i g_i
        then, if it may push:  (P_ji x_i, P_ji w_i) to each out-neighbour j, and (P_ii x_i, P_ii w_i) stays

    It may not while w_i < ``least_weight``, so that a weight never vanishes, nor while ``most_under_way`` of its shares
    to a neighbour have not been added, so that neither memory nor staleness grows where links or neighbours are slow.
    The columns of P sum to one (weights "push"), so the sums of x and of w over workers, and shares under way, are
    kept; edges may go one way.
    The step is w_i g_i, so that the model z_i moves by lr g_i however little weight its worker has: one whose
    neighbours are slow keeps pushing its weight away. It also makes speeds cancel out: if worker i steps and pushes r_i
    times a second, the flow of weight balances where P (r w) = r w, so the mean model follows the gradients weighted by
    the right eigenvector of P: all alike where the rows of P sum to one too (regular graphs), whatever the r_i
    that pushes keep up with.
    Cost: d + 1 numbers to each out-neighbour a step; the receiver's acknowledgement has no bytes and takes no time.
    ``staleness``: the sender's own steps from sending a share until it is added; 0: before its next one. So shares to a
    slow worker are late by what their sender does meanwhile, however many steps either has made by then.
    Reference: push-sum of Assran, Loizou, Ballas, Rabbat, ICML 2019, arXiv 1811.10792; without rounds, steps by weight
    and the least weight are our form.
    """

    traits: ClassVar[Traits] = Traits(
        title="async push-sum", needs=("static", "columns"), sends="edges", weights="push"
    )

    least_weight: float = 0.01
    most_under_way: int = 32

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 < self.least_weight < 1:
            raise ValueError(f"least_weight = {self.least_weight} must be between 0 and 1; 0.01 is usual")
        if self.most_under_way < 1:
            raise ValueError(f"most_under_way = {self.most_under_way} must be at least 1; 32 is usual")

    def side(self, x: Tensor, near: Neighbourhood) -> Shares:
        """One worker's side, from the model x (1, d) and weight one."""
        return Shares(x, near, self.least_weight, self.most_under_way)


class Shares:
    """A worker's side: x (1, d) and w (1, 1)."""

    acknowledges = True

    def __init__(self, x: Tensor, near: Neighbourhood, least_weight: float, most_under_way: int) -> None:
        self.x, self.near = x, near
        self.least_weight, self.most_under_way = least_weight, most_under_way
        self.under_way: defaultdict[int, deque[int]] = defaultdict(
            deque
        )  # by target: own steps when each was sent
        self.steps = 0
        self.w = x.new_ones((1, 1))
        self.asked = self.answered = 0
        self.staleness: Counter[int] = Counter()

    def model(self) -> Tensor:
        """z = x / w."""
        return self.x / self.w

    def step(self, g: Tensor | None, lr: float, t: int) -> Iterator[Letter]:
        """x <- x - lr w g; then the shares."""
        if g is not None:
            self.x.addcmul_(g, self.w, value=-lr)
        near, self.steps = self.near, t + 1
        full = any(len(self.under_way[target]) >= self.most_under_way for target in near.targets)
        if full or float(self.w) < self.least_weight or not near.targets:
            return
        for target, share in zip(near.targets, near.shares, strict=True):
            self.asked += 1
            self.under_way[target].append(self.steps)
            yield target, (self.x * share, self.w * share)
        self.x.mul_(near.kept)
        self.w.mul_(near.kept)

    def receive(self, source: int, said: tuple[Any, ...], t: int) -> Iterator[Letter]:
        """A share is added."""
        del source, t
        x, w = said
        self.x.add_(x)
        self.w.add_(w)
        return iter(())

    def acknowledged(self, target: int) -> None:
        """The oldest share to ``target`` was added: shares keep their order."""
        self.answered += 1
        self.staleness[self.steps - self.under_way[target].popleft()] += 1
