"""What a method is to one worker: the arithmetic between two computations, without time and without waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from decentral.algorithms.traits import Described

if TYPE_CHECKING:
    from torch import Tensor

Letter = tuple[int, tuple[Any, ...]]
"""(worker that it goes to, what it says)."""


@dataclass(frozen=True)
class Neighbourhood:
    """Worker ``worker`` among its neighbours, who it sends to and who send to it, both ascending.

    ``shares[k]`` = W_ji for the k-th j of ``targets``, and ``kept`` = W_ii: column i = ``worker`` of the mixing matrix.
    """

    worker: int
    seed: int
    targets: tuple[int, ...]
    sources: tuple[int, ...]
    shares: tuple[float, ...]
    kept: float


class Side(Protocol):
    """One worker's side. ``x`` (1, d) is changed in place; ``t``: the steps that this worker has made so far.

    ``asked``, ``answered``: its messages that want an answer, and those that have had it. ``acknowledges``: whether a
    message is answered by a bare acknowledgement, which the worker sends and :meth:`acknowledged` is told of.
    ``staleness``: how late -> messages, as the method defines it.
    """

    x: Tensor
    asked: int
    answered: int
    acknowledges: bool
    staleness: Counter[int]

    def model(self) -> Tensor:
        """(1, d): where the gradient is taken, and what is measured. It may be x itself."""

    def step(self, g: Tensor | None, lr: float, t: int) -> Iterable[Letter]:
        """Step t with the gradient g (1, d), or None where x has made it; what is to be sent then.

        Only a side whose model is x itself gets None.
        """

    def receive(self, source: int, said: tuple[Any, ...], t: int) -> Iterable[Letter]:
        """A message has come from ``source``; what is to be sent then."""

    def acknowledged(self, target: int) -> None:
        """A message to ``target`` has had its effect."""


class AsynchronousMethod(Described, Protocol):
    """A method of workers without rounds."""

    def side(self, x: Tensor, near: Neighbourhood) -> Side:
        """One worker's side, from the model x (1, d), among its neighbours."""
