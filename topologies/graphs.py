"""Deterministic graphs: who talks to whom, with workers 0..n-1 in order and no self loops.

A graph remembers its name in ``graph.graph["name"]`` and, where it has one, its shape (``rows``,
``group_size``); drawings use these, mixing matrices do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from topologies.deferred import Deferred
from topologies.room import refuse_beyond_room
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")


MOST_WORKERS = 10_000_000
_NODE_BYTES, _EDGE_BYTES = 250, 100  # of a networkx graph, at the least


def require_workers(name: str, n: int, edges: float = 0) -> None:
    """Refuse a number of workers that is not a positive integer, or whose graph of so many edges has no room."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise ValueError(f"{name} needs an integer number of workers (n = {shown(n)}); use n = 8, say")
    if n < 1:
        raise ValueError(f"{name} needs at least one worker (n = {n}); use 1 or more")
    if n > MOST_WORKERS:
        raise ValueError(f"{name} has {MOST_WORKERS:,} workers at the most (n = {shown(n)}); use fewer")
    size = _NODE_BYTES * n + _EDGE_BYTES * edges
    refuse_beyond_room(size, f"{name} of {n:,} workers", "use fewer workers or edges")


def build(name: str, n: int, edges: Iterable[tuple[int, int]], directed: bool = False) -> nx.Graph:
    """Graph with nodes 0..n-1 in order; an edge from a worker to itself is dropped."""
    graph = nx.DiGraph(name=name) if directed else nx.Graph(name=name)
    graph.add_nodes_from(range(n))
    graph.add_edges_from((i, j) for i, j in edges if i != j)
    return graph


def ring(n: int) -> nx.Graph:
    """Cycle: worker i talks to i-1 and i+1 (n = 2: one edge, n = 1: none)."""
    require_workers("ring", n)
    return build("ring", n, ((i, (i + 1) % n) for i in range(n)))


def path(n: int) -> nx.Graph:
    """Line: a ring without the edge that closes it."""
    require_workers("path", n)
    return build("path", n, ((i, i + 1) for i in range(n - 1)))


def grid(n: int, rows: int | None = None) -> nx.Graph:
    """Two-dimensional grid, row by row, as near to a square as the divisors of n allow.

    A prime n has one row only and is a path; ``rows`` chooses another divisor.
    """
    require_workers("grid", n)
    rows = _rows("grid", n, rows)
    columns = n // rows
    across = ((i, i + 1) for i in range(n) if (i + 1) % columns)
    down = ((i, i + columns) for i in range(n - columns))
    graph = build("grid", n, [*across, *down])
    graph.graph["rows"] = rows
    return graph


def torus(n: int, rows: int | None = None) -> nx.Graph:
    """Grid whose rows and columns are closed to rings.

    A side of 2 has one edge where two would coincide, and a side of 1 none: with a prime n it is a ring.
    """
    require_workers("torus", n)
    rows = _rows("torus", n, rows)
    columns = n // rows
    across = ((i, i - i % columns + (i + 1) % columns) for i in range(n))
    down = ((i, (i + columns) % n) for i in range(n))
    graph = build("torus", n, [*across, *down])
    graph.graph["rows"] = rows
    return graph


def hypercube(n: int) -> nx.Graph:
    """Worker i talks to each i XOR 2^k; n must be a power of two."""
    require_workers("hypercube", n)
    dimension = n.bit_length() - 1
    if n != 1 << dimension:
        remedy = f"use {1 << dimension} or {2 << dimension}"
        raise ValueError(f"hypercube needs a power of two workers (n = {n}); {remedy}")
    return build("hypercube", n, ((i, i ^ (1 << k)) for i in range(n) for k in range(dimension)))


def star(n: int) -> nx.Graph:
    """Worker 0 in the centre talks to everyone; nobody else does."""
    require_workers("star", n)
    return build("star", n, ((0, i) for i in range(1, n)))


def complete(n: int) -> nx.Graph:
    """Everyone talks to everyone."""
    require_workers("complete", n)
    require_workers("complete", n, edges=n * (n - 1) / 2)
    return build("complete", n, ((i, j) for i in range(n) for j in range(i)))


