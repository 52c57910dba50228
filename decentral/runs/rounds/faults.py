"""What faults do to a method: what it cannot have, in words what it loses, in numbers what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from torch import Tensor

import topologies
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import Communicator
from decentral.comm.faults.links import Faults as FaultyLinks
from decentral.errors import UserError
from decentral.rounds.trials.messages import messages_a_round
from decentral.runs.metrics import norms
from decentral.runs.sections.faults import Faults

_ALONE = "or leave nothing but slow_workers in [faults]"


def refuse_faults(
    method: Method[Any], schedule: topologies.Schedule, faults: Faults, *, compressed: bool, compiled: bool
) -> None:
    """Raise UserError if the method, or its links, have no answer to these faults."""
    if not faults.of_links:
        return
    name = type(method).__name__
    if schedule.n == 1:
        raise UserError("[faults] are of the links between workers, and there is one worker; use 2 or more")
    if compiled:
        raise UserError(f"[faults] change W, which train.compile = true compiles; set it to false, {_ALONE}")
    if compressed:
        raise UserError(f"[faults] are for links that carry whole vectors; remove [compression], {_ALONE}")
    if "static" in traits_of(method).needs:
        raise UserError(
            f"{name} keeps at its neighbours what it has sent, which one lost or missed message breaks for good; "
            f"use a method that forgets, such as dsgd or push-sum, {_ALONE}"
        )
    sent = messages_a_round(method)
    if sent.averages and faults.absent_workers:
        raise UserError(
            f"{name} averages exactly, and an all-reduce waits for faults.absent_workers = "
            f"{list(faults.absent_workers)}; use a method that only gossips, such as dsgd"
        )
    if sent.averages and not sent.gossip:
        raise UserError(
            f"{name} does not gossip, and an all-reduce sends again what is lost; use a method that gossips, such as "
            f"dsgd, {_ALONE}"
        )
    if faults.symmetric and not all(topologies.is_symmetric(schedule.matrix(t)) for t in schedule.rounds):
        raise UserError(
            "faults.symmetric = true is for a symmetric W, and this mixing has other weights back; set it to false, or "
            "use an undirected graph with topology.weights = metropolis"
        )


def fault_notes(method: Method[Any], schedule: topologies.Schedule, faults: Faults) -> list[str]:
    """What the method loses, in words."""
    if not faults.of_links:
        return []
    found = []
    if faults.loss or faults.late:
        found.append(f"faults: {_loss_in_words(method, faults)}")
    if faults.absent_workers:
        end = "the end" if faults.return_round is None else f"round {faults.return_round}"
        found.append(
            f"faults: workers {list(faults.absent_workers)} stand still from round {faults.leave_round} to {end}, and "
            "the others go on without their data"
        )
        if not _connected_without(faults.absent_workers, schedule):
            found.append(
                "faults: without them the graph is not connected"
                + (
                    ", and workers that no weight reaches take ever larger steps"
                    if traits_of(method).pushes
                    else ""
                )
            )
    if messages_a_round(method).averages:
        found.append("faults: exact averages go by a transport that sends again: only gossip has faults")
    return found


def _connected_without(absent: Sequence[int], schedule: topologies.Schedule) -> bool:
    present = np.setdiff1d(np.arange(schedule.n), absent)
    union = sum(abs(schedule.matrix(t)) for t in schedule.rounds)[present][:, present]
    return bool(connected_components(union, connection="strong")[0] == 1)


def _loss_in_words(method: Method[Any], faults: Faults) -> str:
    if traits_of(method).pushes:
        return (
            "a sender keeps the share that is lost, and one that is late is under way: columns of the mixing sum to "
            "one, so nothing of the sum is lost, and mass stays 1"
        )
    instead = (
        "the newest vector that it has of the sender, or else its own," if faults.late else "its own vector"
    )
    if faults.symmetric and not faults.late:
        return (
            f"both ends of an edge miss each other's message and take {instead} instead: the mixing stays doubly "
            "stochastic, and the average is kept"
        )
    return (
        f"a receiver that misses a message takes {instead} instead: rows of the mixing sum to one, columns do not, so "
        "the average drifts (mean_drift_sq), and what a method keeps by columns, such as tracked gradients, goes astray"
    )


def links_with(
    faults: Faults | None, method: Method[Any], comm: Communicator, x: Tensor, seed: int
) -> FaultyLinks | None:
    """The links' faults, for models x (h, d); None where they have none."""
    if faults is None or not faults.of_links:
        return None
    return FaultyLinks(faults.fates(comm.schedule, seed), traits_of(method).pushes, comm.rows, x)


def fault_counts(comm: Communicator, state: Any) -> dict[str, float]:
    """The columns of a run with ``[faults]``.

    ``lost_messages``, ``late_messages``: of all workers. ``mean_drift_sq``: |what faults have added to the average|^2.
    ``mass``, of methods that push: the weights of all workers and under way, over n.
    """
    faults = comm.faults
    if faults is None:
        found: dict[str, float] = {"lost_messages": 0, "late_messages": 0, "mean_drift_sq": 0.0}
        under_way = []
    else:
        lost, late = faults.counts.tolist()
        drift = float(norms(comm.observe_mean(faults.drift))[0])
        found = {"lost_messages": lost, "late_messages": late, "mean_drift_sq": drift}
        under_way = [rows for number in faults.numbers for rows in number]
    if hasattr(state, "w"):
        weights = sum(under_way, state.w.double())
        found["mass"] = float(comm.observe_mean(weights))
    return found
