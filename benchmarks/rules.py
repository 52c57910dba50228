"""Update rules of layers: as a torch optimizer against AdamW, and in a run of 64 workers against SGD with momentum.

Question: what do norms of layers cost? The optimizers step the 59 parameters of a ResNet-20 (270 thousand numbers), one
thread each; the runs are whole rounds, of an MLP 784-256-10 with 32 examples a worker. rsg and arsg, which look at no
layers, are here as optimizers. muon and nlcg are not: they multiply matrices and measure a whole model, and a limit for
one pass over memory says nothing of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import Line, at_most, interleaved, print_lines
from decentral.allocator import keep_freed_memory
from decentral.comm.launch import one_thread
from decentral.comm.world import LocalWorld
from decentral.optimizers import OPTIMIZERS
from decentral.problems.models.convolutional import resnet20
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal
from decentral.runs.place import Here
from decentral.runs.rounds.training import Training

RULES = ("lars", "larc", "lamb", "lambc", "novograd")
OPTIMIZERS_ONLY = ("rsg", "arsg")


def measure() -> list[Line]:
    keep_freed_memory()
    lines = _optimizers()
    if os.environ.get("DECENTRAL_DATA"):
        lines += [line for method in ("dsgd", "pmsgd") for line in _runs(method)]
    return lines


def _optimizers() -> list[Line]:
    works = {"adamw": _stepping(torch.optim.AdamW, lr=1e-4, weight_decay=1e-2, foreach=True)}
    names = (*RULES, *OPTIMIZERS_ONLY)
    works |= {name: _stepping(OPTIMIZERS[name]().build, lr=1e-4, weight_decay=1e-2) for name in names}
    with one_thread():
        times = interleaved(works, repeats=101, warm=5)
    what = "a step on a ResNet-20, {}: ours / torch.optim.AdamW(foreach=True)"
    return [at_most(what.format(name), times[name], times["adamw"], 1.5) for name in names]


def _stepping(build: Callable[..., torch.optim.Optimizer], **settings: Any) -> Callable[[], Any]:
    parameters = list(resnet20((3, 32, 32), 10).parameters())
    for p in parameters:
        p.grad = torch.randn_like(p) * 0.01
    return build(parameters, **settings).step


def _runs(method: str) -> list[Line]:
    works = {name: _rounds(method, name) for name in ("sgd", *RULES, "adamw")}
    times = interleaved(works, repeats=25)
    what = f"64 workers, a round of {method} behind {{}}: ours / behind sgd with momentum 0.9"
    return [at_most(what.format(name), times[name], times["sgd"], 1.25) for name in (*RULES, "adamw")]


def _rounds(method: str, rule: str) -> Callable[[], Any]:
    """The next round of such a run, as often as it is called."""
    table = {
        "name": "rules",
        "problem": {"name": "mlp", "data": "mnist", "hidden": [256]},
        "topology": {"name": "ring", "workers": 64},
        "algorithm": {"name": method} | ({"momentum": 0.0} if method == "pmsgd" else {}),
        "optimizer": {"name": rule} | ({"momentum": 0.9} if rule == "sgd" else {}),
        "train": {"lr": 1e-4, "rounds": 1000, "batch_size": 32, "weight_decay": 1e-4},
    }
    config: Any = expand(table).runs[0].config
    return Training(config, Here(LocalWorld(), torch.device("cpu")), Journal())._round


if __name__ == "__main__":
    print_lines("rules", measure())
