"""Each MPI rank hosts a contiguous block of workers: the same interface, real messages.

Rows travel once to each rank that needs them, as they lie in memory. They are sent before others are asked for: the
answer to a rank whose message is here already and waits for it would stand behind the own message, and two ranks
would take turns (:func:`decentral.comm.launch.send_without_asking`). The exact mean is a reduce-scatter and an
all-gather of columns, because that keeps the workers' order of summing: each rank receives its columns of all n rows
and adds them ascending, so the bits are those of one process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.communicator import Communicator
from decentral.comm.departures import TAGS, departures_of
from decentral.comm.launch import check_launch, cuda_aware, send_without_asking, yield_when_oversubscribed
from decentral.comm.layout import Layout
from decentral.comm.links import Links, Sent
from decentral.comm.local import LocalComm
from decentral.comm.meeting import fingerprint
from decentral.comm.plan import MixingPlan
from decentral.comm.routes import Routes
from decentral.comm.row_sum import sum_rows
from decentral.comm.schedule import Mixing
from decentral.comm.starting import starting
from decentral.errors import AgreedError

yield_when_oversubscribed()
send_without_asking()
import mpi4py  # noqa: E402

mpi4py.rc.thread_level = "funneled"  # only the main thread of a rank speaks MPI
with starting():
    from mpi4py import MPI

__all__ = ["HALO", "MADE", "MPI", "POSTED", "MPIComm", "as_array", "as_buffer"]

HALO, _EDGES, MADE, POSTED, _PACKETS = 1, 2, 3, 4, 5  # tags
_MPI_TYPES = {torch.float32: MPI.FLOAT, torch.float64: MPI.DOUBLE}


class MPIComm(Communicator):
    """h = n / ranks workers on this rank; ``mixing`` is a scipy or numpy matrix (n, n), or a Schedule.

    Every rank must be given the same mixing. Raises ValueError if the ranks do not divide the workers, or, where all
    ranks of the job take part (``world`` is None), have different mixing. For ``links``, ``layout`` and ``check`` see
    Communicator.
    CUDA tensors are handed to MPI where DECENTRAL_CUDA_AWARE=1 says that it can, else staged through
    pinned host memory.
    """

    def __init__(
        self,
        mixing: Mixing,
        world: MPI.Comm | None = None,
        links: Links | None = None,
        layout: Layout | None = None,
        check: bool = True,
    ) -> None:
        self.mpi = MPI.COMM_WORLD if world is None else world
        check_launch(self.mpi.size)
        super().__init__(mixing, self.mpi.rank, self.mpi.size, links=links, layout=layout, check=check)
        if world is None and self.ranks > 1:  # a user's own
            self.departures = departures_of(self.mpi)
            if len(set(self.mpi.allgather(fingerprint(self.schedule)))) > 1:
                raise AgreedError("ranks have different mixing; give every rank the same matrix or schedule")
        self._routes: dict[int, Routes] = {}
        self._halos: defaultdict[Any, list[_Halo]] = defaultdict(list)  # not in use, by size

    def _unchecked(self) -> LocalComm:
        return LocalComm(self.schedule, check=False)

    def share_root(self, x: Tensor) -> None:
        """A broadcast, as bytes."""
        wire = x if x.device.type == "cpu" else x.cpu()
        self._meet("a copy of rank 0's")
        self.mpi.Bcast([wire.view(-1).view(torch.uint8).numpy(), MPI.BYTE], root=0)
        if wire is not x:
            x.copy_(wire)

    def _wait(self, requests: list[Any], kind: str) -> None:
        self.doing("wait")
        if self.departures is None:
            MPI.Request.Waitall(requests)
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
        routes, mpi, width, dtype = self._routes_of(plan), self.mpi, x.shape[1], x.dtype
        free = self._halos[len(plan.halo), width, dtype]
        halo = free.pop() if free else _Halo(x, len(plan.halo))
        kind, tag = _MPI_TYPES[dtype], self._tag(HALO)
        requests = []
        whole = as_array(_to_wire(x)) if routes.sends_all else None
        for rank, rows in routes.rows_to:
            part = whole if rows is None else as_array(_to_wire(x[rows]))
            requests.append(mpi.Isend([part, kind], dest=rank, tag=tag))
        for rank, a, b in routes.halo_from:
            requests.append(mpi.Irecv([halo.wire[a:b], kind], source=rank, tag=tag))
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
        routes, tag = self._routes_of(plan), self._tag(_EDGES)
        received = _wire_like(y, len(plan.in_edges))
        requests, outgoing = [], []
        for rank, edges in routes.edges_to:
            outgoing.append(_to_wire(y[edges]))
            requests.append(self.mpi.Isend(as_buffer(outgoing[-1]), dest=rank, tag=tag))
            if rank != self.rank:
                self.ledger.mpi_bytes += outgoing[-1].nbytes
        for rank, a, b in routes.edges_from:
            requests.append(self.mpi.Irecv(as_buffer(received[a:b]), source=rank, tag=tag))
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
            requests.append((self.mpi.Isend([message, MPI.BYTE], dest=rank, tag=tag), message))
            self.ledger.mpi_bytes += len(message)
        self.doing("wait")
        arrived = {}
        for rank in sources:
            status = MPI.Status()
            if self.departures is not None:
                self.departures.until(partial(self.mpi.iprobe, rank, tag), "packets")
            waiting = self.mpi.Mprobe(source=rank, tag=tag, status=status)
            message = np.empty(status.Get_count(MPI.BYTE), dtype=np.uint8)
            waiting.Recv([message, MPI.BYTE])
            count = int(message[:8].view(np.int64)[0])
            edges = 8 * (1 + count) + np.cumsum([0, *message[8 : 8 * (1 + count)].view(np.int64)])
            arrived[rank] = [torch.from_numpy(message[a:b].copy()) for a, b in pairwise(edges.tolist())]
        self._wait([request for request, _ in requests], "packets")
        return arrived

    def _mean(self, x: Tensor) -> Tensor:
        self._meet("an exact mean")
        self.doing("send")
        columns, ranks = x.shape[1], self.ranks
        edge = [columns * r // ranks for r in range(ranks + 1)]
        width = np.diff(edge)
        mine = int(width[self.rank])
        packed = torch.cat([x[:, a:b].reshape(-1) for a, b in pairwise(edge)])
        outgoing, incoming = _to_wire(packed), _wire_like(x.new_empty(0, mine), self.n)
        kind = _MPI_TYPES[x.dtype]
        self.doing("wait")
        self.mpi.Alltoallv(
            [as_array(outgoing), self.h * width, kind], [as_array(incoming), [self.h * mine] * ranks, kind]
        )
        self.doing("update")
        share = _to_wire(sum_rows(_from_wire(incoming, x)).div_(self.n))
        total = _wire_like(x, 1)
        self.doing("wait")
        self.mpi.Allgatherv([as_array(share), kind], [as_array(total), width, kind])
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


class _Halo:
    """Room for ``rows`` rows as wide as those of x, and the same memory as MPI takes it (``wire``)."""

    def __init__(self, x: Tensor, rows: int) -> None:
        self.rows = _wire_like(x, rows)
        self.wire = as_array(self.rows)


def _to_wire(x: Tensor) -> Tensor:
    """x as contiguous memory that MPI may read."""
    x = x.contiguous()
    if x.is_cuda:
        if not cuda_aware():
            return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
        torch.cuda.synchronize(x.device)
    return x


def _wire_like(x: Tensor, rows: int) -> Tensor:
    """Room for ``rows`` rows as wide as those of x, where MPI may write."""
    staged = x.is_cuda and not cuda_aware()
    device = "cpu" if staged else x.device
    return torch.empty((rows, x.shape[1]), dtype=x.dtype, device=device, pin_memory=staged)


def _from_wire(wire: Tensor, x: Tensor) -> Tensor:
    return wire.to(x.device, non_blocking=False)


def as_array(wire: Tensor) -> Any:
    """The memory of a tensor, for MPI."""
    return wire if wire.is_cuda else wire.numpy()


def as_buffer(wire: Tensor) -> Any:
    """The same with the type of its numbers."""
    return [as_array(wire), _MPI_TYPES[wire.dtype]]
