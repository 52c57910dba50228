"""Each rank hosts a contiguous block of workers: the same interface, real messages, by MPI or torch.distributed.

Rows travel once to each rank that needs them, as they lie in memory. They are sent before others are asked for: the
answer to a rank whose message is here already and waits for it would stand behind the own message, and two ranks
would take turns (:func:`decentral.comm.launch.send_without_asking`). The exact mean is a reduce-scatter and an
all-gather of columns, because that keeps the workers' order of summing: each rank receives its columns of all n rows
and adds them ascending, so the bits are those of one process.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.communicator import Communicator
from decentral.comm.departures import TAGS, departures_of
from decentral.comm.launch import cuda_aware
from decentral.comm.layout import Layout
from decentral.comm.links import Links, Sent
from decentral.comm.local import LocalComm
from decentral.comm.meeting import fingerprint
from decentral.comm.plan import MixingPlan
from decentral.comm.routes import Routes
from decentral.comm.row_sum import sum_rows
from decentral.comm.schedule import Mixing
from decentral.errors import AgreedError

HALO, _EDGES, MADE, POSTED, _PACKETS = 1, 2, 3, 4, 5  # tags


class RanksComm(Communicator):
    """h = n / ranks workers on this rank; ``mpi`` is mpi4py's communicator, or what stands for it.

    ``own``: a user's own, over all ranks of the job. Every rank must be given the same mixing: AgreedError where own
    ones differ. CUDA tensors are staged through pinned host memory, unless :meth:`_takes_cuda`.
    """

    def __init__(
        self, mixing: Mixing, mpi: Any, own: bool, links: Links | None, layout: Layout | None, check: bool
    ) -> None:
        self.mpi = mpi
        super().__init__(mixing, mpi.rank, mpi.size, links=links, layout=layout, check=check)
        if own and self.ranks > 1:
            self.departures = departures_of(mpi)
            if len(set(mpi.allgather(fingerprint(self.schedule)))) > 1:
                raise AgreedError("ranks have different mixing; give every rank the same matrix or schedule")
        self._routes: dict[int, Routes] = {}
        self._halos: defaultdict[Any, list[_Halo]] = defaultdict(list)  # not in use, by size

    def _unchecked(self) -> LocalComm:
        return LocalComm(self.schedule, check=False)

    def share_root(self, x: Tensor) -> None:
        """A broadcast, as bytes."""
        wire = x if x.device.type == "cpu" else x.cpu()
        self._meet("a copy of rank 0's")
        self.mpi.Bcast(wire.view(-1).view(torch.uint8).numpy(), root=0)
        if wire is not x:
            x.copy_(wire)

    def _wait(self, requests: list[Any], kind: str) -> None:
        self.doing("wait")
        if self.departures is None:
            if requests:
                type(requests[0]).Waitall(requests)
        else:
            self.departures.wait(requests, kind)
        self.doing("update")

    def _meet(self, kind: str) -> None:
        """See :class:`Communicator`: a collective call could not be given up."""
        if self.departures is not None:
            self.departures.meet(kind)

    def _tag(self, kind: int) -> int:
        return kind if self.departures is None else kind + TAGS * self.departures.number

    def observe(self, values: NDArray[Any]) -> NDArray[Any]:
        """All-gather of the hosted workers' rows."""
        self._meet("an agreement")
        mine = np.ascontiguousarray(values)
        everyone = np.empty((self.n, *mine.shape[1:]), mine.dtype)
        self.mpi.Allgather(mine, everyone)
        return everyone

    def _start_mix(self, plan: MixingPlan, x: Tensor) -> Any:
        self.doing("send")
        routes, width, dtype = self._routes_of(plan), x.shape[1], x.dtype
        free = self._halos[len(plan.halo), width, dtype]
        halo = free.pop() if free else _Halo(self._wire_like(x, len(plan.halo)))
        whole = as_array(self._to_wire(x)) if routes.sends_all else None
        requests = self._swap(
            ((halo.wire[a:b], rank) for rank, a, b in routes.halo_from),
            ((as_array(self._to_wire(x[rows])) if rows else whole, rank) for rank, rows in routes.rows_to),
            HALO,
            x,
        )
        self.ledger.mpi_bytes += routes.rows_sent * width * dtype.itemsize
        self.doing("update")
        return requests, halo, free

    def _finish_mix(self, plan: MixingPlan, x: Tensor, request: Any, out: Tensor | None) -> Tensor:
        requests, halo, free = request
        self._wait(requests, "a mixing")
        rows = halo.rows if halo.rows.device == x.device else halo.rows.to(x.device)
        mixed = plan.combine(x, rows, out)
        free.append(halo)
        return mixed

    def _carry(self, plan: MixingPlan, y: Tensor) -> Tensor:
        self.doing("send")
        routes = self._routes_of(plan)
        received = self._wire_like(y, len(plan.in_edges))
        outgoing = [(self._to_wire(y[edges]), rank) for rank, edges in routes.edges_to]
        requests = self._swap(
            ((as_array(received[a:b]), rank) for rank, a, b in routes.edges_from),
            ((as_array(part), rank) for part, rank in outgoing),
            _EDGES,
            y,
        )
        self.ledger.mpi_bytes += sum(part.nbytes for part, rank in outgoing if rank != self.rank)
        self._wait(requests, "an exchange")
        return _from_wire(received, y)[routes.edge_order]

    def _mix_packets(self, plan: MixingPlan, sent: Sent) -> Tensor:
        routes = self._routes_of(plan)
        sources = [rank for rank, _, _ in routes.halo_from]
        arrived = self._swap_packets(sent, dict(routes.rows_to), sources)
        packets = [packet for rank in sources for packet in arrived[rank]]
        halo = [sent.decode(i, packet) for i, packet in zip(plan.halo.tolist(), packets, strict=True)]
        return plan.combine(sent.rows, torch.stack(halo) if halo else sent.rows[:0])

    def _gather_packets(self, sent: Sent) -> Tensor:
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        arrived = self._swap_packets(sent, dict.fromkeys(others), others)
        rows = list(sent.rows)
        theirs = {r: [sent.decode(r * self.h + k, p) for k, p in enumerate(arrived[r])] for r in others}
        return torch.stack([row for r in range(self.ranks) for row in theirs.get(r, rows)])

    def _swap_packets(
        self, sent: Sent, rows_to: Mapping[int, slice | list[int] | None], sources: list[int]
    ) -> dict[int, list[Tensor]]:
        """Send the packets of these hosted rows (None: all) to each rank; those that come from each source.

        One message a rank: how many packets, how long each is, and the packets.
        """
        self.doing("send")
        requests, tag = [], self._tag(_PACKETS)
        for rank, rows in rows_to.items():
            picked = np.arange(self.h)[slice(None) if rows is None else rows].tolist()
            packets = [sent.packets[k].numpy() for k in picked]
            head = np.array([len(packets), *map(len, packets)], dtype=np.int64)
            message = np.concatenate([head.view(np.uint8), *packets])
            requests += self._send_message(message, rank, tag)
            self.ledger.mpi_bytes += len(message)
        self.doing("wait")
        arrived = {}
        for rank in sources:
            message = self._receive_message(rank, tag)
            count = int(message[:8].view(np.int64)[0])
            edges = 8 * (1 + count) + np.cumsum([0, *message[8 : 8 * (1 + count)].view(np.int64)])
            arrived[rank] = [torch.from_numpy(message[a:b].copy()) for a, b in pairwise(edges.tolist())]
        self._wait(requests, "packets")
        return arrived

    def _mean(self, x: Tensor) -> Tensor:
        self._meet("an exact mean")
        self.doing("send")
        columns, ranks = x.shape[1], self.ranks
        edge = [columns * r // ranks for r in range(ranks + 1)]
        width = np.diff(edge)
        mine = int(width[self.rank])
        packed = torch.cat([x[:, a:b].reshape(-1) for a, b in pairwise(edge)])
        outgoing, incoming = self._to_wire(packed), self._wire_like(x.new_empty(0, mine), self.n)
        self.doing("wait")
        self.mpi.Alltoallv(
            [as_array(outgoing), self.h * width], [as_array(incoming), [self.h * mine] * ranks]
        )
        self.doing("update")
        share = self._to_wire(sum_rows(_from_wire(incoming, x)).div_(self.n))
        total = self._wire_like(x, 1)
        self.doing("wait")
        self.mpi.Allgatherv(as_array(share), [as_array(total), width])
        self.doing("update")
        size = x.element_size()
        self.ledger.mpi_bytes += size * (self.h * (columns - mine) + mine * (ranks - 1))
        return _from_wire(total, x)

    def _routes_of(self, plan: MixingPlan) -> Routes:
        key = id(plan)
        if key not in self._routes:
            if len(self._routes) > 64:  # a schedule without a period makes a new plan every round
                self._routes.clear()
                self._halos.clear()  # which may be of many sizes
            self._routes[key] = Routes.of(plan, self.h, self.rank)
        return self._routes[key]

    def _swap(
        self, receives: Iterable[tuple[Any, int]], sends: Iterable[tuple[Any, int]], tag: int, like: Tensor
    ) -> list[Any]:
        """Post these sends and receives of (memory, rank), of numbers like those of ``like``, and do not wait."""
        del like
        mpi, tag = self.mpi, self._tag(tag)
        requests = [mpi.Isend(memory, dest=rank, tag=tag) for memory, rank in sends]
        requests += [mpi.Irecv(memory, source=rank, tag=tag) for memory, rank in receives]
        return requests

    @abstractmethod
    def _send_message(self, message: NDArray[np.uint8], rank: int, tag: int) -> list[Any]:
        """Begin to send bytes; the receiver does not know how many."""

    @abstractmethod
    def _receive_message(self, rank: int, tag: int) -> NDArray[np.uint8]:
        """What :meth:`_send_message` sends; waits for it."""

    def _takes_cuda(self) -> bool:
        """Whether memory of a GPU can be sent as it lies; the same on all ranks."""
        return cuda_aware()

    def _to_wire(self, x: Tensor) -> Tensor:
        """x as contiguous memory that may be sent."""
        x = x.contiguous()
        if x.is_cuda:
            if not self._takes_cuda():
                return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
            torch.cuda.synchronize(x.device)
        return x

    def _wire_like(self, x: Tensor, rows: int) -> Tensor:
        """Room to receive ``rows`` rows as wide as those of x."""
        staged = x.is_cuda and not self._takes_cuda()
        device = "cpu" if staged else x.device
        return torch.empty((rows, x.shape[1]), dtype=x.dtype, device=device, pin_memory=staged)


class _Halo:
    """Room for rows of other ranks, and the same memory as the transport takes it (``wire``)."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.wire = as_array(rows)


def _from_wire(wire: Tensor, x: Tensor) -> Tensor:
    return wire.to(x.device, non_blocking=False)


def giving_way(mpi: Any) -> Callable[[], object]:
    """What a rank calls again and again that has looked in vain for messages.

    With MPI it offers its core: time.sleep(0) would sleep as long as the kernel's timers are coarse.
    """
    return getattr(mpi, "idle", os.sched_yield)


def as_array(wire: Tensor) -> Any:
    """The memory of a tensor, for mpi4py, which sees the type of its numbers."""
    return wire if wire.is_cuda else wire.numpy()
