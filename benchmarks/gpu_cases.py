"""Small runs of every kind, that a GPU must train as a CPU does: for the tests' pretended GPU, and for a real one."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_runs import Table, merged
from decentral.algorithms import ALGORITHMS
from decentral.algorithms.asynchronous import ASYNCHRONOUS
from decentral.comm.compression import LINKS
from decentral.optimizers import OPTIMIZERS
from decentral.problems.assistants import ASSISTANTS
from decentral.problems.data.babi import story_lines
from decentral.stages.programs import PROGRAMS

MLP: Table = {"problem": {"name": "mlp", "hidden": [6]}, "train": {"lr": 0.05, "batch_size": 4}}
QUADRATIC: Table = {"problem": {"name": "quadratic", "dimension": 6, "noise": 0.1}, "train": {"lr": 0.02}}
RING: Table = {"topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dsgd"}}
TREE: Table = {"topology": {"name": "tree", "workers": 4}}
STAGES: Table = {
    "problem": {"name": "mlp", "hidden": [6, 6, 6]},
    "stages": {"count": 2},
    "train": {"lr": 0.05, "batch_size": 4, "rounds": 3},
}


def cases() -> Iterator[tuple[str, Table]]:
    """(words, table) of each run."""
    for part in (_methods, _rules, _links, _faults, _problems, _stages, _others):
        yield from part()


_GRAPHS: dict[str, Table] = {
    "relay-sgd": TREE,
    "push-sum": {"topology": {"name": "exponential", "workers": 4}},
}
_GRAPHS["d2"] = {"topology": {"weights": "lazy"}}
_GRAPHS["push-diging"] = _GRAPHS["push-sum"]


def _methods() -> Iterator[tuple[str, Table]]:
    for name in ALGORITHMS:
        table: Table = {"algorithm": {"name": name}, "train": {"lr": 0.02, "rounds": 3}}
        yield f"method {name}", merged(RING, MLP, _GRAPHS.get(name, {}), table)


def _rules() -> Iterator[tuple[str, Table]]:
    for name in OPTIMIZERS:
        table: Table = {
            "optimizer": {"name": name},
            "train": {"lr": 0.01, "weight_decay": 0.01, "clip_norm": 1.0},
        }
        if name == "nlcg":
            table["train"]["batch_size"] = "full"
        yield f"rule {name}", merged(RING, MLP, table)
    yield "a torch optimizer by path", merged(RING, MLP, {"optimizer": {"name": "torch.optim:RMSprop"}})
    yield "trust ratios", merged(RING, MLP, {"optimizer": {"name": "lamb"}, "trust_ratios": {}})
    yield (
        "autowu",
        merged(RING, MLP, {"schedule": {"name": "autowu"}, "train": {"batch_size": 64, "rounds": 24}}),
    )


def _links() -> Iterator[tuple[str, Table]]:
    for name in LINKS:
        table: Table = {"algorithm": {"name": "pmsgd", "momentum": 0.0}, "compression": {"name": name}}
        yield f"compression {name} of gradients", merged(RING, MLP, table)
    yield (
        "compression of differences",
        merged(RING, MLP, {"algorithm": {"name": "choco"}, "compression": {"name": "top-k"}}),
    )


def _faults() -> Iterator[tuple[str, Table]]:
    absent = {"absent_workers": [1], "leave_round": 1, "return_round": 2}
    train: Table = {"train": {"rounds": 4, "record_every": 1}}
    yield (
        "lost and late messages, and absence",
        merged(RING, MLP, train, {"faults": {"loss": 0.2, "late": 0.3, **absent}}),
    )
    pushes: Table = {"algorithm": {"name": "push-sum"}, "faults": {"loss": 0.2}}
    yield "lost messages of push-sum", merged(RING, MLP, _GRAPHS["push-sum"], train, pushes)


_CONVOLVED = ("cnn", "quantised-cnn", "resnet", "vgg", "transformer")


def _problems() -> Iterator[tuple[str, Table]]:
    few: Table = {"train": {"lr": 0.02, "batch_size": 4, "dtype": "float64"}}
    problems: dict[str, Table] = {
        "quadratic": {"noise": 0.1},
        "linear-regression": {},
        "logistic-regression": {"partition": "dirichlet"},
        "linear-svm": {"data": "digits"},
        "cnn": {"width": 2},
        "quantised-cnn": {"width": 2},
        "resnet": {"data": "digits", "depth": 8},
        "vgg": {"data": "digits", "width": 2, "hidden": 4},
        "transformer": {"width": 8, "depth": 1, "heads": 2, "context": 8},
        "lstm": {"width": 8, "depth": 1, "context": 8},
        "lstmp": {"cells": 8, "projection": 4, "depth": 1, "context": 8, "dropout": 0.5},
        "f-lstm": {"cells": 8, "projection": 4, "rank": 2, "depth": 1, "context": 8},
        "g-lstm": {"cells": 8, "projection": 4, "depth": 1, "context": 8},
        "recommender": {"hidden": [8, 4], "refeed": True, "dropout": 0.5},
        "keyword": {"hidden": [6], "objective": "end-metric"},
        "rl": {"width": 8, "depth": 1, "warmup": 8},
    }
    for (
        name,
        keys,
    ) in problems.items():  # convolutions and tokens are batched on a GPU, and a CPU would loop them
        batched: Table = {"train": {"oracle": "batched"}} if name in _CONVOLVED else {}
        yield f"problem {name}", merged(RING, few, batched, {"problem": {"name": name, **keys}})
    yield (
        "full batches of unequal size",
        merged(RING, MLP, {"problem": {"partition": "dirichlet"}, "train": {"batch_size": "full"}}),
    )
    yield (
        "dropout",
        merged(RING, few, {"problem": {"name": "module", "factory": "benchmarks.gpu_cases:dropping"}}),
    )
    yield (
        "weights before norms",
        merged(
            RING,
            few,
            {
                "problem": {"name": "cnn", "width": 2},
                "train": {"oracle": "batched"},
                "optimizer": {"name": "sgd", "rescale": "filter"},
            },
        ),
    )


def dropping(inputs: Any, classes: int) -> torch.nn.Module:
    """A user's model that draws."""
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(classes) if inputs is None else
        torch.nn.Linear(int(torch.Size(inputs).numel()), classes),
    )  # fmt: skip


