"""Pieces of work, timed in turns by all ranks side by side.

In turns, all of them to the end, so that what slows a machine for a while slows all pieces alike: other programs come
and go by the minute. A sample is the mean of a few repetitions, a millisecond or one repetition; the slowest rank's
counts. A sample in which a rank was off its core for more than a twentieth of the time is *disturbed*: it says what
another program did. Quantiles are of the undisturbed samples, or of the five fastest where fewer are undisturbed; of
all where ranks outnumber cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from decentral.comm.world import World

K = TypeVar("K", bound=Hashable)
Work = Callable[[], object]

_SAMPLE_S = 1e-3
_FEW, _ENOUGH = 5, 25
"""Samples that a mean needs at the least, and undisturbed ones that are enough."""
_SLICE_S, _TRIES = 5e-3, 8
"""A sample shorter than a scheduler's slice of time is worth trying again at once when it was disturbed."""
_LOST = 0.05
"""Share of a sample off its core from which on a rank was disturbed."""


@dataclass(frozen=True)
class Samples:
    """Seconds of one piece of work: ``seconds`` (samples,), and which were ``disturbed`` (samples,).

    ``crowded``: ranks outnumbered cores.
    """

    seconds: NDArray[np.float64]
    disturbed: NDArray[np.bool_]
    crowded: bool = False

    @property
    def kept(self) -> NDArray[np.float64]:
        """Undisturbed samples; the five fastest where fewer are undisturbed; all in a crowd."""
        if self.crowded:
            return self.seconds
        calm = self.seconds[~self.disturbed]
        return calm if len(calm) >= _FEW else np.sort(self.seconds)[:_FEW]

    @property
    def mean_s(self) -> float:
        """The mean of what is kept, without its lowest and highest tenth.

        Unlike a median that of a sum is the sum, also where a machine has two speeds.
        """
        return float(trim_mean(self.kept, 0.1))

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """The lower and the upper quartile of what is kept."""
        lower, upper = np.percentile(self.kept, [25, 75])
        return float(lower), float(upper)


def sample(
    world: World, works: Mapping[K, Work], seconds: float, progress: Callable[[float], None], crowded: bool
) -> dict[K, Samples]:
    """Samples of each piece of work: 25 undisturbed ones, or as many as there are after ``seconds``, but at least five.

    Every rank of ``world`` calls it with the same keys in the same order; a piece may talk to other ranks.
    ``progress`` is told the share that is done; ``crowded``: ranks outnumber cores, and any sample counts.
    """
    repeats = {key: _repeats(world, work) for key, work in works.items()}
    times: dict[K, list[float]] = {key: [] for key in works}
    lost: dict[K, list[bool]] = {key: [] for key in works}
    began, turns = time.perf_counter(), 0
    wanting = True
    while wanting:
        for key in works:
            for _ in range(_TRIES):
                world.agree(None)  # all begin together
                ranks = world.agree(_timed(works[key], repeats[key]))
                times[key].append(max(s for s, _ in ranks))
                lost[key].append(any(gone for _, gone in ranks))
                if crowded or not lost[key][-1] or min(times[key]) * repeats[key] > _SLICE_S:
                    break
        turns += 1
        calm = {key: len(lost[key]) if crowded else lost[key].count(False) for key in works}
        spent = world.agree(time.perf_counter() - began)[0] / seconds
        wanting = turns < _FEW or (spent < 1 and min(calm.values()) < _ENOUGH)
        progress(min(1.0, max(spent, sum(min(n, _ENOUGH) for n in calm.values()) / len(calm) / _ENOUGH)))
    return {key: Samples(np.array(times[key]), np.array(lost[key]), crowded) for key in works}


def undisturbed(samples: Iterable[Samples]) -> float:
    """The share of samples, of all pieces together, that nobody disturbed."""
    return 1 - float(np.concatenate([one.disturbed for one in samples]).mean())


def core_count(world: World, names: list[str]) -> tuple[int, bool]:
    """Cores of all hosts that the ranks may use, and whether a host has more ranks than cores."""
    allowed = world.agree(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set())
    total, crowded = 0, False
    for name in dict.fromkeys(names):
        sets = [cores for cores, host in zip(allowed, names, strict=True) if host == name]
        cores = len(set().union(*sets)) or os.cpu_count() or 1
        total, crowded = total + cores, crowded or len(sets) > cores
    return total, crowded


def _repeats(world: World, work: Work) -> int:
    """Repetitions of a sample, the same on all ranks."""
    world.agree(None)
    elapsed_s, _ = _timed(work, 2)
    return max(1, min(1000, int(_SAMPLE_S / max(world.agree(elapsed_s)))))


def _timed(work: Work, repeats: int) -> tuple[float, bool]:
    """Seconds of one repetition after one that is not timed, and whether this process was kept from its core meanwhile.

    It computes or polls all the time, so seconds that are not seconds of a processor were another program's.
    """
    work()  # fills caches, and a rank that is late here keeps its partner waiting in the next
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        work()
    elapsed_s, worked_s = time.perf_counter() - began, time.process_time() - worked
    return elapsed_s / repeats, worked_s < (1 - _LOST) * elapsed_s
