"""What all ranks of a script find together: whether the model and the mixing will do, and whether ranks are alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from decentral.algorithms.traits import Method
from decentral.comm import Communicator
from decentral.errors import AgreedError
from decentral.rounds.script.checks import check_mixing
from decentral.rounds.script.model_checks import check_model, model_text
from decentral.rounds.script.saving import checksum
from decentral.rounds.script.telling import agree, say, tell
from decentral.rounds.trials.contract import refuse_misfit


def check_together(
    optimizer: Optimizer,
    method: Method[Any],
    comm: Communicator,
    model: nn.Module | None,
    given: list[nn.Parameter],
    trained: list[nn.Parameter],
) -> None:
    """Raise AgreedError on all ranks if one cannot train these parameters so, or not as rank 0 does."""
    agree(comm, lambda: check_model(given, trained, model))
    _check_alike(comm, f"{type(optimizer).__name__} of {model_text(optimizer.param_groups, model, method)}")
    agree(comm, lambda: refuse_misfit(method, trained[0].dtype))
    agree(comm, lambda: check_mixing(method, comm.schedule))


def tell_apart(comm: Communicator, x: Tensor) -> None:
    """Say whose model x is not rank 0's, before the first round."""
    first, *_ = codes = tell(comm, f"{checksum(x):x}")
    others = [str(rank) for rank, code in enumerate(codes) if code != first]
    if others:
        say(
            comm.rank,
            f"ranks begin with different models: {', '.join(others)} with another than rank 0, as a checkpoint "
            "makes it that is loaded on one rank; load it on all ranks, or before making Decentralized",
        )


def _check_alike(comm: Communicator, own: str) -> None:
    """Raise AgreedError on all ranks if one has others than rank 0; ``own``: this rank's, in words."""
    mine, *_ = theirs = tell(comm, own)
    others = [rank for rank, text in enumerate(theirs) if text != mine]
    if others:
        raise AgreedError(
            f"ranks differ: rank 0 has {mine}, rank {others[0]} has {theirs[others[0]]}; build the same model, "
            "optimizer and method on every rank"
        )
