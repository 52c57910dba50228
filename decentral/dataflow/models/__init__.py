"""Models over instances of differing structure: each as a network of nodes, and as plain torch to compare with."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from decentral.problems import PROBLEMS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from decentral.dataflow.graph import Network
    from decentral.dataflow.replicas import Make
    from decentral.problems.capabilities import BatchSize, Problem

NODE_MODELS: dict[str, str] = {
    "mlp": "decentral.dataflow.models.mlp:of",
    "list-reduction": "decentral.dataflow.models.lists:of",
    "sentiment-trees": "decentral.dataflow.models.trees:of",
    "basic-deduction": "decentral.dataflow.models.graphs:of",
}
"""Name of a problem -> what makes its model of nodes: ``of(problem, batch_size, seed, dtype, device)``."""


class NodeModel(Protocol):
    """A model, initialised from a seed, with its instances: ``train`` and ``validation`` are ranges of their keys.

    ``modules``: by the names of the nodes that have them.
    """

    train: range
    validation: range
    modules: nn.ModuleDict

    def network(self, make: Make, replicas: int = 1) -> Network:
        """The model as nodes, with ``replicas`` of the heaviest; ``make`` gives a node its module."""

    def evaluate(self, keys: Sequence[int]) -> tuple[Tensor, int, int]:
        """(mean of the instances' losses, right rows, rows) in plain torch, of at least one key."""


def model_of(
    problem: Problem, batch_size: BatchSize, seed: int, dtype: torch.dtype, device: torch.device
) -> NodeModel:
    """The model of a problem in NODE_MODELS; ``batch_size``: samples of an instance, where an instance has several."""
    name = next(name for name, kind in PROBLEMS.items() if kind is type(problem))
    made: NodeModel = pkgutil.resolve_name(NODE_MODELS[name])(problem, batch_size, seed, dtype, device)
    return made
