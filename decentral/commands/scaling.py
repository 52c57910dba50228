"""``decentral bench scaling``: the time of a round on 1, 2, 4, ... ranks, measured and foretold.

A round of a model of M bytes goes in K blocks of columns, m = M / K each (decentral.blocks). Foretold, with the links
as they carry messages of that size (``Calibrated.cluster_for``):

    gossip:      a_gossip(M) + g(m) + (K - 1) p(m),    g, p: ``round_s`` of the ring
    all-reduce:  a_mean(M) + K A(m),                   A: 2 (n - 1) (alpha + m / (n B))

a(M): the round's arithmetic. Messages of gossip travel a few at a time, with the links as they are then (``posted``),
p, but the first of a round, g, has nothing to travel with. An exact mean over MPI is an all-to-all of columns and an
all-gather between all ranks, of copies (``copied``). With one port a worker each is n - 1 messages of m / n one after
the other, as in a ring all-reduce, whose formula is A.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decentral.blocks import block_width, column_blocks
from decentral.commands.calibration.arithmetic import ring_matrix
from decentral.network.cluster import Cluster, round_s
from decentral.network.collectives import ring
from decentral.network.measured import Calibrated

MODEL_BYTES = (400_000, 4_000_000, 40_000_000)
"""Models that are measured, of float32."""


@dataclass(frozen=True)
class Row:
    """One kind of round on ``ranks`` ranks: measured mean and quartiles, and foretold; arithmetic is part of that."""

    ranks: int
    kind: str
    model_bytes: int
    measured_s: float
    lower_s: float
    upper_s: float
    predicted_s: float
    arithmetic_s: float
    samples: int
    undisturbed: float

    @property
    def error_percent(self) -> float:
        """100 (predicted / measured - 1)."""
        return 100 * (self.predicted_s / self.measured_s - 1)


def rank_counts(ranks: int) -> list[int]:
    """1, 2, 4, ... up to ``ranks``, which is the last also where it is no power of two."""
    powers = [1 << k for k in range(ranks.bit_length())]
    return powers if powers[-1] == ranks else [*powers, ranks]


def predicted_s(calibrated: Calibrated, kind: str, ranks: int, model_bytes: int) -> tuple[float, float]:
    """(seconds of a round, of which arithmetic) on the first ``ranks`` workers, one a rank; see the module.

    ``kind``: "gossip" or "all_reduce". ``calibrated.compute`` must be there.
    """
    assert calibrated.compute is not None
    arithmetic_s = calibrated.compute.round_s(kind, model_bytes)
    if ranks == 1:
        return arithmetic_s, arithmetic_s
    columns = max(1, model_bytes // 4)
    blocks = len(column_blocks(slice(0, columns), block_width(1, columns)))
    block_bytes = model_bytes / blocks
    if kind == "gossip":
        alone, posted = (
            float(round_s(ring_matrix(ranks), _first(cluster, ranks), block_bytes).max())
            for cluster in (
                calibrated.cluster_for(block_bytes),
                calibrated.cluster_for(block_bytes, "posted"),
            )
        )
        links_s = alone + (blocks - 1) * posted
    else:
        cluster = _first(calibrated.cluster_for(block_bytes / ranks, "copied"), ranks)
        others = np.nonzero(~np.eye(ranks, dtype=bool))
        latency_s = float(cluster.latency_s(*others).max())
        links_s = blocks * ring(
            ranks, block_bytes, latency_s, float(cluster.bandwidth_bytes_s(*others).min())
        )
    return arithmetic_s + links_s, arithmetic_s


def _first(cluster: Cluster, n: int) -> Cluster:
    """Its first n workers; links of single edges are those of workers, so they are left out."""
    return replace(cluster, n=n, hosts=cluster.hosts[:n], edges=None)


def row(calibrated: Calibrated, ranks: int, kind: str, model_bytes: int, found: Any) -> Row:
    """A row of the table from the samples of its rounds."""
    seconds, arithmetic_s = predicted_s(calibrated, kind, ranks, model_bytes)
    lower, upper = found.quartiles_s
    return Row(
        ranks, kind, model_bytes, found.mean_s, lower, upper, seconds, arithmetic_s,
        len(found.kept), 1 - float(found.disturbed.mean()),
    )  # fmt: skip
