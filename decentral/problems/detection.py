"""How sure a frame network is that a window has the keyword in it; the loss of that, and the errors of a threshold.

    l_s(t) = z_s(t) - log prior_s,      e_s(t) = l_s(t) - max over the background k of l_k(t)

z are logits of states and background (silence, other words), so l is a log likelihood but for a term that all classes
share (the softmax's too), which e does not have. The chain of the keyword's states decodes e
(:mod:`decentral.problems.models.decoder`), whose score is that of the keyword's best path less that of the background's
over the same frames; a window's detection score is the largest score of any end frame, divided by its path's duration.
Shrivastava et al. 2020, arXiv 2011.01151; scores divided by durations, and the loss below, are ours.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from decentral.problems.data.segments import MORE
from decentral.problems.models.decoder import Chain

if TYPE_CHECKING:
    from decentral.problems.data.dataset import Dataset

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Detector:
    """``chain``: of S states; ``log_prior``: of the S + 2 classes; ``share``: of the windows that have the keyword."""

    chain: Chain
    log_prior: tuple[float, ...]
    share: float

    @classmethod
    def of(cls, dataset: Dataset, temperature: float) -> Detector:
        """Priors, the share and how long states last, as they are in the training part.

        A state lasts m frames on average, and its keyword ends one, so log stay = log(1 - 1 / m), m at least 1.1.
        """
        states = dataset.classes - MORE
        counts = torch.bincount(dataset.train_y.flatten(), minlength=dataset.classes).double() + 1
        said = (dataset.train_y < states).any(1).double()
        mean = max(1.1, float((dataset.train_y < states).sum() / said.sum() / states))
        prior = (counts / counts.sum()).log().tolist()
        return cls(Chain(states, 1 - 1 / mean, temperature), tuple(prior), float(said.mean()))

    def emissions(self, logits: Tensor) -> Tensor:
        """e (B, T, S) of logits (B, T, S + 2)."""
        states, tau = self.chain.states, self.chain.temperature
        level = logits - logits.new_tensor(self.log_prior)
        background = level[..., states:]
        best = tau * torch.logsumexp(background / tau, -1) if tau else background.amax(-1)
        return level[..., :states] - best.unsqueeze(-1)

    def scores(self, logits: Tensor) -> Tensor:
        """(B,) detection scores of logits (B, T, S + 2), in nats a frame; T is S at least."""
        score, duration = self.chain(self.emissions(logits))
        first = self.chain.states - 1
        return (score / duration)[:, first:].amax(1)

    def said(self, labels: Tensor) -> Tensor:
        """(B,) whether the keyword is in windows with labels (B, T)."""
        return (labels < self.chain.states).any(1)


@dataclass(frozen=True)
class EndMetric:
    """Hinge loss of detection scores d: the mean over windows of

        relu(margin - d) / (2 p) with the keyword,      relu(margin + d) / (2 (1 - p)) without it

    p is the share of windows that have it, so the two kinds weigh alike. A window's loss is that of each of its frames.
    """

    detector: Detector
    margin: float = 1.0

    def __call__(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """See :class:`decentral.problems.losses.Loss`."""
        scores, share = self.detector.scores(logits), self.detector.share
        missed, alarmed = (self.margin - scores).relu(), (self.margin + scores).relu()
        losses = torch.where(self.detector.said(labels), missed / (2 * share), alarmed / (2 - 2 * share))
        return losses.mean() if reduction == "mean" else losses.repeat_interleave(labels.shape[1])


@dataclass(frozen=True, eq=False)
class Errors:
    """Of a threshold on detection scores: scores of windows ``said`` (with the keyword) and ``other``, and their hours.

    A window without the keyword whose score is above the threshold is a false alarm, one at most; a window with it
    whose score is not above is a false reject.
    """

    said: Array
    other: Array
    hours: float

    @functools.cached_property
    def curve(self) -> tuple[Array, Array]:
        """(false alarms an hour, share of false rejects) for 0, 1, 2, ... false alarms at most.

        Each at the lowest threshold that has no more; where scores are equal no threshold parts them.
        """
        thresholds = np.append(np.sort(self.other)[::-1], -math.inf)
        rejected = np.searchsorted(np.sort(self.said), thresholds, side="right") / len(self.said)
        return np.arange(len(thresholds)) / self.hours, rejected

    def rejects_at(self, alarms_per_hour: float) -> float:
        """The share of false rejects at that many false alarms an hour, or the next fewer that there can be."""
        allowed = min(len(self.other), math.floor(alarms_per_hour * self.hours + 1e-9))
        return float(self.curve[1][allowed])

    def equal(self) -> float:
        """The equal error rate: where the shares of false rejects and of false alarms are nearest, their mean."""
        alarms = np.arange(len(self.other) + 1) / len(self.other)
        k = int(np.abs(alarms - self.curve[1]).argmin())
        return float(alarms[k] + self.curve[1][k]) / 2
