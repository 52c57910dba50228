"""Where a network of L layers is cut into K stages: evenly, by hand, or so that the dearest stage is cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from decentral.errors import UserError
from decentral.stages.layers import Network
from topologies.wording import shown


def cut_evenly(layers: int, stages: int) -> list[range]:
    """Stages of as many layers each as can be; the first ones have one more."""
    _check(layers, stages)
    edges = [-(-layers * k // stages) for k in range(stages + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def cut_at(layers: int, edges: Sequence[int]) -> list[range]:
    """Stages that begin at layer 0 and at each of ``edges``, which ascend strictly inside 1 .. L - 1."""
    whole = [0, *edges, layers]
    if any(a >= b for a, b in pairwise(whole)):
        raise UserError(
            f"stages.cut = {list(edges)} should be ascending layers between 1 and {layers - 1} where stages begin"
        )
    return [range(a, b) for a, b in pairwise(whole)]


def cut_by_cost(costs: Sequence[float], stages: int) -> list[range]:
    """The cut whose dearest stage costs least; ``costs`` of each layer. Of equal ones, the earliest edges.

    By dynamic programming over (stages used, layers covered), which is exact.
    """
    layers = len(costs)
    _check(layers, stages)
    before = [0.0, *accumulate(costs)]
    best: list[tuple[float, list[int]]] = [(before[b], [0, b]) for b in range(layers + 1)]  # one stage
    for used in range(2, stages + 1):
        fresh: list[tuple[float, list[int]]] = [(float("inf"), [])] * (layers + 1)
        for b in range(used, layers + 1):
            fresh[b] = min(
                (max(best[a][0], before[b] - before[a]), [*best[a][1], b]) for a in range(used - 1, b)
            )
        best = fresh
    return [range(a, b) for a, b in pairwise(best[layers][1])]


def check_ties(network: Network, spans: Sequence[range]) -> None:
    """Raise UserError for a parameter in two stages, which would each have a copy and train it apart."""
    stage_of = {i: k for k, span in enumerate(spans) for i in span}
    held: dict[int, int] = {}  # the parameter's id -> its stage
    for i, layer in enumerate([*network.layers, network.head]):
        own = stage_of.get(i, len(spans) - 1)
        for name, p in layer.named_parameters():
            if held.setdefault(id(p), own) != own:
                raise UserError(
                    f"{shown(name)} of layer {i} is tied to a parameter of stage {held[id(p)]}, and would be of stage "
                    f"{own} too; cut so that one stage has both, or untie them"
                )


def _check(layers: int, stages: int) -> None:
    if not 1 <= stages <= layers:
        raise UserError(f"stages.count = {stages}: the network has {layers} layers, so 1 to {layers} stages")
