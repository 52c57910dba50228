"""The edges of a graph dealt to matchings: an edge colouring, one matching a colour."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from topologies.deferred import Deferred
from topologies.support import workers

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = Deferred("networkx")

Matching = list[tuple[int, int]]


def matchings(graph: nx.Graph) -> list[Matching]:
    """The edges (i, j), i < j, of an undirected graph, dealt to matchings: sets in which no worker occurs twice.

    Delta matchings, the largest degree, where the graph is bipartite, else at most Delta + 1. Workers are
    numbered as in a mixing matrix; self loops are left out. O(m (n + Delta^2)) for m edges.
    Reference: Misra and Gries 1992 (edge colouring, a constructive proof of Vizing's theorem).
    """
    if graph.is_directed():
        raise ValueError(
            f"matchings are of undirected graphs ({graph.name or 'this one'} is directed); "
            "use symmetric-exponential, say, or graph.to_undirected()"
        )
    number = {worker: i for i, worker in enumerate(workers(graph))}
    pairs = ((number[a], number[b]) for a, b in graph.edges())
    edges = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    two_sided = nx.is_bipartite(nx.Graph(edges))
    colours = max(Counter(chain.from_iterable(edges)).values(), default=0) + (not two_sided)
    partner: list[dict[int, int]] = [{} for _ in number]  # of each worker: colour -> neighbour
    for u, v in edges:
        both = _free_colour({*partner[u], *partner[v]})
        if both < colours:
            _rotate(partner, u, [v], both)
            continue
        # In a bipartite graph no path of two colours, one free at u and one at v, joins them: v alone will do.
        fan = [v] if two_sided else _fan(partner, u, v)
        free, freed = _free_colour({*partner[u]}), _free_colour({*partner[fan[-1]]})
        _swap_along_path(partner, u, free, freed)
        last = next(k for k, w in enumerate(fan) if freed not in partner[w])
        _rotate(partner, u, fan[: last + 1], freed)
    found: dict[int, Matching] = {}
    for i, neighbours in enumerate(partner):
        for colour, j in neighbours.items():
            if i < j:
                found.setdefault(colour, []).append((i, j))
    return [found[colour] for colour in sorted(found)]


# a colour is free at a worker none of whose edges has it


def _free_colour(held: set[int]) -> int:
    return next(colour for colour in range(len(held) + 1) if colour not in held)


def _fan(partner: list[dict[int, int]], u: int, v: int) -> list[int]:
    """Neighbours of u, from v on, so that the colour of the edge to each is free at the one before; maximal."""
    fan, left = [v], dict(partner[u])
    while (colour := next((c for c in left if c not in partner[fan[-1]]), None)) is not None:
        fan.append(left.pop(colour))
    return fan


def _swap_along_path(partner: list[dict[int, int]], u: int, free: int, other: int) -> None:
    """Exchange two colours on the path of edges from u that have the ``other`` and the ``free`` in turn."""
    path, colours = [u], (other, free)
    while (following := partner[path[-1]].get(colours[(len(path) - 1) % 2])) is not None:
        path.append(following)
    for w in path:
        held = {colour: partner[w].pop(colour) for colour in colours if colour in partner[w]}
        partner[w] |= {free if colour == other else other: w2 for colour, w2 in held.items()}


def _rotate(partner: list[dict[int, int]], u: int, fan: list[int], last: int) -> None:
    """Each edge from u to the fan takes the colour of the next one, and the last edge the colour ``last``."""
    colour_of = {w: colour for colour, w in partner[u].items()}
    colours = [colour_of[w] for w in fan[1:]]
    for w, colour in zip(fan[1:], colours, strict=True):
        del partner[u][colour], partner[w][colour]
    for w, colour in zip(fan, [*colours, last], strict=True):
        partner[u][colour], partner[w][colour] = w, u
