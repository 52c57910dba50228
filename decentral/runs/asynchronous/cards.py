"""The network cards of a cluster's workers, for messages that leave whenever they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from decentral.network import Cluster
from decentral.runs.asynchronous.worker import MODELS
from decentral.runtime.clock import VirtualClock
from decentral.runtime.requests import Channel


class Cards:
    """A link of :class:`VirtualClock`: (seconds a message occupies its channel, seconds more until it arrives).

    As in :mod:`decentral.network.cluster`, with M bytes, latency alpha and B bytes a second of the edge, a message that
    worker i hands to its card at the time s arrives at

        "one"     max(s, f_i) + alpha + M / B, and so long the card is busy with it
        "shared"  max(s, f_i) + M / B + alpha, the card being busy for M / B
        "multi"   max(s, f_ij) + M / B + alpha, each edge having a port of its own, busy for M / B

    where f is when the card (the port) is free again. ``edges``: directed, (from, to). Channels of other
    things than models cost nothing. Raises UserError if the cluster has no link for an edge.
    """

    def __init__(self, cluster: Cluster, edges: Iterable[tuple[int, int]]) -> None:
        self.ports = cluster.ports
        pairs = list(edges)
        i, j = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        seconds = zip(cluster.latency_s(i, j).tolist(), cluster.bandwidth_bytes_s(i, j).tolist(), strict=True)
        self.links = dict(zip(pairs, seconds, strict=True))
        self.free_s: defaultdict[int, float] = defaultdict(float)  # by worker
        self.clock: VirtualClock | None = None

    def of(self, clock: VirtualClock) -> Cards:
        """These, of the messages that this clock carries."""
        self.clock = clock
        return self

    def __call__(self, channel: Channel, size: int) -> tuple[float, float]:
        """See the class. To be called once for each message, in the order that they are sent."""
        if channel.name != MODELS:
            return 0.0, 0.0
        link = self.links[channel.source, channel.target]
        assert self.clock is not None
        latency_s, transfer_s = link[0], size / link[1]
        if self.ports == "multi":
            return transfer_s, latency_s
        busy_s = transfer_s if self.ports == "shared" else latency_s + transfer_s
        # the channel may be free before the card: it is held until the card has done
        begin_s = max(self.clock.now, self.clock.line(channel).free_at_s)
        end_s = max(self.clock.now, self.free_s[channel.source]) + busy_s
        occupied_s = max(0.0, end_s - begin_s)
        self.free_s[channel.source] = (
            begin_s + occupied_s
        )  # the driver's own sum, so channels keep their order
        return occupied_s, latency_s if self.ports == "shared" else 0.0
