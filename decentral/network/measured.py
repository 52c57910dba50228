"""What ``decentral calibrate`` measured, beyond a cluster's links: ``[compute]`` and ``[measured]`` of a cluster file.

Curves are points joined by straight lines, the first and the last line going on; so a time that is affine in the
size is met everywhere, and caches may bend it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from decentral.errors import UserError
from decentral.network.cluster import Cluster, Link
from decentral.network.units import SECONDS, quantity
from topologies.wording import shown

Quantity = float | str


@dataclass(frozen=True)
class Compute:
    """``[compute]``: seconds of a worker's own arithmetic while all others compute, too.

    ``sample_s``: of one sample's gradient, in batches of ``batch_size``; 0 where no gradient was asked for.
    ``gossip_s`` and ``all_reduce_s``: of a round's arithmetic on models of ``round_bytes``, without its messages: the
    update and W x of DSGD on a ring; the sums, copies and the update of PmSGD.
    """

    sample_s: float
    batch_size: int
    round_bytes: tuple[float, ...]
    gossip_s: tuple[float, ...]
    all_reduce_s: tuple[float, ...]

    def __post_init__(self) -> None:
        for key in ("round_bytes", "gossip_s", "all_reduce_s"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        if not 0 <= self.sample_s < float("inf"):
            raise UserError(f"compute.sample_s = {self.sample_s} must be finite and not negative")
        if self.batch_size < 1:
            raise UserError(f"compute.batch_size = {self.batch_size} must be at least 1")
        _check_sizes("compute.round_bytes", self.round_bytes)
        for key in ("gossip_s", "all_reduce_s"):
            _check_seconds(f"compute.{key}", getattr(self, key), "compute.round_bytes", self.round_bytes)

    def round_s(self, kind: str, model_bytes: float) -> float:
        """Seconds of arithmetic of a round of ``kind`` "gossip" or "all_reduce" on a model of ``model_bytes``."""
        return curve(model_bytes, self.round_bytes, getattr(self, f"{kind}_s"))


@dataclass(frozen=True)
class Measured:
    """``[measured]``: where, when and how surely; of each time the quartiles, ``..._lower_s`` and ``..._upper_s``.

    ``inside_s``, ``between_s``: trimmed means of exchanges of ``message_bytes`` both ways, inside a host, between two;
    empty where there is none. ``..._posted_s``: of ``posted_bytes``, a few under way at a time, as in a round of a
    model of many blocks. ``..._copied_s``: of ``copied_bytes``, of copies, as exact means send them. ``repetitions``:
    the fewest samples of a time. ``load_average``: of one minute, before. ``undisturbed``: the share of samples in
    which no rank had to give up its core to another program.
    """

    date: str
    hosts: tuple[str, ...]
    ranks: int
    cores: int
    load_average: float
    undisturbed: float
    repetitions: int
    problem: str
    message_bytes: tuple[float, ...]
    inside_s: tuple[float, ...] = ()
    inside_lower_s: tuple[float, ...] = ()
    inside_upper_s: tuple[float, ...] = ()
    between_s: tuple[float, ...] = ()
    between_lower_s: tuple[float, ...] = ()
    between_upper_s: tuple[float, ...] = ()
    gossip_lower_s: tuple[float, ...] = ()
    gossip_upper_s: tuple[float, ...] = ()
    all_reduce_lower_s: tuple[float, ...] = ()
    all_reduce_upper_s: tuple[float, ...] = ()
    sample_lower_s: float = 0.0
    sample_upper_s: float = 0.0
    posted_bytes: tuple[float, ...] = ()
    inside_posted_s: tuple[float, ...] = ()
    inside_posted_lower_s: tuple[float, ...] = ()
    inside_posted_upper_s: tuple[float, ...] = ()
    between_posted_s: tuple[float, ...] = ()
    between_posted_lower_s: tuple[float, ...] = ()
    between_posted_upper_s: tuple[float, ...] = ()
    copied_bytes: tuple[float, ...] = ()
    inside_copied_s: tuple[float, ...] = ()
    inside_copied_lower_s: tuple[float, ...] = ()
    inside_copied_upper_s: tuple[float, ...] = ()
    between_copied_s: tuple[float, ...] = ()
    between_copied_lower_s: tuple[float, ...] = ()
    between_copied_upper_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        for key in ("ranks", "cores", "repetitions"):
            if getattr(self, key) < 1:
                raise UserError(f"measured.{key} = {getattr(self, key)} must be at least 1")
        if not 0 <= self.undisturbed <= 1:
            raise UserError(f"measured.undisturbed = {self.undisturbed} must be in [0, 1]")
        if not 0 <= self.load_average < float("inf"):
            raise UserError(f"measured.load_average = {self.load_average} must be finite and not negative")
        for kind in ("message", "posted", "copied"):
            sizes = getattr(self, f"{kind}_bytes")
            if sizes or kind == "message":
                _check_sizes(f"measured.{kind}_bytes", sizes)
            part = "" if kind == "message" else f"_{kind}"
            for key in (f"{a}{part}{b}_s" for a in ("inside", "between") for b in ("", "_lower", "_upper")):
                if seconds := getattr(self, key):
                    _check_seconds(f"measured.{key}", seconds, f"measured.{kind}_bytes", sizes)


@dataclass(frozen=True)
class Calibrated:
    """All that a cluster file says; ``compute`` and ``measured`` are None where it has no such table."""

    cluster: Cluster
    compute: Compute | None = None
    measured: Measured | None = None

    def cluster_for(
        self, message_bytes: float, kind: Literal["message", "posted", "copied"] = "message"
    ) -> Cluster:
        """The cluster whose links carry ``message_bytes`` in the measured time: its own where none was measured.

        Latency is that of the smallest message measured, and bandwidth what is then left: caches and the protocols of
        an MPI library make it depend on the size. ``kind``: see :class:`Measured`; "message" where that was not
        measured.
        """
        links, measured = {}, self.measured
        for where in ("inside", "between"):
            if measured is None or getattr(self.cluster, where) is None:
                continue
            sizes, seconds = measured.message_bytes, getattr(measured, f"{where}_s")
            if kind != "message" and (special := getattr(measured, f"{where}_{kind}_s")):
                sizes, seconds = getattr(measured, f"{kind}_bytes"), special
            if seconds:
                links[where] = link_at(message_bytes, sizes, seconds)
        return replace(self.cluster, **links)  # type: ignore[arg-type]


def link_at(message_bytes: float, sizes: ArrayLike, seconds: ArrayLike) -> Link:
    """The link that carries ``message_bytes`` as fast as the curve (sizes, seconds), which is not let fall."""
    rising = np.maximum.accumulate(np.asarray(seconds, dtype=float))
    latency_s = float(rising[0])
    rest_s = curve(message_bytes, sizes, rising) - latency_s
    if message_bytes <= 0 or rest_s <= 0:
        return Link(latency_s, float("inf"))
    return Link(latency_s, message_bytes / rest_s)


def curve(x: float, xs: ArrayLike, ys: ArrayLike) -> float:
    """The value at x of straight lines through the points (xs ascending, ys), the outer ones going on; at least 0."""
    xs, ys = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    if len(xs) == 1:
        return float(ys[0])
    k = int(np.clip(np.searchsorted(xs, x) - 1, 0, len(xs) - 2))
    slope = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    return max(0.0, float(ys[k] + slope * (x - xs[k])))


def compute_of(
    round_bytes: tuple[float, ...],
    gossip_s: tuple[float, ...],
    all_reduce_s: tuple[float, ...],
    sample_s: Quantity = 0.0,
    batch_size: int = 1,
) -> Compute:
    """:class:`Compute` of the keys of a table, with a unit where the text says one."""
    return Compute(
        quantity(sample_s, "compute.sample_s", SECONDS), batch_size, round_bytes, gossip_s, all_reduce_s
    )


def _check_sizes(key: str, sizes: tuple[float, ...]) -> None:
    rising = bool(sizes) and sizes[0] > 0 and all(a < b for a, b in pairwise(sizes))  # false with a NaN
    if not (rising and sizes[-1] < float("inf")):
        raise UserError(f"{key} = {shown(list(sizes))} must be positive numbers of bytes, ascending")


def _check_seconds(key: str, seconds: tuple[float, ...], of: str, sizes: tuple[float, ...]) -> None:
    if len(seconds) != len(sizes):
        raise UserError(f"{key} has {len(seconds)} numbers for {len(sizes)} of {of}; give one for each")
    if not all(0 <= s < float("inf") for s in seconds):
        raise UserError(f"{key} = {shown(list(seconds))} must be finite and not negative")
