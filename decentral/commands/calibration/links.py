"""Latency and bandwidth between ranks, from exchanges of what was just computed and is needed next.

A round of gossip computes a block of columns, swaps it with a neighbour, both ways at once, and adds what came. So the
block that leaves is in its owner's cache, and on one host each core fetches it from there, which costs several times as
much as to copy the same block again and again. Hence an exchange is timed within such a walk over a few blocks,

    y = y - g;  exchange y with the partner's;  y = (y + what came) / 2

and the seconds of the same walk without the exchange are taken off. All pairs of ranks do it at once. Two further walks
are nearer to what else rounds do: where a model has many blocks a few messages are under way at a time
(:mod:`decentral.rounds.posting`), and an exact mean sends copies, into memory that is taken anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import nnls
from torch import Tensor

from decentral.comm.world import World
from decentral.errors import UserError
from decentral.network.cluster import Link
from decentral.rounds.posting import AHEAD


@dataclass(frozen=True)
class Walk:
    """A walk over ``blocks`` messages of each of ``sizes`` bytes, up to ``ahead`` under way; see the module.

    ``blocks`` is more than one, so that it is not all in the nearest cache. ``copies``: what leaves is a copy.
    """

    sizes: tuple[int, ...]
    blocks: int = 4
    ahead: int = 1
    copies: bool = False


MESSAGE_BYTES = (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22)
"""Sizes of messages that are measured: up to twice a block of columns of one worker."""
WALKS = {
    "": Walk(MESSAGE_BYTES),
    "_posted": Walk((1 << 20, 1 << 21), blocks=4 * AHEAD, ahead=AHEAD),
    "_copied": Walk((1 << 14, 1 << 16, 1 << 18, 1 << 20), copies=True),
}
"""By what their keys in a cluster file have after "inside" or "between"."""


def host_size(names: Sequence[str]) -> int:
    """Ranks of a host, where rank i is on the (i // size)-th host, as a cluster file has it.

    Raises UserError where hosts have unequal numbers of ranks (but for the last), or ranks are dealt out by turns.
    """
    order = list(dict.fromkeys(names))
    size = list(names).count(names[0])
    if [order.index(name) for name in names] != [i // size for i in range(len(names))]:
        counts = ", ".join(f"{name}: {list(names).count(name)}" for name in order)
        raise UserError(
            f"a cluster file needs the same number of consecutive ranks on each host, but the hosts have {counts}; "
            "start them host by host, e.g. mpirun --map-by ppr:N:node"
        )
    return size


def partners(ranks: int, size: int) -> dict[str, list[int | None]]:
    """Who exchanges with whom while "inside" and "between" are measured: rank -> partner, or None for who waits.

    Inside: the 1st and 2nd of each host, the 3rd and 4th, and so on. Between: the k-th of the 1st and of the 2nd host,
    of the 3rd and the 4th, and so on. Where there is no pair, the key is left out.
    """
    found: dict[str, list[int | None]] = {}
    inside = [i - i % size + (i % size ^ 1) for i in range(ranks)]
    between = [(i // size ^ 1) * size + i % size for i in range(ranks)]
    for where, of in (("inside", inside), ("between", between)):
        same = [j < ranks and (where == "between" or j // size == i // size) for i, j in enumerate(of)]
        if any(same):
            found[where] = [j if there else None for j, there in zip(of, same, strict=True)]
    return found


def walk(
    world: World, partner: int | None, message_bytes: int, exchanges: bool, kind: Walk
) -> Callable[[], None]:
    """A walk of that kind over messages of one size; without ``exchanges`` nothing is sent. Idle without a partner."""
    width, blocks = message_bytes // 4, kind.blocks
    y, g = torch.ones(1, blocks * width), torch.full((1, blocks * width), 1e-9)
    rooms = [torch.ones(1, width) for _ in range(kind.ahead)]
    under_way: deque[tuple[Tensor, Tensor, Callable[[], object]]] = deque()

    def use_oldest() -> None:
        here, came, wait = under_way.popleft()
        wait()
        here.mul_(0.5).add_(came, alpha=0.5)

    def work() -> None:
        if partner is None:
            return
        for k in range(blocks):
            if len(under_way) == kind.ahead:
                use_oldest()
            here, step = (part[:, k * width : (k + 1) * width] for part in (y, g))
            here.sub_(step)
            leaves, came, wait = here, rooms[k % kind.ahead], _nothing
            if kind.copies:
                leaves = here.clone()
            if exchanges:
                came = torch.empty_like(came) if kind.copies else came
                wait = world.exchange(leaves, came, partner)
            under_way.append((here, came, wait))
        while under_way:
            use_oldest()

    return work


def _nothing() -> object:
    """There is nothing to wait for."""
    return None


def fit(message_bytes: ArrayLike, seconds: ArrayLike) -> Link:
    """The link (alpha, B) whose alpha + M / B is nearest to ``seconds`` in relative error, least squares.

    Neither alpha nor 1 / B can be negative. A rate that cannot be told from infinite is infinite.
    """
    sizes, times = np.asarray(message_bytes, dtype=float), np.asarray(seconds, dtype=float)
    if (times <= 0).any():
        sizes, times = sizes[times > 0], times[times > 0]
    if not len(times):
        return Link(0.0, float("inf"))
    scale = sizes.max()  # for numbers of one size
    (latency_s, whole_s), _ = nnls(np.stack([1 / times, sizes / scale / times], axis=1), np.ones(len(times)))
    return Link(float(latency_s), float(scale / whole_s) if whole_s > 0 else float("inf"))
