"""Messages between ranks: every channel that joins stages of two ranks, over one communicator of the ranks.

A message is a *head*, which says its lane, its form and its size, and a body. A body of up to 64 kB goes with its
head, into a receive that is always posted, for any rank. A larger one follows on its own tag, into a receive that was
posted when the one before it came. A *lane* is a channel with room for its largest body so far; the sender numbers it
and announces it once. A body that does not fit opens a new lane; a smaller one leaves the rest of its room empty.
Nothing here waits, but for :meth:`Wires.finish`.
"""

from __future__ import annotations

import pickle
import struct
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral.comm.launch import cuda_aware
from decentral.runtime.packing import flattened, pack, packed_bytes, restored
from decentral.runtime.requests import Channel

_HEAD_TAG = 0  # lane n has tag n + 1
_HEAD = struct.Struct(
    "<BIIIQ"
)  # what, rank of the sender, number of the lane, bytes of the form, of the body
_MESSAGE, _LANE, _TAKEN = range(3)
_INLINE_BYTES = _FORM_BYTES = 64 << 10  # at most
_HEAD_BYTES = 64 + _FORM_BYTES + _INLINE_BYTES


@dataclass
class _Lane:
    """``room_bytes``: of each receive; ``on_device``: whether that is CUDA memory."""

    number: int
    channel: Channel
    room_bytes: int
    on_device: bool
    posted: deque[tuple[Any, Tensor]] = field(default_factory=deque)  # at the receiver: (request, room)


