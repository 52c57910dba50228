"""``[network]``: the cluster and the computing that simulated seconds stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.network import COMPUTE_TIMES, Cluster, ComputeTime, all_reduce_s
from decentral.network.cluster import Link
from decentral.network.cluster_file import cluster_of_table, read_calibrated
from decentral.network.measured import Calibrated
from decentral.tables import fields_of, from_table, pop_name
from topologies.wording import shown

_FILE_ONLY = ("latency_s", "bandwidth_bytes_s", "ports", "hosts")
WITHOUT_CLUSTER = tuple(
    f"network.{key}" for key in ("cluster", "ports", "hosts", "overlap", "all_reduce", "compute")
)
"""What a clock does not go by whose messages all have :attr:`Network.link`, and whose computing others describe."""


@dataclass(frozen=True)
class Flops:
    """A worker computes the FLOPs of its gradient, as torch counts them, at ``flops_per_s``."""

    flops_per_s: float = 1e10

    def __post_init__(self) -> None:
        if not 0 < self.flops_per_s < float("inf"):
            raise UserError(f"flops_per_s = {self.flops_per_s} must be positive and finite")


@dataclass(frozen=True)
class PerSample:
    """A worker computes ``sample_s`` for each sample of its batch, as ``decentral calibrate`` measures it."""

    sample_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.sample_s < float("inf"):
            raise UserError(f"sample_s = {self.sample_s} must be finite and not negative")


OfProblem = Flops | PerSample
"""Compute times that depend on the problem and its batches."""

COMPUTE: dict[str, Callable[..., Any]] = {"flops": Flops, "per-sample": PerSample, **COMPUTE_TIMES}
"""What ``network.compute.name`` may be."""


@dataclass(frozen=True)
class Network:
    """A cluster, how long workers compute, whether messages overlap with that, and which all-reduce it has.

    In TOML, every key with its default but ``hosts``, where there is none::

        [network]
        latency_s = 0.0               # of links between hosts, or "50 us"
        bandwidth_bytes_s = inf       # or "10 Gb/s"
        ports = "one"                 # a worker's network card, or "multi", "shared"
        overlap = false               # send what is ready before the gradient while computing
        all_reduce = "ring"           # or another of the collectives that `decentral advise` compares
        [network.hosts]               # worker i is on host i // workers; links inside hosts
        workers = 4
        latency_s = "1 us"
        bandwidth_bytes_s = "200 Gb/s"
        [network.compute]
        name = "flops"                # or per-sample, constant, shifted-exponential, lognormal, stalls, trace, ...
        flops_per_s = 1e10

    ``cluster = "FILE"`` instead of links, ports and hosts names a cluster file. If ``decentral calibrate`` has written
    it, compute "per-sample" without ``sample_s`` takes the seconds of a sample from there: those of the problem that it
    was calibrated with. ``said``: whether there was such a section at all. ``links``: the keys that describe the
    cluster.
    """

    cluster: Cluster
    compute: OfProblem | ComputeTime
    overlap: bool
    all_reduce: str
    links: Mapping[str, Any]
    compute_name: str
    said: bool

    @classmethod
    def from_table(cls, table: Mapping[str, Any], workers: int) -> Network:
        """For a run of so many workers. Raises UserError that names the key."""
        table, said = dict(table), bool(table)
        rest = from_table(_Keys, table, "network")
        links = {key: table[key] for key in ("cluster", *_FILE_ONLY) if key in table}
        calibrated = _calibrated(links, workers)
        compute = {"name": "flops", **(rest.compute or {})}
        name = pop_name(compute, "network.compute", COMPUTE)
        if name == "per-sample" and "sample_s" not in compute:
            compute["sample_s"] = _measured_sample_s(calibrated)
        network = cls(
            cluster=calibrated.cluster,
            compute=_compute(name, compute, workers),
            overlap=rest.overlap,
            all_reduce=rest.all_reduce,
            links=links,
            compute_name=name,
            said=said,
        )
        if network.cluster.between is not None or len(set(network.cluster.hosts)) == 1:
            try:
                all_reduce_s(network.all_reduce, network.cluster, 0.0)
            except UserError as error:
                raise UserError(f"network.{error}") from None
        return network

    @property
    def link(self) -> Link:
        """The one link that all messages have, where there are neither hosts nor a file of them."""
        assert self.cluster.between is not None
        return self.cluster.between

    def carry(self, channel: object, size: int) -> tuple[float, float]:
        """Seconds that a message of ``size`` bytes occupies its channel, and seconds more until it has arrived."""
        del channel
        return size / self.link.bandwidth_bytes_s, self.link.latency_s

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        free = {"latency_s": 0.0, "bandwidth_bytes_s": float("inf"), "ports": "one"}
        return {
            **(self.links if "cluster" in self.links else {**free, **self.links}),
            "overlap": self.overlap,
            "all_reduce": self.all_reduce,
            "compute": {"name": self.compute_name, **fields_of(self.compute)},
        }


@dataclass(frozen=True)
class _Keys:
    """All keys, so that a wrong one is told its neighbours; the cluster's are checked where it is made."""

    cluster: str | None = None
    latency_s: float | str = 0.0
    bandwidth_bytes_s: float | str = 0.0
    ports: str = ""
    hosts: dict[str, Any] | None = None
    overlap: bool = False
    all_reduce: str = "ring"
    compute: dict[str, Any] | None = None


def _compute(name: str, table: Mapping[str, Any], workers: int) -> Any:
    try:
        compute = from_table(COMPUTE[name], table, "network.compute", name)
        if not isinstance(compute, OfProblem):
            compute.check(workers)
        return compute
    except UserError as error:
        text = str(error)
        raise UserError(text if "network.compute" in text else f"network.compute.{text}") from None


def _measured_sample_s(calibrated: Calibrated) -> float:
    if calibrated.compute is None or not calibrated.compute.sample_s:
        raise UserError(
            'network.compute.name = "per-sample" needs sample_s, the seconds of one sample\'s gradient; set it, or '
            "let network.cluster name a file that `decentral calibrate` wrote with a problem"
        )
    return calibrated.compute.sample_s


def _calibrated(links: Mapping[str, Any], workers: int) -> Calibrated:
    if "cluster" in links:
        more = next((key for key in _FILE_ONLY if key in links), None)
        if more is not None:
            raise UserError(
                f"network.{more} = {shown(links[more])} beside network.cluster; the file says it: remove one"
            )
        try:
            return read_calibrated(Path(links["cluster"]), workers)
        except UserError as error:
            raise UserError(f"network.cluster: {error}") from None
    return Calibrated(cluster_of_table(links, workers, "network"))
