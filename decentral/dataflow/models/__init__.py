"""Models over instances of differing structure: each as a network of nodes, and as plain torch to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from decentral.runs.sections.dataflow import DataflowConfig


def model_of(config: DataflowConfig, device: torch.device) -> Any:
    """The model of the configured problem, initialised from the seed, with its instances on the device.

    It has ``train`` and ``validation``, ranges of keys, ``modules`` by name, ``network(make, replicas)`` and
    ``evaluate(keys)``.
    """
    from decentral.problems import MLP, BasicDeduction, ListReduction, SentimentTrees

    problem, seed = config.problem, config.seed
    dtype = torch.float64 if config.train.dtype == "float64" else torch.float32
    if isinstance(problem, ListReduction):
        from decentral.dataflow.models.lists import ListRNN
        from decentral.problems.data.list_reduction import list_reduction

        return ListRNN(
            list_reduction(problem.train, problem.validation, problem.longest),
            problem.width,
            seed,
            dtype,
            device,
        )
    if isinstance(problem, SentimentTrees):
        from decentral.dataflow.models.trees import TreeLSTM
        from decentral.problems.data import load_trees

        trees = load_trees(problem.trees, problem.data_root or None)
        return TreeLSTM(
            trees.binary() if problem.binary else trees,
            problem.width,
            seed,
            dtype,
            device,
            problem.every_node,
        )
    if isinstance(problem, BasicDeduction):
        from decentral.dataflow.models.graphs import GatedGraph
        from decentral.problems.data import load_deductions

        stories = load_deductions(problem.stories, problem.data_root or None)
        return GatedGraph(stories, problem.width, seed, dtype, device, steps=problem.steps)
    assert isinstance(problem, MLP)
    from decentral.dataflow.models import mlp
    from decentral.problems.data import load

    data = load(problem.data, problem.data_root or None)
    size = config.train.batch_size
    return mlp.MLP(data, problem.hidden, len(data.train_y) if size == "full" else size, seed, dtype, device)
