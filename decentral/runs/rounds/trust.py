"""The trust ratios of layers over a run of rounds: measured of each worker, kept of all, left as trust_ratios.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from decentral.optimizers.spans import acted_on
from decentral.rounds.trust_ratios import trust_ratios

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm import Communicator
    from decentral.optimizers.rule import Rule
    from decentral.rounds.by_rows import InBlocks, RowStep
    from decentral.runs.sections.trust_ratios import TrustRatios

FILE = "trust_ratios.csv"
COLUMNS = ("round", "layer", "ratio", "ratio_min", "ratio_max")


class Trust:
    """What ``rule`` multiplies lr by in every so many rounds, of each layer that it acts on.

    Row "round t" is of the step that the models make after t rounds. ``ratio`` is the mean over the workers, the other
    two are the least and the largest; under a method that averages gradients all three are the same.
    """

    def __init__(self, settings: TrustRatios, rule: Rule | None, comm: Communicator) -> None:
        layout = comm.layout
        assert layout is not None
        self.every, self.comm = settings.every, comm
        self.acts = acted_on(layout, getattr(rule, "exclude", "none"))
        self.layers = list(compress((span.name for span in layout.spans), self.acts))
        self.rounds: list[int] = []
        self._hosted: list[NDArray[np.float64]] = []  # (h, L) each, of rounds that no other rank has heard of
        self._known = np.empty((0, len(self.layers), 3))  # of the rounds before these: mean, least, largest

    def watch(self, step: RowStep, x: Tensor, state: Any, g: Tensor | InBlocks, t: int) -> None:
        """Round t is about to make ``step``; it is measured if its turn has come."""
        if t % self.every == 0:
            found = trust_ratios(step, x, state, g)[:, self.acts]
            self._hosted.append(found.double().cpu().numpy())
            self.rounds.append(t)

    def text(self) -> str:
        """The file. Every rank calls it."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        for t, found in zip(self.rounds, self._gathered().tolist(), strict=True):
            writer.writerows([t, layer, *three] for layer, three in zip(self.layers, found, strict=True))
        return lines.getvalue()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Every rank calls it."""
        return {"rounds": list(self.rounds), "ratios": torch.from_numpy(self._gathered().copy())}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.rounds, self._known = list(kept["rounds"]), kept["ratios"].numpy().copy()

    def _gathered(self) -> NDArray[np.float64]:
        """(measurements, L, 3): of all workers, added in their order."""
        if self._hosted:
            all_workers = self.comm.observe(np.stack(self._hosted, 1))
            least, largest = all_workers.min(0), all_workers.max(0)
            mean = np.clip(sum(all_workers) / len(all_workers), least, largest)
            self._known = np.concatenate([self._known, np.stack([mean, least, largest], 2)])
            self._hosted = []
        return self._known
