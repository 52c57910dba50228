"""Samples in their order, a coin each, and full batches of those that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.problems.data.batches import EpochBatches
from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.problems.assistants.assistant import Chooser


class Scanned(NamedTuple):
    """``rows`` (B,): the samples that were kept; ``judged``: how many the chooser had to look at for them."""

    rows: Tensor
    judged: int


class Scan:
    """The samples of one worker in the endless order of rounds: with base = 1 its batches are those of rounds.

    ``samples`` (N,): their numbers in the data set. ``scanned``: so many have had their coin. Sample k of the order has
    the coin k mod B of the stream (seed, "coins", k // B): it is kept if that is below base, and is otherwise judged,
    and kept if it is below its keep probability. A batch ends with the sample that fills it.
    """

    def __init__(self, samples: NDArray[np.int64], batch_size: int, base: float, seed: int) -> None:
        self.samples, self.size, self.base, self.seed = samples, batch_size, base, seed
        self.order = EpochBatches([len(samples)], [0], batch_size, seed)
        self.scanned = 0

    def batch(self, chooser: Chooser, device: torch.device) -> Scanned:
        """The next full batch; base fills it whatever the chooser thinks."""
        parts: list[NDArray[np.int64]] = []
        need, judged = self.size, 0
        while need:
            window, start = divmod(self.scanned, self.size)
            rows = self.samples[self.order.at(window)[0]][start:]
            coins = stream(self.seed, "coins", window).random(self.size)[start:]
            kept, asked = coins < self.base, coins >= self.base
            if asked.any():
                k = torch.from_numpy(self.scanned + np.flatnonzero(asked)).to(device)
                p = chooser.keep(torch.from_numpy(rows[asked]).to(device), k)
                kept[asked] = coins[asked] < p.double().cpu().numpy()
            found = np.flatnonzero(kept)[:need]
            passed = int(found[-1]) + 1 if len(found) == need else len(rows)
            parts.append(rows[found])
            judged += int(asked[:passed].sum())
            self.scanned += passed
            need -= len(found)
        return Scanned(torch.from_numpy(np.concatenate(parts)).to(device), judged)