def tree(n: int, branching: int = 2) -> nx.Graph:
    """Full tree filled level by level from its root 0; binary by default."""
    require_workers("tree", n)
    if branching < 1:
        raise ValueError(f"tree needs at least one child a node (branching = {branching}); use 2, say")
    return build("tree", n, (((i - 1) // branching, i) for i in range(1, n)))


def exponential(n: int) -> nx.DiGraph:
    """Static exponential, directed: i sends to i + 2^j mod n for every 2^j < n.

    Reference: Assran et al. 2019 (arXiv 1811.10792); Ying et al. 2021 (arXiv 2110.13363).
    """
    require_workers("exponential", n)
    require_workers("exponential", n, edges=n * math.log2(n))
    return build("exponential", n, _jumps(n, 2), directed=True)


def symmetric_exponential(n: int, base: int = 2) -> nx.Graph:
    """Static exponential without directions: i talks to i +- base^j mod n for every base^j < n."""
    require_workers("symmetric-exponential", n)
    if base < 2:
        raise ValueError(f"symmetric-exponential needs a base above 1 (base = {base}); use 2 or 4")
    require_workers("symmetric-exponential", n, edges=n * math.log(n, base) / 2)
    return build("symmetric-exponential", n, _jumps(n, base))


def ring_of_cliques(n: int, clique_size: int = 4) -> nx.Graph:
    """Complete groups, each joined to the next by one edge, in a ring; with n <= clique_size one clique."""
    groups = _groups("ring-of-cliques", n, "clique_size", clique_size)
    size = n // groups
    inside = ((i, j) for i in range(n) for j in range(i - i % size, i))
    # The edge leaves a group by its second worker (if it has one) and arrives at the next group's first.
    between = ((k * size + min(1, size - 1), (k + 1) * size % n) for k in range(groups) if groups > 1)
    graph = build("ring-of-cliques", n, [*inside, *between])
    graph.graph["group_size"] = size
    return graph


def hierarchical(n: int, group_size: int = 4) -> nx.Graph:
    """Machines on a ring: everyone talks to everyone in its own group and in the two neighbouring groups.

    With Metropolis weights this is gossip of whole machines, W = W_ring kron (11'/L) for groups of L workers,
    and has the gap of a ring of n / L. A real machine averages inside first and so sends fewer messages than
    the 3 L - 1 a worker sends here. With n <= group_size it is one group.
    """
    groups = _groups("hierarchical", n, "group_size", group_size)
    size = n // groups
    near = {(k, m) for k in range(groups) for m in (k, (k + 1) % groups)}
    edges = ((k * size + i, m * size + j) for k, m in sorted(near) for i in range(size) for j in range(size))
    graph = build("hierarchical", n, edges)
    graph.graph["group_size"] = size
    return graph


def _jumps(n: int, base: int) -> list[tuple[int, int]]:
    """Edges i -> i + base^j mod n for every base^j < n."""
    offsets = [1]
    while offsets[-1] * base < n:
        offsets.append(offsets[-1] * base)
    return [(i, (i + offset) % n) for i in range(n) for offset in offsets]


def _divisors(n: int) -> list[int]:
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return sorted({*small, *(n // k for k in small)})


def _rows(name: str, n: int, rows: int | None) -> int:
    """The rows asked for, or the largest divisor of n that is not above its square root."""
    if rows is None:
        return max(k for k in _divisors(n) if k * k <= n)
    if rows < 1 or n % rows:
        divisors = ", ".join(map(str, _divisors(n)))
        raise ValueError(f"{name} of {n} workers cannot have {rows} rows; use a divisor of n: {divisors}")
    return rows


def _groups(name: str, n: int, parameter: str, size: int) -> int:
    """How many groups of ``size`` n workers make; one if n is not above it."""
    require_workers(name, n)
    if size < 1 or (n > size and n % size):
        divisors = ", ".join(map(str, _divisors(n)))
        rule = f"needs workers in groups of equal size (n = {n}, {parameter} = {size})"
        raise ValueError(f"{name} {rule}; use {parameter} = a divisor of n: {divisors}")
    require_workers(name, n, edges=n * (min(n, size) - 1) / 2)
    return max(1, n // size)
