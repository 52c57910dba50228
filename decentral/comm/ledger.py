"""The ledger: bytes and messages of the modelled deployment, one worker a node.

It is advanced by the communicator, where bytes move, and nowhere else. All-reduce is billed as
the ring collective moves it: each worker sends 2 (n - 1) / n of the vector in 2 (n - 1) messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Ledger:
    """What the hosted workers have sent.

    ``bytes_sent``: float64 array (h,), bytes per hosted worker. ``messages``: their number, over all
    hosted workers. ``mpi_bytes``: bytes this rank really handed to MPI, 0 in one process.
    """

    workers: int
    hosted: int
    mpi_bytes: int = 0
    messages: int = 0
    _gossip_bytes: NDArray[np.int64] = field(init=False)
    _reduced_bytes: int = 0

    def __post_init__(self) -> None:
        self._gossip_bytes = np.zeros(self.hosted, dtype=np.int64)

    def count_gossip(self, vectors: NDArray[np.int64], vector_bytes: int, messages: bool) -> None:
        """Hosted worker i sent ``vectors[i]`` vectors of ``vector_bytes`` each."""
        self._gossip_bytes += vectors * vector_bytes
        if messages:
            self.messages += int(vectors.sum())

    def count_all_reduce(self, vector_bytes: int, messages: bool) -> None:
        """Every worker took part in one ring all-reduce of a vector of ``vector_bytes``."""
        self._reduced_bytes += vector_bytes
        if messages:
            self.messages += 2 * (self.workers - 1) * self.hosted

    @property
    def bytes_sent(self) -> NDArray[np.float64]:
        """Bytes sent by each hosted worker, (h,). The division by n is done here, once, so it is exact."""
        reduced = 2.0 * (self.workers - 1) * self._reduced_bytes / self.workers
        return self._gossip_bytes.astype(np.float64) + reduced

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of this ledger; ``gossip_bytes`` is per hosted worker."""
        return {
            "gossip_bytes": self._gossip_bytes.copy(),
            "reduced_bytes": self._reduced_bytes,
            "messages": self.messages,
            "mpi_bytes": self.mpi_bytes,
        }

    def restore(
        self, gossip_bytes: NDArray[np.int64], reduced_bytes: int, messages: int, mpi_bytes: int
    ) -> None:
        """Put back what :meth:`state` gave."""
        self._gossip_bytes[:] = gossip_bytes
        self._reduced_bytes, self.messages, self.mpi_bytes = reduced_bytes, messages, mpi_bytes
