"""How ranks of torch.distributed meet."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch.distributed

from decentral.comm.distributed.ranks import TorchRanks
from decentral.comm.launch import launched_rank, launched_ranks
from decentral.comm.rendezvous import meeting_point
from decentral.comm.starting import starting
from decentral.errors import UserError

dist: Any = torch.distributed  # not all of which torch's types tell

_PATIENCE = timedelta(seconds=300)  # for the last rank to come
_ALONE = "127.0.0.1"


@cache
def joined() -> TorchRanks:
    """All ranks of this job, or this process alone where no launcher is. Raises UserError where they do not meet."""
    rank, size = launched_rank(), launched_ranks()
    if size == 1:
        return TorchRanks(dist.HashStore(), 0, 1, _ALONE)
    point = meeting_point()
    try:
        with starting("its ranks met"):
            host, store = _store(point, rank, size)
            store = dist.PrefixStore("decentral", store)
            _call_the_roll(store, rank, size, point)
            return TorchRanks(store, rank, size, host)
    except (RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"rank {rank} of {size} cannot meet the others at {point} ({said[:120]}); "
            "set MASTER_ADDR to rank 0's host and MASTER_PORT to a port that is free there"
        ) from None


def last_rest(ranks: TorchRanks) -> None:
    """Until all ranks have come to their end. Rank 0, which may be where they met, leaves last."""
    store: Any = dist.PrefixStore("end", ranks.store)
    try:
        store.add("come", 1)
        while store.add("come", 0) < ranks.size:
            time.sleep(0.005)
        store.add("left", 1)
        until = time.monotonic() + 3
        while ranks.rank == 0 and store.add("left", 0) < ranks.size and time.monotonic() < until:
            time.sleep(0.005)
    except RuntimeError:
        return  # it has left


def _store(point: str, rank: int, size: int) -> tuple[str, Any]:
    """Where small values are kept, and rank 0's host."""
    if point.startswith("tcp://"):
        address = f"{point}?rank={rank}&world_size={size}"
        return urlparse(point).hostname or _ALONE, next(dist.rendezvous(address, timeout=_PATIENCE))[0]
    path = urlparse(point).path
    first = dist.FileStore(path, size)  # a file alone would be slow: it says where to go
    first.set_timeout(_PATIENCE)
    if rank == 0:
        store = dist.TCPStore(_ALONE, 0, size, True, _PATIENCE, wait_for_workers=False)
        first.set("port", str(store.port))
    else:
        store = dist.TCPStore(_ALONE, int(first.get("port")), size, False, _PATIENCE)
    first.add("there", 1)
    while rank == 0 and first.add("there", 0) < size:
        time.sleep(0.005)
    if rank == 0:
        Path(path).unlink(missing_ok=True)
    return _ALONE, store


def _call_the_roll(store: Any, rank: int, size: int, point: str) -> None:
    """Raise UserError for who has not come; gloo would wait on, for days."""
    store.set(f"here/{rank}", b"")
    everyone = [f"here/{other}" for other in range(size)]
    try:
        store.wait(everyone, _PATIENCE)
    except RuntimeError:
        missing = next((other for other, key in enumerate(everyone) if not store.check([key])), 0)
        raise UserError(
            f"rank {missing} of {size} has not come to {point} in {_PATIENCE.seconds} s; start all ranks alike"
        ) from None
