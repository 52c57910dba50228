"""What a rank of a script saves of its optimizer, and how it goes on from that."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from decentral.algorithms.state import numbers_of, tensors_of, with_numbers
from decentral.algorithms.traits import Method
from decentral.comm import Communicator
from decentral.errors import UserError
from topologies.wording import shown

_STATE = {"inner", "method", "tensors", "numbers", "rounds", "ledger", "rank", "workers", "model_crc32"}


def checksum(x: Tensor) -> int:
    """That of a model's parameters."""
    return zlib.crc32(x.cpu().numpy().tobytes())


def saved(
    inner: Optimizer,
    method: Method[Any],
    state: Any,
    rounds: int,
    x: Tensor,
    comm: Communicator,
    early_bytes: int,
) -> dict[str, Any]:
    """What this rank needs after so many ``rounds`` to go on, but for its model x.

    ``state``: that of the method. ``early_bytes``: what MPI has carried of a message that is under way, and that will
    be sent anew.
    """
    ledger = comm.ledger.state()
    return {
        "inner": inner.state_dict(),
        "method": repr(method),
        "tensors": tensors_of(state),
        "numbers": numbers_of(state),
        "rounds": rounds,
        "ledger": {
            "gossip_bytes": ledger["gossip_bytes"].tolist(),
            "reduced_bytes": ledger["reduced_bytes"],
            "messages": ledger["messages"],
            "mpi_bytes": comm.ledger.mpi_bytes - early_bytes,
        },
        "rank": comm.rank,
        "workers": comm.n,
        "model_crc32": checksum(x),
    }


def restored(kept: dict[str, Any], state: Any, comm: Communicator) -> Any:
    """The method's state as it was kept, in the tensors of ``state``; the ledger of ``comm`` goes on from its own."""
    for target, source in zip(tensors_of(state), kept["tensors"], strict=True):
        target.copy_(source)
    state = with_numbers(state, kept["numbers"])
    ledger = kept["ledger"]
    gossip = torch.tensor(ledger["gossip_bytes"]).numpy()
    comm.ledger.restore(gossip, ledger["reduced_bytes"], ledger["messages"], ledger["mpi_bytes"])
    return state


def check_load(kept: Any, comm: Communicator, optimizer: Optimizer, method: str, crc32: int) -> None:
    """Raise UserError if this is no state of this rank's optimizer and of the model it now has."""
    if not isinstance(kept, dict) or not kept.keys() >= _STATE:
        raise UserError("this is no state_dict() of a Decentralized optimizer; load what that gave")
    for what, here in (("workers", comm.n), ("rank", comm.rank), ("method", method)):
        if kept[what] != here:
            raise UserError(
                f"the state is of {what} {shown(kept[what])}, but here it is {here}; give each rank its own"
            )
    if kept["model_crc32"] != crc32:
        raise UserError(
            "the model is not the one that this state was saved with; make Decentralized first, then call "
            "model.load_state_dict and optimizer.load_state_dict, with files of the same round and rank"
        )
    groups, defaults = kept["inner"]["param_groups"], set(optimizer.defaults)
    if len(groups) != len(optimizer.param_groups) or any(defaults - group.keys() for group in groups):
        raise UserError(
            f"the state is of another optimizer than this {type(optimizer).__name__} and its groups; make the same"
        )
