"""What may be known of a method without running it, and what every method has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import networkx as nx
    from torch import Tensor

    import topologies
    from decentral.comm.mixer import Mixer

S = TypeVar("S")

Need = Literal["rows", "columns", "static", "symmetric", "tree"]
"""Of the mixing, see :mod:`decentral.comm.needs`."""


@dataclass(frozen=True)
class Traits:
    """What may be known of a method without running it; it states what is not as here.

    ``title``: its name in figures and tables; "" is the one that it is registered by.
    ``needs``: of the mixing; by default rows that sum to one, so that workers that agree are left as they are.
    ``sends``: what links would compress; on "edges" messages have meanings of their own, and links do not.
    ``weights``: the rule for a graph where the file names none; None: the method makes its matrices of the graph, by
    ``schedule(graph)``.
    ``whole``: it looks at whole vectors, so a round is one block of columns.
    ``linear``: a round is linear in x and state, mode by mode of W; that decides of its stability.
    ``least_eigenvalue``: every eigenvalue of W must be above it.
    ``optimizer``: what it makes of a gradient itself, such as "AdamW"; its ``outer()`` is what is left of it without,
    for another in its place.
    """

    title: str = ""
    needs: tuple[Need, ...] = ("rows",)
    sends: Literal["models", "gradients", "differences", "edges"] = "models"
    weights: str | None = "metropolis"
    whole: bool = False
    linear: bool = True
    least_eigenvalue: float = -float("inf")
    optimizer: str = ""

    @property
    def pushes(self) -> bool:
        """Whether it mixes with columns that sum to one, as push-sum does."""
        return "columns" in self.needs


class Described(Protocol):
    """A method of either kind, in rounds or without."""

    @property
    def traits(self) -> Traits:
        """A ``ClassVar``, but of a method whose traits are those of another."""


class Method(Described, Protocol[S]):
    """A method of rounds whose state is an S: a NamedTuple, see :mod:`decentral.algorithms.state`."""

    def init(self, x: Tensor, comm: Mixer) -> S:
        """The state before the first round, from the models x (h, d)."""

    def step(self, x: Tensor, state: S, g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, S]:
        """One round from x (h, d) with the gradients g (h, d) at x; x and state are consumed."""


class MatrixMaker(Protocol):
    """What a method has besides whose ``weights`` are None."""

    def schedule(self, graph: nx.Graph) -> topologies.Schedule:
        """The mixing matrices that it makes of a connected graph."""


class HasOptimizer(Protocol):
    """What a method has besides that states an ``optimizer`` and can do with another."""

    def outer(self) -> Method[Any]:
        """The method without it: g = None where who calls has made the step. Raises ValueError if it cannot."""


def traits_of(method: object) -> Traits:
    """The traits of a method of either kind; those of a user's own that states none are the defaults."""
    stated = getattr(method, "traits", None)
    return stated if isinstance(stated, Traits) else Traits()


def without_optimizer(method: Any) -> Method[Any]:
    """The method, without an optimizer of its own. Raises ValueError if it cannot be had so."""
    own = traits_of(method).optimizer
    if own and not hasattr(method, "outer"):
        raise ValueError(f"{type(method).__name__} has an {own} of its own, and cannot do with another")
    without: Method[Any] = cast("HasOptimizer", method).outer() if own else method
    return without


def maker_of(method: object) -> Callable[[nx.Graph], topologies.Schedule] | None:
    """How the method makes mixing matrices of a graph; None where it takes those of the run."""
    return cast("MatrixMaker", method).schedule if traits_of(method).weights is None else None
