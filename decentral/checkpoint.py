"""A run's state on disk, of all n workers in their order, so that any number of ranks may go on with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decentral.comm import Communicator
from decentral.errors import UserError
from decentral.problems.objective import Objective
from decentral.recorder import write_whole
from decentral.rounds import tensors_of


def save(path: Path, world: Any, comm: Communicator, objective: Objective, **state: Any) -> None:
    """Collect the hosted rows of all ranks and write them on rank 0. Called by every rank.

    ``state``: t, x, method_state, wall_s, loss_limit.
    """
    method_state = state.pop("method_state")
    ledger = comm.ledger.state()
    gossip = world.collect(torch.from_numpy(ledger.pop("gossip_bytes")))
    whole = {
        **state,
        "x": world.collect(state["x"]),
        "state_tensors": [world.collect(s) for s in tensors_of(method_state)],
        "state_rest": [None if isinstance(s, Tensor) else s for s in method_state],
        "buffers": {name: world.collect(b) for name, b in objective.buffers.items()},
        "ledger": {
            "gossip_bytes": gossip,
            "reduced_bytes": ledger["reduced_bytes"],
            "messages": sum(world.agree(ledger["messages"])),
            "mpi_bytes": sum(world.agree(ledger["mpi_bytes"])),
        },
        "oracle": objective.oracle,
    }
    if world.rank == 0:
        memory = io.BytesIO()
        torch.save(whole, memory)
        write_whole(path, memory.getvalue())


def load(path: Path, comm: Communicator, objective: Objective, x: Tensor, method_state: Any) -> dict[str, Any]:
    """Put this rank's rows back into x, the method's state, the buffers and the ledger; return what else was kept."""
    try:
        whole = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise UserError(f"{path} is no checkpoint of this version ({error}); delete it to start that run anew") from error
    if whole["oracle"] != objective.oracle:
        raise UserError(
            f"{path} was made with the {whole['oracle']} gradient oracle, but here {objective.oracle} was chosen: "
            f"the results would differ in their last bits; resume with --set train.oracle={whole['oracle']}"
        )
    rows = slice(comm.rows.start, comm.rows.stop)
    x.copy_(whole["x"][rows])
    for target, source in zip(tensors_of(method_state), whole["state_tensors"], strict=True):
        target.copy_(source[rows])
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
    fields = iter(tensors_of(method_state))
    rest = [next(fields) if isinstance(s, Tensor) else r for s, r in zip(method_state, whole["state_rest"], strict=True)]
    again = type(method_state)(*rest) if hasattr(method_state, "_fields") else tuple(rest)
    return {**{k: whole[k] for k in ("t", "wall_s", "loss_limit")}, "method_state": again}
