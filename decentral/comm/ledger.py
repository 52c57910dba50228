"""The ledger: bytes and messages of the modelled deployment, one worker a node.

It is advanced by the communicator, where bytes move, and nowhere else. All-reduce is billed as
the ring collective moves it: each worker sends 2 (n - 1) / n of the vector in 2 (n - 1) messages.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Traffic(NamedTuple):
    """What a round moved, for a clock: to each out-neighbour ``gossips`` messages of ``gossip_bytes`` in all.

    ``reduces``: all-reduces of ``reduced_bytes`` in all; ``gathers``: all-gathers of ``gathered_bytes``. Where packets
    differ from worker to worker, bytes are arrays (h,) over the hosted workers.
    """

    gossips: int = 0
    gossip_bytes: int | NDArray[np.int64] = 0
    reduces: int = 0
    reduced_bytes: int = 0
    gathers: int = 0
    gathered_bytes: int | NDArray[np.int64] = 0


class Ledger:
    """What the hosted workers have sent.

    ``bytes_sent``: float64 array (h,), bytes per hosted worker. ``messages``: their number, over all
    hosted workers. ``mpi_bytes``: bytes this rank really handed to MPI for the method, 0 in one process.
    """

    def __init__(self, workers: int, hosted: int) -> None:
        self.workers, self.hosted, self.mpi_bytes = workers, hosted, 0
        self._one = Lock()  # threads that share a round bill its blocks
        self._messages, self._reduced_bytes = 0, 0
        self._gossip_bytes = np.zeros(hosted, dtype=np.int64)
        # sent along the last graph, per vector, and not yet multiplied: plain numbers, since numpy costs ten times
        # as much in each round
        self._vectors = self._gossip_bytes.copy()
        self._vector_bytes = self._vector_messages = 0
        self._seen: list[Any] = [0] * len(Traffic._fields)  # since traffic was taken

    def take_traffic(self) -> Traffic:
        """What was moved since this was last asked."""
        taken, self._seen = Traffic(*self._seen), [0] * len(Traffic._fields)
        return taken

    def count_gossip(self, vectors: NDArray[np.int64], vector_bytes: int, messages: bool) -> None:
        """Hosted worker i sent ``vectors[i]`` vectors of ``vector_bytes`` each."""
        with self._one:
            if vectors is not self._vectors:
                self._settle()
                self._vectors = vectors
            self._vector_bytes += vector_bytes
            self._vector_messages += messages
            self._saw(0, vector_bytes, messages)

    def count_packets(
        self,
        copies: NDArray[np.int64],
        packet_bytes: NDArray[np.int64],
        messages: bool,
        gathers: bool = False,
    ) -> None:
        """Hosted worker i sent ``copies[i]`` packets of ``packet_bytes[i]`` each; ``gathers``: to all others."""
        self._gossip_bytes += copies * packet_bytes
        if messages:
            self._messages += int(copies.sum())
        self._saw(4 if gathers else 0, packet_bytes, messages)

    def _saw(self, kind: int, size: int | NDArray[np.int64], messages: bool) -> None:
        self._seen[kind] += messages
        self._seen[kind + 1] += size

    def _settle(self) -> None:
        self._gossip_bytes += self._vectors * self._vector_bytes
        self._messages += int(self._vectors.sum()) * self._vector_messages
        self._vector_bytes = self._vector_messages = 0

    def count_all_reduce(self, vector_bytes: int, messages: bool) -> None:
        """Every worker took part in one ring all-reduce of a vector of ``vector_bytes``."""
        with self._one:
            self._reduced_bytes += vector_bytes
            if messages:
                self._messages += 2 * (self.workers - 1) * self.hosted
            self._saw(2, vector_bytes, messages)

    @property
    def messages(self) -> int:
        """Messages sent by all hosted workers."""
        self._settle()
        return self._messages

    @property
    def bytes_sent(self) -> NDArray[np.float64]:
        """Bytes sent by each hosted worker, (h,). The division by n is done here, once, so it is exact."""
        self._settle()
        reduced = 2.0 * (self.workers - 1) * self._reduced_bytes / self.workers
        return self._gossip_bytes.astype(np.float64) + reduced

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this ledger; ``gossip_bytes`` is per hosted worker."""
        self._settle()
        return {
            "gossip_bytes": self._gossip_bytes.copy(),
            "reduced_bytes": self._reduced_bytes,
            "messages": self._messages,
            "mpi_bytes": self.mpi_bytes,
        }

    def restore(
        self, gossip_bytes: NDArray[np.int64], reduced_bytes: int, messages: int, mpi_bytes: int
    ) -> None:
        """Put back what :meth:`state` gave."""
        self._settle()
        self._gossip_bytes[:] = gossip_bytes
        self._reduced_bytes, self._messages, self.mpi_bytes = reduced_bytes, messages, mpi_bytes
