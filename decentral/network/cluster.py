"""The machines of a simulated run: workers on hosts, a link between any two of them, and their network cards.

A message of M bytes from worker i to worker j takes alpha + M / B seconds on its link, with alpha = ``latency_s(i, j)``
and B = ``bandwidth_bytes_s(i, j)``. Every worker has a card of its own, full duplex, and ``ports`` says how the d
messages that it sends in one round, to ascending receivers, pass through it:

- ``"one"``: one after the other, each when the one before has arrived: the k-th arrives after
  sum over m <= k of (alpha_m + M / B_m). On equal links the last one takes d (alpha + M / B).
- ``"multi"``: side by side, each at its full bandwidth: alpha_k + M / B_k.
- ``"shared"``: bytes one after the other, latencies side by side: alpha_k + sum over m <= k of M / B_m. On equal links
  the last one takes alpha + d M / B.

Receiving costs the card nothing, and workers of one host do not share a card.
This is the standard alpha-beta model of a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decentral.errors import UserError, nearest
from topologies.checks import as_csr
from topologies.wording import shown

PORTS = ("one", "multi", "shared")
"""What a worker's network card may be."""


@dataclass(frozen=True)
class Link:
    """Seconds until the first byte arrives, and bytes a second after it (``inf``: bytes cost nothing)."""

    latency_s: float
    bandwidth_bytes_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < float("inf"):
            raise UserError(f"latency_s = {self.latency_s} must be finite and not negative; 0 is none")
        if not self.bandwidth_bytes_s > 0:
            raise UserError(
                f"bandwidth_bytes_s = {self.bandwidth_bytes_s} must be positive; inf where bytes cost nothing"
            )


