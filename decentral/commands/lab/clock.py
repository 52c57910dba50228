"""The network of an experiment beside that of the lab it runs in: which lab, and what the simulated clock goes by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentral.commands.lab.asked import Asked
from decentral.errors import UserError
from decentral.network.cluster import Cluster
from decentral.runs.experiment import Experiment, load
from decentral.runs.reading import resolved

_OF_LINKS = ("cluster", "latency_s", "bandwidth_bytes_s", "ports", "hosts")


def cluster_for(asked: Asked, experiment: Experiment) -> Cluster:
    """What is asked for; where that is nothing, the ``[network]`` of the file, a rank for each worker.

    Raises UserError where it has more ranks than some run has parts, or the file no network or several.
    """
    parts = min(_parts(planned.config) for planned in experiment.runs)
    if asked.hosts is None and asked.nodes is None:
        if asked.of_links:
            raise UserError(f"{asked.of_links[0]} of how many nodes? give --nodes N, too")
        return _own(experiment, parts)
    cluster = asked.cluster(parts if asked.hosts is not None else None)
    if cluster.n > parts:
        each = "" if cluster.n == asked.nodes else f" with {asked.ranks_per_node} ranks each"
        raise UserError(
            f"--nodes {asked.nodes}{each} need {cluster.n} workers or stages, but the run has {parts}; give at most "
            f"{parts} ranks, or set topology.workers"
        )
    return cluster


def for_the_clock(
    asked: Asked, cluster: Cluster, file: Path, overrides: Sequence[str], experiment: Experiment
) -> tuple[list[str], str]:
    """Overrides that give the simulated clock the lab's network, and a note: where it has another, or none."""
    if not asked.of_links and asked.hosts is None:
        return [], ""
    if any(_own_links(planned.config) for planned in experiment.runs):
        return [], "the simulated clock goes by the file's own [network], and the lab by the command line"
    if any(not hasattr(planned.config, "network") for planned in experiment.runs):
        return [], "runs of this kind have no simulated clock"
    more = _of_file(asked.hosts) if asked.hosts is not None else _of_links(cluster, experiment)
    try:
        load(file, [*overrides, *more])
    except UserError as error:
        return [], f"the simulated clock cannot go by the lab's network: {error}"
    workers = max(planned.config.workers for planned in experiment.runs)
    if workers > cluster.n:
        return (
            more,
            f"{workers} workers on {cluster.n} ranks: the clock gives each a card, the lab one to each rank",
        )
    return more, ""


def _of_file(hosts: Path) -> list[str]:
    return [f"network.cluster={json.dumps(str(hosts.absolute()))}"]


def _of_links(cluster: Cluster, experiment: Experiment) -> list[str]:
    assert cluster.between is not None
    found = [
        f"network.latency_s={cluster.between.latency_s!r}",
        f"network.bandwidth_bytes_s={cluster.between.bandwidth_bytes_s!r}",
    ]
    if (nodes := len(set(cluster.hosts))) < cluster.n:
        each = min(planned.config.workers for planned in experiment.runs) // nodes
        found.append(f"network.hosts={{workers={max(each, 1)}, latency_s=0.0, bandwidth_bytes_s=inf}}")
    return found


def _own(experiment: Experiment, parts: int) -> Cluster:
    clusters = {
        json.dumps(_own_links(planned.config), sort_keys=True): planned for planned in experiment.runs
    }
    if len(clusters) > 1:
        raise UserError(
            "the runs of this sweep have different [network]; give --nodes and --bandwidth, or --hosts"
        )
    config: Any = experiment.runs[0].config
    if not _own_links(config):
        raise UserError(
            "a lab of how many nodes? give --nodes N, or --hosts with a cluster file, or links in the file's [network]"
        )
    cluster: Cluster = config.network.cluster
    if parts != cluster.n:
        raise UserError(
            f"[network] describes {cluster.n} workers for {parts} ranks; give --nodes, or --hosts"
        )
    return cluster


def _own_links(config: Any) -> dict[str, Any]:
    """What the file says of links."""
    network = getattr(config, "network", None)
    return {key: network.links[key] for key in _OF_LINKS if key in network.links} if network else {}


def _parts(config: Any) -> int:
    """How many ranks could have a part of the run; who acts or attacks has one beside each rank of workers."""
    table = resolved(config)
    if "assistant" in table:
        return 2  # it, and the one that learns
    beside = table["problem"].get("actor_ranks", 0) + table.get("adversarial", {}).get("attackers", False)
    own = table.get("dataflow", {}).get("workers")
    return int(own or config.workers * table.get("stages", {}).get("count", 1) * (1 + beside))
