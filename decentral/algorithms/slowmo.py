"""SlowMo: a slow outer momentum over any method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.local_sgd import check_every, is_due
from decentral.algorithms.momentum import check_momentum
from decentral.algorithms.named import ALGORITHMS
from decentral.algorithms.traits import Traits, maker_of, traits_of
from topologies.settings import finite_settings, plain_settings
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
    from torch import Tensor

    import topologies
    from decentral.algorithms.traits import Method
    from decentral.comm.mixer import Mixer


class Outer(NamedTuple):
    """The base method's ``inner`` state; x at the last outer step; u (h, d) = lr times the slow momentum."""

    inner: Any
    x: Tensor
    u: Tensor
    lr: float


@dataclass(frozen=True)
class SlowMo:
    """After ``every`` rounds of the base method, the exact average and a momentum step from where they began.

        u  = slow_momentum u + (xs - mean(x)) / lr
        xs = xs - slow_lr lr u;    x = xs

    Kept as lr u, so that nothing is divided by lr. The base method goes on with its state as it is.
    ``base``: the name of another method, with its default settings but for ``momentum``.
    Cost: that of the base method, and an all-reduce of d numbers in ``every`` rounds.
    Fixed point: where ``every`` rounds of the base method, begun at consensus, leave the mean as it is.
    Unstable where the base method is, and for slow_lr >= 2 (1 + slow_momentum) even where that stands still.
    Reference: Wang, Tantia, Ballas, Rabbat, ICLR 2020, arXiv 1910.00643.
    """

    base: str = "dmsgd"
    momentum: float = 0.9
    every: int = 12
    slow_momentum: float = 0.5
    slow_lr: float = 1.0

    def __post_init__(self) -> None:
        plain_settings(self)
        choices = [name for name in ALGORITHMS if name != "slowmo"]
        if self.base not in choices:
            raise ValueError(f"base = {shown(self.base)} must be one of {', '.join(choices)}")
        check_every(self.every)
        check_momentum(self.momentum)
        check_momentum(self.slow_momentum)
        if self.slow_lr <= 0:
            raise ValueError(f"slow_lr = {self.slow_lr} must be positive; 1.0 is usual")
        finite_settings(self)

    @cached_property
    def traits(self) -> Traits:
        """Those of the base method; but models are sent, at the outer step at least, unless messages are on edges."""
        base = traits_of(self.method)
        return replace(base, title="SlowMo", sends="edges" if base.sends == "edges" else "models")

    def schedule(self, graph: nx.Graph) -> topologies.Schedule:
        """The mixing matrices that the base method makes of a connected graph, if it does."""
        make = maker_of(self.method)
        if make is None:
            raise ValueError(f"base = {shown(self.base)} makes no mixing matrices of its own")
        return make(graph)

    @cached_property
    def method(self) -> Method[Any]:
        """The base method."""
        make = ALGORITHMS[self.base]
        settings = {"momentum": self.momentum} if "momentum" in signature(make).parameters else {}
        return make(**settings)

    def init(self, x: Tensor, comm: Mixer) -> Outer:
        """The base method's first state; no slow momentum."""
        admit(self, x, comm)
        return Outer(self.method.init(x, comm), x.clone(), x.new_zeros(x.shape), 0.0)

    def step(self, x: Tensor, state: Outer, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, Outer]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        x, inner = self.method.step(x, state.inner, g, comm, lr)
        if not is_due(self.every, comm):
            return x, state._replace(inner=inner)
        ratio = lr / state.lr if state.lr else 0.0
        u = state.u.mul_(self.slow_momentum * ratio).add_(state.x).sub_(comm.mean(x))
        slow = state.x.sub_(u, alpha=self.slow_lr)
        return x.copy_(slow), Outer(inner, slow, u, lr)
