"""A run's state on disk, of all n workers in their order, so that any number of ranks may go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decentral.algorithms.state import numbers_of, tensors_of, with_numbers, with_tensors
from decentral.comm import Communicator
from decentral.comm.faults.links import Faults
from decentral.comm.links import Links
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.problems.objective import Objective
from decentral.runs import sealed

KEYS = (
    *("t", "wall_s", "loss_limit", "row", "clocks", "x", "state_tensors", "state_rest", "buffers", "ledger"),
    *("oracle", "threads", "links", "faults"),
    *("run", "records"),  # added by the run's folder
)


def state(
    world: World, comm: Communicator, objective: Objective, x: Tensor, method_state: Any, **more: Any
) -> dict[str, Any]:
    """What a checkpoint holds, whole on rank 0, where the hosted rows of all ranks are. Every rank calls it.

    ``more``: t, wall_s, loss_limit, row and, of a schedule that listens, schedule, which are alike on all ranks;
    clocks, as rank 0 has them.
    """
    ledger = comm.ledger.state()
    gossip = world.collect(torch.from_numpy(ledger.pop("gossip_bytes")))
    return {
        **more,
        "x": world.collect(x),
        "state_tensors": [world.collect(s) for s in tensors_of(method_state)],
        "state_rest": numbers_of(method_state),
        "buffers": {name: world.collect(b) for name, b in objective.buffers.items()},
        "ledger": {
            "gossip_bytes": gossip,
            "reduced_bytes": ledger["reduced_bytes"],
            "messages": sum(world.agree(ledger["messages"])),
            "mpi_bytes": sum(world.agree(ledger["mpi_bytes"])),
        },
        "links": _collect_links(world, comm.links) if comm.links is not None else None,
        "faults": _collect_faults(world, comm.faults) if comm.faults is not None else None,
        "oracle": objective.oracle,
        "chunk": getattr(objective, "chunk", None),
        "device": x.device.type,
        "threads": torch.get_num_threads(),
    }


def read(path: Path) -> dict[str, Any]:
    """A :func:`state` from its file, the tensors mapped from there. Raises UserError if it is anything else."""
    whole = sealed.load(path)
    if [key for key in KEYS if key not in whole]:
        raise UserError(f"{path} is a checkpoint of another version; delete it to start that run anew")
    return whole


def restore(
    whole: Mapping[str, Any], comm: Communicator, objective: Objective, x: Tensor, method_state: Any
) -> Any:
    """Put this rank's rows back into x, the buffers and the ledger; return the method's state, likewise."""
    rows = slice(comm.rows.start, comm.rows.stop)
    x.copy_(whole["x"][rows])
    edges = slice(comm.edges_before, comm.edges_before + len(comm.edges_in))
    for target, source in zip(tensors_of(method_state), whole["state_tensors"], strict=True):
        # a method that keeps edges mixes on an undirected graph: it has other numbers of edges and of workers
        target.copy_(source[rows if len(source) == comm.n else edges])
    for name, source in whole["buffers"].items():
        objective.buffers[name].copy_(source[rows])
    kept = whole["ledger"]
    first = comm.rank == 0  # totals over ranks go on from the first one's count
    comm.ledger.restore(
        kept["gossip_bytes"][rows].numpy(),
        kept["reduced_bytes"],
        kept["messages"] if first else 0,
        kept["mpi_bytes"] if first else 0,
    )
    if comm.links is not None:
        _restore_links(comm.links, whole["links"], x[0].cpu(), rows)
    if comm.faults is not None:
        _restore_faults(comm.faults, whole["faults"], x.device, rows)
    numbers = [r for r in whole["state_rest"] if r is not None]  # None stood for a tensor in older files
    return with_numbers(method_state, numbers)


def _collect_links(world: World, links: Links) -> dict[str, Any]:
    """Of each vector that is sent in a round, the parts of all workers' states; and bytes since the last record."""
    states = []
    for of_workers in links.states:
        parts = zip(*(tensors_of((state,)) for state in of_workers), strict=True)
        states.append([world.collect(torch.stack(part)) for part in parts])
    counts = {kind: torch.tensor(world.agree(n.tolist())).sum(0) for kind, n in links.counts.items()}
    return {"states": states, "counts": counts}


def _restore_links(links: Links, kept: Mapping[str, Any], like: Tensor, rows: slice) -> None:
    """The hosted workers' states, from vectors like ``like`` (d,)."""
    for parts in kept["states"]:
        fresh = [links.compressor.init(like, links.layout) for _ in links.rows]
        hosted = range(rows.start, rows.stop)
        links.states.append(
            [
                with_tensors((state,), [part[i].clone() for part in parts])[0]
                for i, state in zip(hosted, fresh, strict=True)
            ]
        )
    if rows.start == 0:  # totals go on from the first rank's
        for kind, count in kept["counts"].items():
            links.counts[kind] += count.numpy()


def _collect_faults(world: World, faults: Faults) -> dict[str, Any]:
    """What is kept of earlier rounds, of all workers; what faults have added to their sum; and the counts."""
    return {
        "vectors": [[world.collect(part) for part in kept] for kept in faults.vectors],
        "numbers": [[world.collect(part) for part in kept] for kept in faults.numbers],
        "drift": world.collect(faults.drift),
        "counts": faults.counts.tolist(),
    }


def _restore_faults(faults: Faults, kept: Mapping[str, Any], device: torch.device, rows: slice) -> None:
    for target, name in ((faults.vectors, "vectors"), (faults.numbers, "numbers")):
        target[:] = [[part[rows].to(device, copy=True) for part in parts] for parts in kept[name]]
    faults.drift.copy_(kept["drift"][rows])
    faults.counts[:] = kept["counts"]
