"""Links that carry packets of a compressor instead of vectors: C(x) for x, in bytes that can be decoded again.

A compressor belongs to a link, not to a method. It looks at whole vectors, so the round loop does not cut columns
where links compress. A sender has one state for each vector that it sends in a round: the first, the second, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm.compression import Compressor, Encoded, Layout
from decentral.comm.launch import one_thread
from decentral.errors import UserError
from topologies.streams import stream


class Sent(NamedTuple):
    """What the hosted workers send of x (h, d).

    ``rows``: (h, d) what receivers will decode. ``packets``: (bytes,) uint8 of each worker. ``decode``: worker and
    packet to the row (d,).
    """

    rows: Tensor
    packets: Sequence[Tensor]
    decode: Callable[[int, Tensor], Tensor]

    @property
    def packet_bytes(self) -> NDArray[np.int64]:
        """Length of each packet, (h,)."""
        return np.array([len(packet) for packet in self.packets], dtype=np.int64)


class Links:
    """The links of the hosted workers ``rows``; ``layout`` says which entries of a vector are which layer.

    ``states``: of each vector that is sent in a round, each worker's state. ``counts``: "" (all) and, for compressors
    that send layers apart, each kind of layer -> bytes of the vectors as they are, and of their packets.
    """

    def __init__(self, compressor: Compressor, layout: Layout, seed: int, rows: range) -> None:
        self.compressor, self.layout, self.seed, self.rows = compressor, layout, seed, rows
        self.states: list[list[Any]] = []
        kinds = sorted({span.kind for span in layout.spans}) if compressor.tells_layers else []
        self.counts = {kind: np.zeros(2, dtype=np.int64) for kind in ("", *kinds)}
        self.t: int | None = None
        self.calls = 0

    def at(self, t: int) -> Links:
        """These links in round t, with no vector sent yet."""
        bound = object.__new__(Links)
        bound.__dict__.update(self.__dict__, t=t, calls=0)
        return bound

    def encode(self, x: Tensor) -> Sent:
        """The packets of x (h, d), the next vector of this round; an empty one of a vector that is not finite."""
        if self.t is None:
            raise ValueError("links that compress need to know the round; hand the method comm.at(t)")
        call, t = self.calls, self.t
        self.calls += 1
        on_cpu = x.detach().cpu()
        if call == len(self.states):
            self.states.append([self.compressor.init(row, self.layout) for row in on_cpu])
        states, rows, packets = self.states[call], [], []
        # on more it takes several times as long: blocks that fit in a cache are too short to be shared out; and what is
        # summed is then summed as on ranks, which have one
        with one_thread():
            for k, worker in enumerate(self.rows):
                # a copy, for the last bits of a BLAS product depend on where in memory its operands lie
                row = on_cpu[k].clone()
                try:
                    encoded = self.compressor.encode(row, states[k], self.layout, self._draw(worker, call, t))
                except UserError:
                    # not finite: receivers must not wait in vain, and losses will tell that the run diverged
                    encoded = Encoded(row.new_empty(0, dtype=torch.uint8), row.fill_(torch.nan), states[k])
                states[k] = encoded.state
                packets.append(encoded.packet)
                rows.append(encoded.sent)
                self._count(encoded.packet, x.dtype)

        def decode(worker: int, packet: Tensor) -> Tensor:
            if not len(packet):
                return x.new_full((x.shape[1],), torch.nan)
            draw = self._draw(worker, call, t)
            return self.compressor.decode(packet, self.layout, x.dtype, draw).to(x.device)

        return Sent(torch.stack(rows).to(x.device), packets, decode)

    def _draw(self, worker: int, call: int, t: int) -> np.random.Generator:
        return stream(self.seed, "compression", worker, call, t)

    def _count(self, packet: Tensor, dtype: torch.dtype) -> None:
        if not len(packet):
            return
        self.counts[""] += self.layout.d * dtype.itemsize, len(packet)
        for kind, packet_bytes in self.compressor.bytes_by_kind(packet, self.layout, dtype).items():
            columns = sum(span.size for span in self.layout.spans if span.kind == kind)
            self.counts[kind] += columns * dtype.itemsize, packet_bytes

    def take_counts(self) -> dict[str, NDArray[np.int64]]:
        """The counts so far, which begin anew."""
        taken = {kind: count.copy() for kind, count in self.counts.items()}
        for count in self.counts.values():
            count[:] = 0
        return taken
