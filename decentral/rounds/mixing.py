"""The mixing that a method has on a topology: by a rule of weights, or by the matrices that it makes of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import topologies
from decentral.algorithms.traits import Described, maker_of, traits_of
from decentral.errors import UserError
from topologies import named
from topologies.wording import shown

if TYPE_CHECKING:
    import networkx as nx


def rule_for(method: Described | None, name: str, weights: object) -> str | None:
    """The rule of the weights on topology ``name``: that asked for, else the method's; None where there is no choice.

    Raises UserError that begins with the key ``weights`` if one is asked for there, or if it is no text.
    """
    if weights is not None and name in topologies.SCHEDULES:
        raise UserError(f"weights = {shown(weights)}: {name} has weights of its own; remove the key")
    if weights is not None and maker_of(method):
        raise UserError(
            f"weights = {shown(weights)}: {type(method).__name__} makes its own weights; remove the key"
        )
    if not isinstance(weights, str | None):
        raise UserError(f"weights = {shown(weights)} should be a rule's name or a matrix file's path")
    if weights is not None or name in topologies.SCHEDULES:
        return weights
    own = traits_of(method).weights
    # "files" makes a schedule, whatever the method would make of a graph
    return own or "metropolis" if name == "files" else own


def mixing_for(
    method: Described | None, name: str, built: nx.Graph | topologies.Schedule, weights: str | None
) -> topologies.Schedule:
    """The checked mixing of topology ``name`` as it was built, by the rule that :func:`rule_for` gave.

    Raises UserError that begins with the key ``name`` where both the method and the topology make a schedule, and
    ValueError for weights that do not fit the graph.
    """
    make = maker_of(method)
    if make and isinstance(built, topologies.Schedule):
        raise UserError(
            f"name = {name!r} changes already, and {type(method).__name__} makes a schedule of a graph; use a graph "
            "such as ring, or algorithm.name = dsgd"
        )
    return named.mixing(built, weights, make)
