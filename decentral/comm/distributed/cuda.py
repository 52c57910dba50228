"""Memory of GPUs from rank to rank, by NCCL."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from decentral.comm.distributed.requests import Request

dist: Any = torch.distributed  # not all of which torch's types tell


class CudaGroup:
    """All ranks of ``store``, which together call everything here, each with a GPU of its own."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        self.size, self._group = size, dist.ProcessGroupNCCL(store, rank, size, options)

    @classmethod
    def of(
        cls, store: Any, rank: int, size: int, timeout: timedelta, agree: Callable[[Any], Sequence[Any]]
    ) -> CudaGroup | None:
        """None where NCCL is missing, or ranks share a GPU, which it refuses: then rows go by the host's memory."""
        device = torch.cuda.current_device()
        card = platform.node(), str(torch.cuda.get_device_properties(device).uuid)
        everyone = agree((dist.is_nccl_available(), card))
        cards = {card for _, card in everyone}
        fit = len(cards) == size and all(available for available, _ in everyone)
        return cls(store, rank, size, timeout) if fit else None

    def exchange(
        self, receives: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]], like: Tensor
    ) -> Request:
        """One receive from, and one send to, each of some ranks: one batch, whose order does not matter.

        An all-to-all of lists is NCCL's batch of sends and receives, which leaves out what is empty.
        """
        nothing = like.new_empty(0)
        into, out = [nothing] * self.size, [nothing] * self.size
        for memory, rank in receives:
            into[rank] = memory
        for memory, rank in sends:
            out[rank] = memory
        return Request(self._group.alltoall(into, out, dist.AllToAllOptions()), (into, out))