def _stages() -> Iterator[tuple[str, Table]]:
    for name in PROGRAMS:
        table: Table = {"program": {"name": name}}
        if name == "groups":
            problem = {"name": "g-lstm", "cells": 8, "projection": 4, "depth": 1, "context": 8}
            table |= {"problem": problem}
        yield f"stages {name}", merged(STAGES, table)
    yield "stages that gossip", merged(STAGES, RING, {"program": {"name": "local"}})


@functools.cache
def _few_instances() -> str:
    """A data root with files of few trees and stories: the generated sets are an epoch of thousands."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    trees, stories = Path(folder.name, "sst", "trees"), Path(folder.name, "babi", "en")
    for home in (trees, stories):
        home.mkdir(parents=True)
    for part in ("train", "dev", "test"):
        (trees / f"{part}.txt").write_text(_TREES)
        if part != "dev":
            text = "\n".join(story_lines(part, 2))
            (stories / f"qa15_basic-deduction_{part}.txt").write_text(text + "\n")
    return folder.name


_TREES = "(3 (2 good) (1 (2 not) (3 bad)))\n(1 bad)\n(4 (3 (2 so) (3 good)) (2 film))\n" * 2


def _others() -> Iterator[tuple[str, Table]]:
    nodes: dict[str, Table] = {
        "mlp": {"hidden": [6]},
        "list-reduction": {"train": 12, "validation": 4, "width": 4},
        "sentiment-trees": {"width": 4, "trees": "sst", "data_root": _few_instances()},
        "basic-deduction": {"width": 4, "stories": "babi15", "data_root": _few_instances()},
    }
    for name, keys in nodes.items():
        flow: Table = {"dataflow": {"workers": 2, "max_active_keys": 2}, "train": {"lr": 0.05, "rounds": 1}}
        if name == "mlp":
            flow["train"]["batch_size"] = 300
        yield f"nodes {name}", merged(flow, {"problem": {"name": name, **keys}})
    plain: Table = {"dataflow": {"runtime": "synchronous"}, "train": {"lr": 0.05, "rounds": 1}}
    problem = {"name": "list-reduction", **nodes["list-reduction"]}
    yield "nodes without messages", merged(plain, {"problem": problem})
    for name in ASYNCHRONOUS:
        yield f"asynchronous {name}", merged(RING, MLP, {"algorithm": {"name": name}})
    for name in ASSISTANTS:
        if name != "margin":  # its data set of two classes is no part of this package
            yield f"assistant {name}", merged(MLP, {"assistant": {"name": name}})
    for words, table in {
        "phases": {"phases": {"replicas": {"rounds": 2, "batch_size": 4, "lr": 0.02}}},
        "gradient noise": {"noise_scale": {"every": 1}},
        "adversarial": {"adversarial": {"eps": 0.1}},
    }.items():
        yield words, merged(RING, MLP, table)
