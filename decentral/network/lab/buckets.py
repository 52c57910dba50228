"""Token buckets of a card: what ``tc`` is told, so that what a worker sends takes as long as its links say.

A card whose links are all alike has one bucket for all (``tbf``). Links that differ have a bucket each, told apart by
the receiver's address, within one of the card at the rate of its fastest link (``htb``). With ports "multi" every link
has its bucket and the card none. Receiving costs nothing, as on the clock.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decentral.network.cluster import Cluster
from decentral.network.lab.layout import address

MOST_BYTES_S = 12.5e9
"""For links that are faster, or without a limit: 100 Gb/s, more than a bridge in memory carries."""
QUEUE = 4 << 20
"""Bytes that wait before a bucket; what comes then is dropped, and TCP sends it again."""
PACKETS = 20_000
"""That netem holds back, at most."""


def burst(bytes_s: float) -> int:
    """Bytes of a bucket: what comes in a millisecond, and not less than ten packets."""
    return int(max(15_140, bytes_s / 1000))


def tc_lines(cluster: Cluster, worker: int, device: str, delays: bool) -> list[str]:
    """Lines for ``tc -batch`` on the node of ``worker``, whose card is ``device``; ``delays``: netem is there."""
    links = _links(cluster, worker)
    rates = {bytes_s for bytes_s, _ in links.values()}
    late = {delay_s for _, delay_s in links.values()} if delays else {0.0}
    if cluster.ports == "multi" or len(rates) > 1 or len(late) > 1:
        return list(_many(links, device, cluster.ports == "multi", delays))
    return list(_one(next(iter(rates), float("inf")), next(iter(late), 0.0), device))


def _links(cluster: Cluster, worker: int) -> dict[int, tuple[float, float]]:
    """Rate and delay to each worker of another host to which there is a link."""
    others = np.flatnonzero(cluster.host_of != cluster.host_of[worker])
    if cluster.between is None:
        known = np.empty(0, np.int64) if cluster.edges is None else cluster.edges.key
        others = others[np.isin(worker * cluster.n + others, known)]
    rates, delays = cluster.bandwidth_bytes_s(worker, others), cluster.latency_s(worker, others)
    return dict(zip(others.tolist(), zip(rates.tolist(), delays.tolist(), strict=True), strict=True))


def _one(bytes_s: float, delay_s: float, device: str) -> Iterator[str]:
    parent = "root"
    if bytes_s < MOST_BYTES_S:
        yield f"qdisc add dev {device} root handle 1: tbf {_rate(bytes_s)} burst {burst(bytes_s)} limit {QUEUE}"
        parent = "parent 1:1"
    if delay_s:
        yield f"qdisc add dev {device} {parent} handle 2: {_netem(delay_s)}"


def _many(links: dict[int, tuple[float, float]], device: str, multi: bool, delays: bool) -> Iterator[str]:
    fastest = min(MOST_BYTES_S, max(bytes_s for bytes_s, _ in links.values()))
    yield f"qdisc add dev {device} root handle 1: htb default 2"
    yield _class(device, "1:", 1, fastest, fastest)
    yield _class(
        device, "1:1", 2, fastest / (len(links) + 1), fastest
    )  # to whom there is no link: the lab itself
    for number, (j, (bytes_s, delay_s)) in enumerate(links.items(), start=3):
        most = min(bytes_s, MOST_BYTES_S)
        sure = most if multi else min(most, fastest / (len(links) + 1))  # together not more than the card's
        yield _class(device, "1:" if multi else "1:1", number, sure, most)
        if delays and delay_s:
            yield f"qdisc add dev {device} parent 1:{number:x} {_netem(delay_s)}"
        yield (
            f"filter add dev {device} parent 1: protocol ip prio 1 u32 match ip dst {address(j)}/32 flowid 1:{number:x}"
        )


def _class(device: str, parent: str, number: int, sure: float, most: float) -> str:
    return (
        f"class add dev {device} parent {parent} classid 1:{number:x} htb {_rate(sure)} ceil {8 * most:.0f}bit "
        f"burst {burst(sure)} cburst {burst(most)} quantum 1514"
    )


def _rate(bytes_s: float) -> str:
    return f"rate {8 * bytes_s:.0f}bit"


def _netem(delay_s: float) -> str:
    return f"netem delay {delay_s * 1e6:.3f}us limit {PACKETS}"
