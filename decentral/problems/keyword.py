"""Keyword spotting: the settings of the problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from decentral.problems.capabilities import BatchSize, Draw, Made
from decentral.problems.data import SPEECH, load_speech
from decentral.problems.objective import Place, check_positive
from decentral.problems.of_module import OfModule
from decentral.problems.sizes import check_layers
from decentral.tables import OneOf

if TYPE_CHECKING:
    from torch import nn

    from decentral.problems.data.dataset import Dataset
    from decentral.problems.data.speech import Speech
    from decentral.problems.detection import Detector
    from decentral.problems.keyword_objective import KeywordObjective
    from decentral.problems.losses import Loss


@dataclass(frozen=True)
class Keyword(OfModule):
    """A frame network and a chain of states that find a keyword (arXiv 2011.01151), trained by frames or by detections.

    ``speech``: see ``decentral list data``; sets that are not embedded are read below ``data_root`` (or the environment
    variable DECENTRAL_DATA). ``keyword``: which of its words. The network has ``hidden`` layers on each frame and
    ``context`` frames on either side, and 3 ``phonemes`` + 2 classes: the keyword's states, silence, background.
    ``partition``: "iid"; "speaker", worker i has speakers i, i + n, ...

    ``objective``: "cross-entropy" of all frames' classes; "end-metric", a hinge loss with ``margin`` on the detection
    scores of windows, which begins with ``cross_entropy_rounds`` rounds of cross-entropy. ``temperature`` of the
    decoder, 0 for the best path alone. ``false_reject_rate`` is at ``false_alarms_per_hour``.
    """

    speech: Annotated[str, OneOf(SPEECH)] = "spoken-phonemes"
    data_root: str = ""
    keyword: int = 0
    partition: Literal["iid", "speaker"] = "iid"
    phonemes: int = 4
    context: int = 4
    hidden: tuple[int, ...] = (64, 64)
    objective: Literal["cross-entropy", "end-metric"] = "cross-entropy"
    cross_entropy_rounds: int = 0
    margin: float = 1.0
    temperature: float = 0.0
    false_alarms_per_hour: float = 60.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_positive(
            phonemes=self.phonemes, margin=self.margin, false_alarms_per_hour=self.false_alarms_per_hour
        )
        check_layers(layers=len(self.hidden))
        for width in self.hidden:
            check_positive(hidden=width)
        _check_least_0(
            keyword=self.keyword,
            context=self.context,
            temperature=self.temperature,
            cross_entropy_rounds=self.cross_entropy_rounds,
        )
        if self.cross_entropy_rounds and self.objective != "end-metric":
            raise ValueError(
                f"cross_entropy_rounds = {self.cross_entropy_rounds} begins the end metric; set "
                'problem.objective = "end-metric", or remove it'
            )

    def read(self) -> Dataset:
        """Windows and the classes of their frames."""
        from decentral.problems.data.segments import segments_of

        return segments_of(self._speech(), self.keyword, 3 * self.phonemes)

    def made(self, workers: int, seed: int) -> Made:
        """See :class:`decentral.problems.capabilities.Layered`."""
        from decentral.problems.data.segments import deal_segments

        dataset = self.read()
        shards = deal_segments(self._speech(), workers, self.partition, seed)
        return Made(self.model(dataset, seed), dataset, shards)

    def network(self, dataset: Dataset) -> nn.Module:
        """See :class:`decentral.problems.of_module.OfModule`."""
        from decentral.problems.models.frames import frame_network

        return frame_network(dataset.shape[-1], self.context, self.hidden, dataset.classes)

    def batches(self, made: Made, seed: int, batch_size: BatchSize) -> Draw:
        """See :class:`decentral.problems.capabilities.Layered`. Stages have one loss for all steps."""
        from decentral.errors import UserError
        from decentral.problems.step_batches import of_shards

        if self.cross_entropy_rounds:
            raise UserError(
                f"problem.cross_entropy_rounds = {self.cross_entropy_rounds}: stages have one loss for all steps; "
                "remove it, or remove [stages]"
            )
        return of_shards(made, seed, batch_size)

    def most_workers(self) -> int:
        """See :class:`decentral.problems.capabilities.Dealt`."""
        return len(self.read().train_y)

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """With the detector's errors."""
        from decentral.problems.keyword_objective import ERRORS

        return (*super().columns(workers, weight_decay), *ERRORS)

    def detector(self, dataset: Dataset) -> Detector:
        """What turns logits into detection scores."""
        from decentral.problems.detection import Detector

        return Detector.of(dataset, self.temperature)

    def build(self, place: Place) -> KeywordObjective:
        """The objective of the hosted workers."""
        from decentral.problems.keyword_objective import KeywordObjective

        made = self.made(place.workers, place.seed)
        return KeywordObjective(
            made,
            place,
            self.loss(),
            self.detector(made.dataset),
            self.cross_entropy_rounds,
            self.false_alarms_per_hour,
        )

    def loss(self) -> Loss:
        """See :class:`decentral.problems.of_module.OfModule`; after the first rounds."""
        if self.objective == "cross-entropy":
            return super().loss()
        from decentral.problems.detection import EndMetric

        return EndMetric(self.detector(self.read()), self.margin)

    def _speech(self) -> Speech:
        return load_speech(self.speech, self.data_root or None)


def _check_least_0(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{key} = {value} must not be negative")
