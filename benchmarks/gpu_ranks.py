"""``python -m benchmarks.gpu_ranks DEVICE``: some small runs on the ranks of this job; rank 0 prints their records.

``--pretend``: on the tests' pretended GPU. One process, or ranks that share a card, with the same bits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch

from benchmarks.gpu_cases import MLP, RING, STAGES
from benchmarks.gpu_drop_in import stepped
from benchmarks.gpu_runs import Table, gpu, merged, trained
from decentral.algorithms import DSGD, DmSGD, PmSGD
from decentral.comm.world import World, find_world
from decentral.rounds.script.join import join

DOUBLE: Table = {"train": {"dtype": "float64", "rounds": 3}}
LOOPED: Table = {
    "train": {"oracle": "loop"}
}  # a product for each worker, whose bits know nothing of the others


def cases() -> Iterator[tuple[str, Table]]:
    """Of each way that tensors take between ranks: rows, exact means, edges, packets, late messages, stages, nodes."""
    for name in ("decentlam", "pmsgd", "relay-sgd"):
        tree: Table = {"topology": {"name": "tree", "workers": 4}} if name == "relay-sgd" else {}
        yield name, merged(RING, MLP, tree, {"algorithm": {"name": name}}, DOUBLE, LOOPED)
    lossy: Table = {"algorithm": {"name": "choco"}, "compression": {"name": "qsgd"}}
    yield "compressed", merged(RING, MLP, lossy, DOUBLE, LOOPED)
    yield "late", merged(RING, MLP, {"faults": {"loss": 0.2, "late": 0.3}}, DOUBLE, LOOPED)
    yield "stages", merged(STAGES, {"program": {"name": "1f1b"}}, DOUBLE)
    yield "stages that gossip", merged(STAGES, RING, {"program": {"name": "local"}}, DOUBLE)
    exact = {"workers": 2, "max_active_keys": 1, "unit": "instances", "batching": False, "ordered": True}
    nodes: Table = {"problem": {"name": "list-reduction", "train": 12, "validation": 4, "width": 4}}
    yield "nodes", merged(nodes, {"dataflow": exact, "train": {"lr": 0.05, "dtype": "float64", "rounds": 1}})


CLOCKS = ("simulated_s", "staleness_mean", "staleness_max", "batch_loss", "updates")
"""Columns that ranks have otherwise, or have not."""


def main(device: str, pretend: bool) -> None:
    """All of them."""
    world: World = find_world()
    with gpu(pretend):
        found = {words: trained(table, device, world=world).rows for words, table in cases()}
        alone = merged(RING, MLP, {"algorithm": {"name": "ad-psgd"}})
        rounds = [row["round"] for row in trained(alone, device, world=world).rows]
        if world.ranks > 1:
            _drop_in(device)
    if world.rank == 0:
        rows = {k: [{c: row[c] for c in row if c not in CLOCKS} for row in v] for k, v in found.items()}
        print(json.dumps({**rows, "asynchronous": rounds}))


def _drop_in(device: str) -> None:
    """On the ranks of this job, as on the CPU."""
    for method in (DSGD(), DmSGD(0.5), PmSGD(0.0)):
        comm = join("complete")
        here, there = (torch.tensor(stepped(method, where, comm)) for where in ("cpu", device))
        assert torch.allclose(here, there, 1e-9, 1e-12), f"the drop-in of {method} has other models"


if __name__ == "__main__":
    main(sys.argv[1], "--pretend" in sys.argv)
