"""Who collects transitions: the process of the learner itself, in each round, or others beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from decentral.problems.reinforcement.acting import Acting
from decentral.problems.reinforcement.agent import Carried


class Collecting(Protocol):
    """Actors of the hosted workers: (h, actors, E, row) ``environments`` and the policies (h, c) that they act by."""

    def begin(self, t: int, acting: Tensor, pulled: Tensor, environments: Tensor) -> None:
        """Round t comes next; called in every round, before :meth:`pull`."""

    def pull(self, pulled: Tensor) -> None:
        """From the next pull on, actors act by these."""

    def collect(self, t: int, acting: Tensor, environments: Tensor) -> Iterator[Tensor]:
        """Of each hosted worker, the transitions of round t (k, width); its environments are those after it."""


class Inline:
    """This process, for the workers ``rows``, whose actors here begin with number ``first``."""

    def __init__(self, acting: Acting, carried: Carried, rows: range, first: int = 0) -> None:
        self.acting, self.carried, self.rows, self.first = acting, carried, rows, first

    def begin(self, t: int, acting: Tensor, pulled: Tensor, environments: Tensor) -> None:
        """Nobody else need know."""

    def pull(self, pulled: Tensor) -> None:
        """They are where they are needed."""

    def collect(self, t: int, acting: Tensor, environments: Tensor) -> Iterator[Tensor]:
        """See :class:`Collecting`."""
        for worker, row, there in zip(self.rows, acting, environments, strict=True):
            policy = self.carried.put(row)
            actors = enumerate(there, self.first)
            yield torch.cat([self.acting.act(policy, one.numpy(), worker, j, t) for j, one in actors])
