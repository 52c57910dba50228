"""The graph of a mixing matrix that does not change, as each of its workers sees it."""

from __future__ import annotations

import topologies
from decentral.algorithms.asynchronous.side import Neighbourhood


def edges_of(mixing: topologies.Schedule) -> list[tuple[int, int]]:
    """The directed edges (from, to)."""
    receiver, sender = mixing.matrix(0).nonzero()
    return [(int(j), int(i)) for i, j in zip(receiver, sender, strict=True) if i != j]


def neighbourhoods(mixing: topologies.Schedule, seed: int) -> list[Neighbourhood]:
    """Each worker's neighbours, and its column of the mixing matrix."""
    w = mixing.matrix(0)
    columns, own = w.tocsc(), w.diagonal()
    into: list[list[int]] = [[] for _ in range(mixing.n)]
    for source, target in edges_of(mixing):
        into[target].append(source)
    found = []
    for i in range(mixing.n):
        begin, end = columns.indptr[i : i + 2]
        shares = {
            int(j): float(share)
            for j, share in zip(columns.indices[begin:end], columns.data[begin:end], strict=True)
            if share and j != i
        }
        targets = tuple(sorted(shares))
        weights = tuple(shares[j] for j in targets)
        found.append(Neighbourhood(i, seed, targets, tuple(sorted(into[i])), weights, float(own[i])))
    return found
