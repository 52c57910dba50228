"""The machine at hand as a cluster: all measurements of a calibration, and what they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from decentral.comm.world import World
from decentral.commands.calibration.arithmetic import KINDS, ROUND_BYTES, gradients, ring_matrix, rounds
from decentral.commands.calibration.links import MESSAGE_BYTES, WALKS, fit, host_size, partners, walk
from decentral.commands.calibration.sampling import Samples, core_count, undisturbed
from decentral.network.cluster import Cluster, Link
from decentral.network.measured import Calibrated, Compute, Measured
from decentral.runs.rounds.config import RoundsRun

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Machine:
    """The ranks of ``world``: the names of their hosts, ranks a host, cores, and whether ranks outnumber them."""

    world: World
    names: list[str]
    host_ranks: int
    cores: int
    crowded: bool
    load_average: float

    @classmethod
    def of(cls, world: World) -> Machine:
        """Look at the hosts; raises UserError where a cluster file cannot describe them. Every rank calls it."""
        names = world.host_names()
        cores, crowded = core_count(world, names)
        load = world.agree(load_average())[0]
        return cls(world, names, host_size(names), cores, crowded, load)

    def works(self, config: RoundsRun | None) -> dict[Key, Callable[[], None]]:
        """All that a calibration times: exchanges, rounds without messages, and gradients of ``config``, if any."""
        world = self.world
        works: dict[Key, Callable[[], None]] = {}
        for where, others in partners(world.ranks, self.host_ranks).items():
            partner = others[world.rank]
            for name, way in WALKS.items():
                for size in way.sizes:
                    for exchanges in (True, False):
                        key = f"{where}{name}", size, exchanges
                        works[key] = walk(world, partner, size, exchanges, way)
        comm = world.without_messages(ring_matrix(world.ranks))
        for kind in KINDS:
            for size in ROUND_BYTES:
                works[kind, size] = rounds(comm, kind, size)
        if config is not None:
            works["gradient",] = gradients(config, world.rank)[0]
        return works

    def calibrated(
        self, found: Mapping[Key, Samples], config: RoundsRun | None, problem: str = ""
    ) -> Calibrated:
        """What the samples of :meth:`works` say."""
        mine = [one for key, one in found.items() if key[0] != "round"]
        links, spread = _links(found)
        rounds_s, spread_of_rounds = _rounds(found)
        batch, sample_s, lower, upper = 1, 0.0, 0.0, 0.0
        if config is not None:
            gradient = found["gradient",]
            batch = int(config.train.batch_size)
            sample_s = gradient.mean_s / batch
            lower, upper = gradient.quartiles_s
        ranks = self.world.ranks
        hosts = tuple(i // self.host_ranks for i in range(ranks))
        return Calibrated(
            Cluster(ranks, hosts, "one", links.get("between"), links.get("inside")),
            Compute(sample_s, batch, ROUND_BYTES, **rounds_s),
            Measured(
                date=datetime.now(UTC).isoformat(timespec="seconds"),
                hosts=tuple(dict.fromkeys(self.names)),
                ranks=ranks,
                cores=self.cores,
                load_average=self.load_average,
                undisturbed=undisturbed(mine),
                repetitions=min(len(one.kept) for one in mine),
                problem=problem,
                message_bytes=MESSAGE_BYTES,
                posted_bytes=WALKS["_posted"].sizes if links else (),
                copied_bytes=WALKS["_copied"].sizes if links else (),
                **spread,
                **spread_of_rounds,
                sample_lower_s=lower / batch,
                sample_upper_s=upper / batch,
            ),
        )


def _links(found: Mapping[Key, Samples]) -> tuple[dict[str, Link], dict[str, tuple[float, ...]]]:
    """The links inside and between hosts, where there are such; and the seconds of exchanges by size and way."""
    links, spread = {}, {}
    for where in ("inside", "between"):
        if (where, MESSAGE_BYTES[0], True) not in found:
            continue
        for name, way in WALKS.items():
            key = f"{where}{name}"
            pairs = [(found[key, m, True], found[key, m, False]) for m in way.sizes]
            for end, times in _exchanges(pairs, way.blocks).items():
                spread[f"{key}_{end}"] = times
        links[where] = fit(MESSAGE_BYTES, spread[f"{where}_s"])
    return links, spread


def _rounds(
    found: Mapping[Key, Samples],
) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """Mean seconds of a round's own arithmetic by kind and size of the model; and their quartiles."""
    means, spread = {}, {}
    for kind in KINDS:
        samples = [found[kind, size] for size in ROUND_BYTES]
        means[f"{kind}_s"] = tuple(one.mean_s for one in samples)
        spread[f"{kind}_lower_s"] = tuple(one.quartiles_s[0] for one in samples)
        spread[f"{kind}_upper_s"] = tuple(one.quartiles_s[1] for one in samples)
    return means, spread


def load_average() -> float:
    """Of the last minute; 0 where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return 0.0


def _exchanges(pairs: list[tuple[Samples, Samples]], blocks: int) -> dict[str, tuple[float, ...]]:
    """Seconds of one of ``blocks`` exchanges: means, and quartiles of the walk with them less the mean without."""
    found = {}
    for name, ends in (
        ("s", [one.mean_s for one, _ in pairs]),
        ("lower_s", [one.quartiles_s[0] for one, _ in pairs]),
        ("upper_s", [one.quartiles_s[1] for one, _ in pairs]),
    ):
        apart = zip(ends, pairs, strict=True)
        found[name] = tuple(max(0.0, end - without.mean_s) / blocks for end, (_, without) in apart)
    return found