class Wires:
    """This rank's ends. ``comm``: a communicator of the ranks that nothing else uses.

    ``arrived(channel, value)`` is called from :meth:`poll` for each message, in the channel's order;
    ``taken(channel)`` when the stage at the far end took one of a bounded channel.
    ``sent``, ``received``: messages of any sort so far; if their sums over the ranks are equal, none is under way.
    """

    def __init__(
        self, comm: Any, arrived: Callable[[Channel, Any], None], taken: Callable[[Channel], None]
    ) -> None:
        self.comm, self.arrived, self.taken = comm, arrived, taken
        self.sent = self.received = 0
        self._lanes_out: dict[Channel, _Lane] = {}
        self._announced: list[Channel] = []  # by the number of the lane
        self._lanes_in: dict[tuple[int, int], _Lane] = {}
        self._route_in: dict[Channel, tuple[int, int]] = {}  # its latest lane
        self._coming: dict[Channel, deque[tuple[Any, Tensor, bytes]]] = {}
        self._flying: list[tuple[Any, Tensor, list[Tensor]]] = []
        self._free: defaultdict[tuple[int, str], list[Tensor]] = defaultdict(list)
        self._head = torch.empty(_HEAD_BYTES, dtype=torch.uint8)
        self._heads = comm.Recv_init(self._head.numpy(), tag=_HEAD_TAG)
        self._heads.Start()

    def send(self, rank: int, channel: Channel, value: Any) -> None:
        """Start a message; the value may change as soon as this returns. Raises ValueError for too many tensors."""
        form, tensors = flattened(value)
        size = packed_bytes(tensors)
        if len(form) > _FORM_BYTES:
            raise ValueError(f"{len(tensors)} tensors in one message over {channel} are too many; join some")
        large = size > _INLINE_BYTES
        on_cuda = large and any(x.is_cuda for x in tensors)
        on_device = on_cuda and cuda_aware() and all(x.is_cuda for x in tensors)
        lane = self._lanes_out.get(channel)
        if lane is None or (large and (size > lane.room_bytes or on_device is not lane.on_device)):
            lane = self._announce(rank, channel, size if large else 0, on_device)
        if not large:
            self._send_head(rank, _MESSAGE, lane.number, form, size, tensors)
            return
        self._send_head(rank, _MESSAGE, lane.number, form, size)
        body, home = self._memory_of(lane.room_bytes, _where(on_cuda, on_device))
        pack(tensors, body)
        if on_device:
            torch.cuda.synchronize()
        self._start(rank, body, home, size, lane.number + 1)

    def acknowledge(self, channel: Channel) -> None:
        """Tell the sender's rank that a message was taken."""
        rank, number = self._route_in[channel]
        self._send_head(rank, _TAKEN, number)

    def poll(self) -> None:
        """Deliver what has come and reclaim what has gone."""
        while self._heads.Test():
            self._read_head()
            self._heads.Start()
        if self._coming:
            self._deliver()
        if self._flying:
            flying, self._flying = self._flying, []
            for message in flying:
                request, memory, home = message
                if request.Test():
                    home.append(memory)
                else:
                    self._flying.append(message)

    def finish(self) -> None:
        """Wait for what is being sent: for when all ranks know that all has been received."""
        for request, _, _ in self._flying:
            request.Wait()
        self._flying.clear()

    def close(self) -> None:
        """Cancel the receives. Waits for no other rank."""
        _cancel([self._heads, *(request for lane in self._lanes_in.values() for request, _ in lane.posted)])
        self._heads.Free()

    def _announce(self, rank: int, channel: Channel, room_bytes: int, on_device: bool) -> _Lane:
        lane = _Lane(len(self._announced), channel, room_bytes, on_device)
        self._lanes_out[channel] = lane
        self._announced.append(channel)
        self._send_head(rank, _LANE, lane.number, pickle.dumps((tuple(channel), room_bytes, on_device)))
        return lane

    def _send_head(
        self,
        rank: int,
        what: int,
        number: int,
        form: bytes = b"",
        size: int = 0,
        body: list[Tensor] | None = None,
    ) -> None:
        head, home = self._memory_of(_HEAD_BYTES, "host")
        start = _HEAD.pack(what, self.comm.rank, number, len(form), size) + form
        head.numpy()[: len(start)] = np.frombuffer(start, np.uint8)
        end = _body_at(form)
        if body is not None:
            pack(body, head[end:])
            end += size
        self.sent += 1
        self._start(rank, head, home, end, _HEAD_TAG)

    def _start(self, rank: int, memory: Tensor, home: list[Tensor], size: int, tag: int) -> None:
        request = self.comm.Isend(_buffer(memory[:size]), dest=rank, tag=tag)
        self._flying.append((request, memory, home))

    def _memory_of(self, size: int, where: str) -> tuple[Tensor, list[Tensor]]:
        """Memory to send from, and the list it goes back to when it is free again."""
        home = self._free[size, where]
        return (home.pop() if home else _allocated(size, where)), home

    def _read_head(self) -> None:
        memory = self._head.numpy()
        what, rank, number, form_bytes, size = _HEAD.unpack(memory[: _HEAD.size].tobytes())
        form = memory[_HEAD.size : _HEAD.size + form_bytes].tobytes()
        if what == _MESSAGE:
            lane = self._lanes_in[rank, number]
            request = None
            if size <= _INLINE_BYTES:
                room = self._head[_body_at(form) : _body_at(form) + size].clone()
            else:
                request, room = lane.posted.popleft()
                self._post(rank, lane)
            self._coming.setdefault(lane.channel, deque()).append((request, room, form))
            return
        self.received += 1
        if what == _TAKEN:
            self.taken(self._announced[number])
        else:
            channel, room_bytes, on_device = pickle.loads(form)
            self._open(rank, _Lane(number, Channel(*channel), room_bytes, on_device))

    def _open(self, rank: int, lane: _Lane) -> None:
        """A lane was announced: nothing more comes on the channel's lane before it."""
        before = self._lanes_in.pop(self._route_in.get(lane.channel, (rank, -1)), None)
        if before is not None:
            _cancel([request for request, _ in before.posted])
        self._lanes_in[rank, lane.number] = lane
        self._route_in[lane.channel] = rank, lane.number
        if lane.room_bytes:
            self._post(rank, lane)

    def _post(self, rank: int, lane: _Lane) -> None:
        # a new room each time: the program keeps what it is given, without a copy
        on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        room = _allocated(lane.room_bytes, _where(on_cuda, lane.on_device))
        request = self.comm.Irecv(_buffer(room), source=rank, tag=lane.number + 1)
        lane.posted.append((request, room))

    def _deliver(self) -> None:
        for channel, queue in list(self._coming.items()):
            while queue and (queue[0][0] is None or queue[0][0].Test()):
                _, room, form = queue.popleft()
                self.received += 1
                self.arrived(channel, restored(form, room))
            if not queue:
                del self._coming[channel]


def _body_at(form: bytes) -> int:
    return -(-(_HEAD.size + len(form)) // 64) * 64


def _where(on_cuda: bool, on_device: bool) -> str:
    return "cuda" if on_device else "pinned" if on_cuda else "host"


def _allocated(size: int, where: str) -> Tensor:
    device = "cuda" if where == "cuda" else "cpu"
    return torch.empty(size, dtype=torch.uint8, device=device, pin_memory=where == "pinned")


def _buffer(memory: Tensor) -> Any:
    return memory if memory.is_cuda else memory.numpy()


def _cancel(requests: list[Any]) -> None:
    for request in requests:
        request.Cancel()
        request.Wait()
