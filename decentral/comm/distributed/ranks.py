"""Process groups of torch.distributed in the place of mpi4py's communicator."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed

from decentral.comm.distributed.cuda import CudaGroup
from decentral.comm.distributed.mail import Mail
from decentral.comm.distributed.requests import Request, idle

dist: Any = torch.distributed  # not all of which torch's types tell

NOWHERE = -2
"""A rank that messages to and from are nothing."""
_COLLECTIVE = (1 << 31) - 1  # the tag of messages of collective operations
_FOREVER = timedelta(days=300)  # a rank may wait for long; who has died is seen otherwise


class TorchRanks:
    """What this project uses of mpi4py's communicator: its names, its meaning, its order of messages.

    ``store``: torch's, of these ranks alone. ``host``: rank 0's, for finding the card that leads there, unless
    GLOO_SOCKET_IFNAME names one. Memory is a contiguous numpy array; that of collective operations may be a CUDA
    tensor. Of one tag values come from any rank, or all from
    one.
    """

    def __init__(self, store: Any, rank: int, size: int, host: str) -> None:
        self.rank, self.size, self.host, self.store = rank, size, host, store
        self._gloo = _gloo(dist.PrefixStore("gloo", store), rank, size, host)
        self._mail = Mail(dist.PrefixStore("mail", store), rank)
        # of this rank with itself, by tag: receives that nothing was sent to, and copies that nothing has received
        self._open: defaultdict[int, deque[Any]] = defaultdict(deque)
        self._unmet: defaultdict[int, deque[Any]] = defaultdict(deque)
        self._parts = 0
        self._kept: list[Any] = []  # groups that other ranks may still be in, here ended or not
        self.idle = idle

    def Irecv(self, memory: Any, source: int, tag: int) -> Request:  # noqa: N802 - MPI's names
        """A receive of memory's length."""
        if source == NOWHERE:
            return Request()
        if source == self.rank:
            if self._unmet[tag]:
                np.copyto(memory, self._unmet[tag].popleft())
            else:
                self._open[tag].append(memory)
            return Request()
        return Request(self._gloo.recv([torch.from_numpy(memory)], source, tag), memory)

    def Isend(self, memory: Any, dest: int, tag: int) -> Request:  # noqa: N802
        """A send, into a receive that is at least as long."""
        if dest == NOWHERE:
            return Request()
        if dest == self.rank:
            if self._open[tag]:
                np.copyto(self._open[tag].popleft(), memory)
            else:
                self._unmet[tag].append(memory.copy())
            return Request()
        return Request(self._gloo.send([torch.from_numpy(memory)], dest, tag), memory, sends=True)

    def Send(self, memory: Any, dest: int, tag: int) -> None:  # noqa: N802
        """Until the memory may be used again."""
        self.Isend(memory, dest, tag).Wait()

    def Recv(self, memory: Any, source: int, tag: int) -> None:  # noqa: N802
        """Until it has come."""
        self.Irecv(memory, source, tag).Wait()

    def Recv_init(self, memory: Any, tag: int) -> _Standing:  # noqa: N802
        """A receive from any rank, to be posted again and again."""
        return _Standing(self, memory, tag)

    def Alltoallv(self, outgoing: Sequence[Any], incoming: Sequence[Any]) -> None:  # noqa: N802
        """(memory, count for each rank)."""
        self._exchange(_cut(*incoming), _cut(*outgoing), outgoing[0])

    def Allgatherv(self, mine: Any, incoming: Sequence[Any]) -> None:  # noqa: N802
        """Into (memory, count from each rank)."""
        self._exchange(_cut(*incoming), [mine.reshape(-1)] * self.size, mine)

    def Allgather(self, mine: Any, everyone: Any) -> None:  # noqa: N802
        """As many numbers from each rank."""
        self.Allgatherv(mine, [everyone, [mine.size] * self.size])

    def Gatherv(self, mine: Any, incoming: Sequence[Any] | None, root: int = 0) -> None:  # noqa: N802
        """To one rank, as (memory, count from each rank) there."""
        if incoming is None:
            self.Send(mine, root, _COLLECTIVE)
            return
        parts = _cut(*incoming)
        requests = [self.Irecv(part, rank, _COLLECTIVE) for rank, part in enumerate(parts) if rank != root]
        np.copyto(parts[root], mine.reshape(-1))
        Request.Waitall(requests)

    def Bcast(self, memory: Any, root: int = 0) -> None:  # noqa: N802
        """From one rank."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        Request(self._gloo.broadcast([torch.from_numpy(memory)], options)).Wait()

    def Ibarrier(self) -> Request:  # noqa: N802
        """Done when all have called it."""
        return Request(self._gloo.barrier())

    def Barrier(self) -> None:  # noqa: N802
        """Until all have called it."""
        self.Ibarrier().Wait()

    def Iallreduce(self, mine: Any, sums: Any) -> Request:  # noqa: N802
        """The sum over ranks."""
        np.copyto(sums, mine)
        return Request(self._gloo.allreduce([torch.from_numpy(sums)]), sums)

    def Iallgather(self, mine: Any, everyone: Any) -> Request:  # noqa: N802
        """:meth:`Allgather`, begun."""
        out, own = torch.from_numpy(everyone), torch.from_numpy(mine)
        return Request(self._gloo._allgather_base(out, own), (out, own))

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's value."""
        mine, sizes = self._pickled(value)
        room = np.empty(sizes.sum(), np.uint8)
        self.Allgatherv(mine, [room, sizes])
        return [pickle.loads(part.tobytes()) for part in _cut(room, sizes)]

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """The same, on one rank."""
        mine, sizes = self._pickled(value)
        if self.rank != root:
            self.Gatherv(mine, None, root)
            return None
        room = np.empty(sizes.sum(), np.uint8)
        self.Gatherv(mine, [room, sizes], root)
        return [pickle.loads(part.tobytes()) for part in _cut(room, sizes)]

    def bcast(self, value: Any, root: int = 0) -> Any:
        """That of one rank."""
        mine, sizes = self._pickled(value if self.rank == root else None)
        room = mine if self.rank == root else np.empty(sizes[root], np.uint8)
        self.Bcast(room, root)
        return pickle.loads(room.tobytes())

    def isend(self, value: Any, dest: int, tag: int) -> Request:
        """A small value, without waiting."""
        return self._mail.send(value, dest, tag)

    def iprobe(self, source: int = 0, tag: int = 0) -> bool:
        """Whether a value has come."""
        del source
        return self._mail.is_there(tag)

    def recv(self, source: int = 0, tag: int = 0) -> Any:
        """A value that has come."""
        del source
        return self._mail.take(tag)

    def Dup(self) -> TorchRanks:  # noqa: N802
        """The same ranks, with messages of their own."""
        return self._part("all", self.rank, self.size)

    def Split(self, color: int, key: int) -> TorchRanks:  # noqa: N802
        """The ranks with this color; ``key`` is the rank here."""
        members = [rank for rank, other in enumerate(self.allgather(int(color))) if other == int(color)]
        return self._part(str(int(color)), members.index(key), len(members))

    def Free(self) -> None:  # noqa: N802
        """Nothing is under way any more."""
        self._gloo = None

    def Abort(self, code: int = 1) -> NoReturn:  # noqa: N802
        """End this process at once; its launcher, and watches, end the others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    @cached_property
    def cuda(self) -> CudaGroup | None:
        """For memory of GPUs; None where it has to be staged. All ranks first ask for it together."""
        store = dist.PrefixStore("nccl", self.store)
        return CudaGroup.of(store, self.rank, self.size, _FOREVER, self.allgather)

    def _part(self, name: str, rank: int, size: int) -> TorchRanks:
        self._parts += 1
        store = dist.PrefixStore(f"{self._parts}.{name}", self.store)
        part = TorchRanks(store, rank, size, self.host)
        if size == self.size:  # all have come here, so none is in what was made before and has ended
            self._kept.clear()
        self._kept.append(part._gloo)  # were it closed at once, others could not connect to it
        return part

    def _pickled(self, value: Any) -> tuple[Any, Any]:
        mine = np.frombuffer(bytearray(pickle.dumps(value)), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.Allgather(np.array([len(mine)]), sizes)
        return mine, sizes

    def _exchange(self, into: Sequence[Any], out: Sequence[Any], like: Any) -> None:
        """Part r of ``out`` to rank r, part r of ``into`` from it."""
        if isinstance(like, torch.Tensor):
            assert self.cuda is not None
            requests = [self.cuda.exchange(_by_rank(into), _by_rank(out), like)]
        else:
            around = [(self.rank + k) % self.size for k in range(self.size)]  # not all to one at a time
            requests = [self.Irecv(into[rank], rank, _COLLECTIVE) for rank in around]
            requests += [self.Isend(out[rank], rank, _COLLECTIVE) for rank in around]
        Request.Waitall(requests)


class _Standing:
    """A receive from any rank: see :meth:`TorchRanks.Recv_init`. One from each is posted."""

    def __init__(self, ranks: TorchRanks, memory: Any, tag: int) -> None:
        self._ranks, self._memory, self._tag = ranks, memory, tag
        self._posted: dict[int, tuple[Request, Any]] = {}
        self._others = [rank for rank in range(ranks.size) if rank != ranks.rank]
        self._rooms = {rank: np.empty_like(memory) for rank in self._others}

    def Start(self) -> None:  # noqa: N802 - MPI's names
        """Post it."""
        for rank in self._others:
            if rank not in self._posted:
                room = self._rooms[rank]
                self._posted[rank] = self._ranks.Irecv(room, rank, self._tag), room

    def Test(self) -> bool:  # noqa: N802
        """Whether something has come: then it is in the memory, until this is asked again."""
        for rank, (request, room) in self._posted.items():
            if request.Test():
                np.copyto(self._memory, room)
                del self._posted[rank]
                return True
        return False

    def Cancel(self) -> None:  # noqa: N802
        """End it; all ranks call it. Gloo forgets no receive that is waited for, so each other rank sends it a byte."""
        self._ranks.Barrier()  # who still looks for messages would take the byte for one
        last = np.zeros(1, np.uint8)
        sent = [self._ranks.Isend(last, rank, self._tag) for rank in self._others]
        Request.Waitall([*sent, *(request for request, _ in self._posted.values())])

    def Wait(self) -> None:  # noqa: N802
        """It has ended."""

    Free = Wait


def _by_rank(parts: Sequence[Any]) -> list[tuple[Any, int]]:
    return [(part, rank) for rank, part in enumerate(parts)]


def _cut(memory: Any, counts: Sequence[int]) -> list[Any]:
    """One-dimensional parts of so many numbers, in turn."""
    flat, ends = memory.reshape(-1), np.cumsum(counts).tolist()
    return [flat[end - int(count) : end] for end, count in zip(ends, counts, strict=True)]


def _gloo(store: Any, rank: int, size: int, host: str) -> Any:
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return dist.ProcessGroupGloo(store, rank, size, _FOREVER)
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_own_address(host))]
    options._timeout = _FOREVER
    return dist.ProcessGroupGloo(store, rank, size, options)


def _own_address(host: str) -> str:
    """This host's, on the way to that one."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect(address)  # sends nothing
        own: str = way.getsockname()[0]
        return own
