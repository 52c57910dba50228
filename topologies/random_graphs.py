"""Random graphs: drawn from a seed, and drawn again until they are connected.

The first draw is the one networkx makes from the same seed; later draws continue the same generator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from topologies.deferred import Deferred
from topologies.graphs import build, require_workers

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

DRAWS, DRAWN_WORKERS = 100, 200_000
"""Draws before a graph that stays disconnected is refused: fewer, but three, where they would have more workers."""

REWIRED = 1e8
"""Tries of a watts-strogatz graph to rewire its edges, twice those it can be expected to need."""

EXACT_PAIRS = 2048
"""Workers up to which Erdos-Renyi tosses a coin for each pair; above, it jumps from edge to edge."""


def random_regular(n: int, degree: int = 4, seed: int = 0) -> nx.Graph:
    """Uniformly random graph in which every worker has ``degree`` neighbours; with n <= degree, complete."""
    require_workers("random-regular", n)
    k = min(degree, n - 1)
    if degree < 1 or n * k % 2:
        rule = f"random-regular needs degree >= 1 and an even n * degree (n = {n}, degree = {degree})"
        raise ValueError(f"{rule}; use degree = {max(2, degree + 1)}")
    if k == 1 and n > 2:
        raise ValueError(f"random-regular of degree 1 is never connected (n = {n}); use degree = 2 or more")
    require_workers("random-regular", n, edges=n * k / 2)
    return _draw("random-regular", n, seed, lambda rng: _regular(n, k, rng), "degree")


def _regular(n: int, k: int, rng: random.Random) -> nx.Graph:
    """Of many edges networkx pairs ends for ever: there it is the complement of one of few, just as random."""
    if 2 * k > n > 64 or (n > 32 and 5 * k > 4 * n):
        return nx.complement(nx.random_regular_graph(n - 1 - k, n, seed=rng))
    return nx.random_regular_graph(k, n, seed=rng)


def erdos_renyi(n: int, p: float | None = None, seed: int = 0) -> nx.Graph:
    """Each pair is joined with probability p; by default 1.5 ln(n) / n."""
    require_workers("erdos-renyi", n)
    chance = min(1.0, 1.5 * math.log(max(n, 2)) / n) if p is None else p
    if not 0 <= chance <= 1:
        raise ValueError(f"erdos-renyi needs a probability between 0 and 1 (p = {p}); use p = 0.3, say")
    require_workers("erdos-renyi", n, edges=chance * n * (n - 1) / 2)
    sample = nx.erdos_renyi_graph if n <= EXACT_PAIRS else nx.fast_gnp_random_graph
    return _draw("erdos-renyi", n, seed, lambda rng: sample(n, chance, seed=rng), "p")


def watts_strogatz(n: int, k: int = 4, p: float = 0.3, seed: int = 0) -> nx.Graph:
    """Small world: each talks to its k nearest on a ring, edges rewired with chance p; complete if n <= k."""
    require_workers("watts-strogatz", n)
    if k < 2 or k % 2:
        raise ValueError(
            f"watts-strogatz needs an even k of 2 or more (k = {k}); use k = {max(2, k + k % 2)}"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"watts-strogatz needs a probability between 0 and 1 (p = {p}); use p = 0.3, say")
    require_workers("watts-strogatz", n, edges=n * min(k, n - 1) / 2)
    if k < n - 1 and p * n * k * n / (n - 1 - k) > REWIRED:
        raise ValueError(
            f"watts-strogatz finds too few places for rewired edges (n = {n}, k = {k}, p = {p}); use a smaller k, "
            f"or k = {n}, which is complete"
        )
    # networkx calls k = n complete.
    return _draw(
        "watts-strogatz", n, seed, lambda rng: nx.watts_strogatz_graph(n, min(k, n), p, seed=rng), "k"
    )


def geometric(n: int, radius: float | None = None, seed: int = 0) -> nx.Graph:
    """Workers thrown into the unit square, joined where nearer than ``radius``.

    By default the radius is 1.5 sqrt(ln(n) / (pi n)), half again the threshold of connectivity. The places
    stay on the nodes as ``pos``.
    """
    require_workers("geometric", n)
    reach = 1.5 * math.sqrt(math.log(max(n, 2)) / (math.pi * n)) if radius is None else radius
    if not reach > 0:
        raise ValueError(f"geometric needs a positive radius (radius = {radius}); use radius = 0.5, say")
    nearest = math.pi / 4 * min(1.0, reach) ** 2  # of all others, to one in a corner
    require_workers("geometric", n, edges=nearest * n * (n - 1) / 2)
    return _draw("geometric", n, seed, lambda rng: nx.random_geometric_graph(n, reach, seed=rng), "radius")


def _draw(
    name: str, n: int, seed: int, sample: Callable[[random.Random], nx.Graph], parameter: str
) -> nx.Graph:
    """First connected sample, with nodes in order."""
    rng = random.Random(seed)
    draws = max(3, min(DRAWS, DRAWN_WORKERS // n))
    for _ in range(draws):
        drawn = sample(rng)
        if nx.is_connected(drawn):
            graph = build(name, n, drawn.edges)
            graph.add_nodes_from(drawn.nodes(data=True))
            return graph
    rule = f"{name} was disconnected in {draws} draws (n = {n}, seed = {seed})"
    raise ValueError(f"{rule}; raise {parameter}")