class EdgeLinks(NamedTuple):
    """Links of single directed edges: ``key`` = sender n + receiver, ascending; (edges,) each."""

    key: NDArray[np.int64]
    latency_s: NDArray[np.float64]
    bandwidth_bytes_s: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cluster:
    """n workers, worker i on host ``hosts[i]``, and their links; see the module for what ``ports`` means.

    A link is that of ``edges`` where it has one, else ``inside`` for two workers of one host, else ``between``.
    With ``inside`` None hosts make no difference; with ``between`` None two workers may have no link at all.
    """

    n: int
    hosts: tuple[int, ...]
    ports: str
    between: Link | None
    inside: Link | None = None
    edges: EdgeLinks | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"workers = {self.n} must be at least 1; give the number of workers")
        if len(self.hosts) != self.n:
            raise UserError(f"hosts of {len(self.hosts)} workers for {self.n}; give each worker its host")
        if self.ports not in PORTS:
            raise UserError(f"ports = {shown(self.ports)} is not known; {nearest(str(self.ports), PORTS)}")

    @classmethod
    def uniform(
        cls, n: int, latency_s: float, bandwidth_bytes_s: float, ports: str = "one", workers_a_host: int = 1
    ) -> Cluster:
        """All links alike, in and between hosts of ``workers_a_host`` consecutive workers."""
        if workers_a_host < 1:
            raise UserError(f"workers_a_host = {workers_a_host} must be at least 1")
        hosts = tuple(i // workers_a_host for i in range(n))
        return cls(n, hosts, ports, Link(latency_s, bandwidth_bytes_s))

    def latency_s(self, i: ArrayLike, j: ArrayLike) -> NDArray[np.float64]:
        """Seconds of latency from workers i to workers j, index arrays that broadcast; 0 where i = j.

        Raises UserError where there is no link.
        """
        return self._of("latency_s", 0.0, i, j)

    def bandwidth_bytes_s(self, i: ArrayLike, j: ArrayLike) -> NDArray[np.float64]:
        """Bytes a second from workers i to workers j, as in :meth:`latency_s`; ``inf`` where i = j."""
        return self._of("bandwidth_bytes_s", float("inf"), i, j)

    @cached_property
    def host_of(self) -> NDArray[np.int64]:
        """(n,) the host of each worker."""
        return np.array(self.hosts, dtype=np.int64)

    def _of(self, what: str, own: float, i: ArrayLike, j: ArrayLike) -> NDArray[np.float64]:
        i, j = np.broadcast_arrays(np.asarray(i, dtype=np.int64), np.asarray(j, dtype=np.int64))
        missing = float("nan")
        between = missing if self.between is None else getattr(self.between, what)
        found = np.full(i.shape, between, dtype=np.float64)
        if self.inside is not None:
            found[self.host_of[i] == self.host_of[j]] = getattr(self.inside, what)
        if self.edges is not None and self.edges.key.size:
            key = i * self.n + j
            at = np.minimum(np.searchsorted(self.edges.key, key), self.edges.key.size - 1)
            found = np.where(self.edges.key[at] == key, getattr(self.edges, what)[at], found)
        found[i == j] = own
        if np.isnan(found).any():
            a, b = (int(one[np.isnan(found)][0]) for one in (i, j))
            raise UserError(
                f"the cluster has no link from worker {a} to worker {b}; add the edge to its graph, or [links]"
            )
        return found


class Messages(NamedTuple):
    """The messages of one round of gossip, those to one receiver side by side.

    ``sender``: (m,) who sends each. ``delay_s``: (m,) seconds from when the sender begins to send until it has arrived.
    ``first``: (n,) where each receiver's messages begin; one of them is from itself, and takes ``own_s``, (n,), until
    the last message that it sends has arrived (0 if it sends none).
    """

    sender: NDArray[np.int64]
    delay_s: NDArray[np.float64]
    first: NDArray[np.int64]
    own_s: NDArray[np.float64]

    def arrived_s(self, start_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) when each worker's messages are here and its own have arrived, if sending begins at ``start_s`` (n,)."""
        return np.maximum.reduceat(start_s[self.sender] + self.delay_s, self.first)

    def spans(
        self, start_s: NDArray[np.float64]
    ) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Workers send until their own messages have arrived, and then wait for those of others."""
        sent_s = start_s + self.own_s
        return [("send", start_s, sent_s), ("wait", sent_s, self.arrived_s(start_s))]


def messages(w: Any, cluster: Cluster, message_bytes: float | NDArray[np.float64]) -> Messages:
    """The messages of one round of the mixing matrix ``w`` (n, n; row i receives), ``message_bytes`` each.

    ``message_bytes``: a number, or (n,), those of each sender.

    Raises UserError if w has not n workers, if a link is missing, or if message_bytes is no size. O(edges).
    """
    w = as_csr(w)
    if w.shape[0] != cluster.n:
        raise UserError(
            f"the graph has {w.shape[0]} workers and the cluster {cluster.n}; give both the same number"
        )
    receiver, sender = (index.astype(np.int64) for index in w.nonzero())  # a stored zero is no edge
    apart = receiver != sender
    return messages_between(sender[apart], receiver[apart], cluster, message_bytes)


def messages_between(
    sender: NDArray[np.int64],
    receiver: NDArray[np.int64],
    cluster: Cluster,
    message_bytes: float | NDArray[np.float64],
    awaited: NDArray[np.bool_] | None = None,
) -> Messages:
    """The messages of one round along these edges, (m,) each; a receiver waits for those that are ``awaited`` (m,).

    Without ``awaited``: for all. Errors as in :func:`messages`.
    """
    sizes = np.broadcast_to(np.asarray(message_bytes, dtype=np.float64), cluster.n)
    if not ((sizes >= 0) & np.isfinite(sizes)).all():
        raise UserError(f"message_bytes = {message_bytes} must be finite and not negative")
    order = np.lexsort((receiver, sender))
    sender, receiver = sender[order], receiver[order]
    delay_s = _delays(cluster, sender, receiver, sizes)
    sent_s = np.zeros(cluster.n)
    np.maximum.at(sent_s, sender, delay_s)
    if awaited is not None:
        here = awaited[order]
        sender, receiver, delay_s = sender[here], receiver[here], delay_s[here]
    workers = np.arange(cluster.n)
    sender, receiver = np.append(sender, workers), np.append(receiver, workers)
    order = np.lexsort((sender, receiver))
    count = np.bincount(receiver, minlength=cluster.n)
    return Messages(sender[order], np.append(delay_s, sent_s)[order], np.cumsum(count) - count, sent_s)


def round_s(w: Any, cluster: Cluster, message_bytes: float) -> NDArray[np.float64]:
    """(n,) seconds that one round of gossip by ``w`` takes each worker, if all begin at once and none computes.

    A worker is done when its neighbours' messages are here and its own have arrived. Errors as in :func:`messages`.
    """
    return messages(w, cluster, message_bytes).arrived_s(np.zeros(cluster.n))


def _delays(
    cluster: Cluster, sender: NDArray[np.int64], receiver: NDArray[np.int64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seconds until each message has arrived; messages of one sender side by side, receivers ascending."""
    latency_s = cluster.latency_s(sender, receiver)
    transfer_s = sizes[sender] / cluster.bandwidth_bytes_s(sender, receiver)
    if cluster.ports == "one":
        return _one_after_the_other(latency_s + transfer_s, sender)
    if cluster.ports == "shared":
        transfer_s = _one_after_the_other(transfer_s, sender)
    return latency_s + transfer_s


def _one_after_the_other(seconds: NDArray[np.float64], sender: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of each sender's messages up to each; not one long sum, whose differences would lose digits."""
    ended = seconds.copy()
    _, at, count = np.unique(sender, return_index=True, return_counts=True)
    for k in range(1, int(count.max(initial=0))):
        at, count = at[count > k], count[count > k]
        ended[at + k] += ended[at + k - 1]
    return ended
