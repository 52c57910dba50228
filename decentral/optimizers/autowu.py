"""AutoWU: the learning rate grows until the losses have passed their minimum, and falls from what it was there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from decentral.optimizers.of_run import Facts, OfRun
from decentral.optimizers.past_minimum import past_minimum
from topologies.settings import plain_settings
from topologies.streams import stream

_PATIENCE = 3  # epochs one after the other
_LAST = 0.2  # of the run, with "constant-then-cosine"


@dataclass(frozen=True)
class AutoWU(OfRun):
    """lr grows from ``lr_min`` towards ``train.lr`` until the loss has passed its minimum, and then decays.

        lr_t = lr_min (train.lr / lr_min)^(t / S),    S = floor(rho T)

    At the end of each epoch the losses of all rounds so far, in the mean over the workers, are tested by Gaussian
    process regression (:mod:`decentral.optimizers.past_minimum`). Where three epochs one after the other pass the test,
    lr falls to what it was at the predicted minimum, in the mean over 5 predictions x_p in [0, 1] of where that is,

        lr = mean_p lr_min (lr_t / lr_min)^x_p

    and decays from there: by a cosine to 0 over all that is left; or ``constant-then-cosine``, over the last fifth.
    At S it decays in any case, from ``train.lr``. Three epochs must be over before S, or nothing is found.
    A test takes some tenths of a second; with full batches each round is an epoch.

    ``rho``: the warm-up's largest share of the run. The official code fits the process by 100 steps of Adam that go
    on from epoch to epoch; here it is fitted anew, to the end, so that flat losses do not pass the test.
    Reference: arXiv 2107.05855.
    """

    lr_min: float = 1e-5
    rho: float = 0.5
    cooldown: Literal["cosine", "constant-then-cosine"] = "cosine"

    def __post_init__(self) -> None:
        plain_settings(self)
        if not 0 < self.lr_min < math.inf:
            raise ValueError(f"lr_min = {self.lr_min} must be positive and finite; 1e-5 is usual")
        if not 0 < self.rho < 1:
            raise ValueError(f"rho = {self.rho} must be in (0, 1): the warm-up's largest share of the run")
        if self.cooldown not in ("cosine", "constant-then-cosine"):
            raise ValueError(f"cooldown = {self.cooldown!r} must be 'cosine' or 'constant-then-cosine'")

    def fitted(self, facts: Facts) -> AdaptiveWarmup:
        """See :class:`OfRun`."""
        if not facts.hears:
            raise ValueError(
                "AutoWU goes by the losses of all workers in each round, which only rounds of workers tell; use "
                "another schedule, such as legew"
            )
        if facts.epoch_rounds is None:
            raise ValueError(
                f"AutoWU looks at losses where an epoch ends, and {facts.missing}; use another schedule"
            )
        if self.lr_min >= facts.lr:
            raise ValueError(
                f"lr_min = {self.lr_min} must be below train.lr = {facts.lr}, which lr grows to; lower it"
            )
        return AdaptiveWarmup(self, facts)


@dataclass(frozen=True)
class AdaptiveWarmup:
    """:class:`AutoWU` in a run; see :class:`decentral.optimizers.listening.Listening`.

    The state: ``losses`` of the warm-up, its newest ``verdicts``, and from the ``switch`` on its round and the lr then.
    """

    settings: AutoWU
    facts: Facts

    @property
    def longest(self) -> int:
        """S, rounds."""
        return math.floor(self.settings.rho * self.facts.rounds)

    def lr(self, t: int, rounds: int, base: float) -> float:
        """See :class:`Schedule`; the warm-up is the longest one."""
        del rounds, base
        return self._decayed(t, self.longest, self.facts.lr) if t >= self.longest else self._grown(t)

    def begin(self) -> dict[str, Any]:
        """See :class:`Listening`."""
        switch = None if self.longest else [0, self.facts.lr]
        return {"losses": [], "verdicts": [], "switch": switch, "why": "no time to warm up"}

    def decides(self, state: dict[str, Any], t: int) -> bool:
        """At the end of each epoch, and where the warm-up must end."""
        if state["switch"] is not None or not t:
            return False
        assert self.facts.epoch_rounds is not None
        epochs = t // self.facts.epoch_rounds
        return t >= self.longest or epochs > (t - 1) // self.facts.epoch_rounds

    def heard(self, state: dict[str, Any], losses: list[float]) -> dict[str, Any]:
        """See :class:`Listening`."""
        if state["switch"] is None:
            state["losses"].extend(losses)
        return state

    def decided(self, state: dict[str, Any], t: int) -> dict[str, Any]:
        """See :class:`Listening`."""
        if t >= self.longest:
            return self._switched(state, self.longest, self.facts.lr, "the warm-up may not be longer")
        verdict = past_minimum(np.array(state["losses"]), stream(self.facts.seed, "autowu", t))
        verdicts = [*state["verdicts"], verdict.passed][-_PATIENCE:]
        state = {**state, "verdicts": verdicts}
        if sum(verdicts) < _PATIENCE:
            return state
        lr = math.fsum(self._grown(x * t) for x in verdict.minima) / len(verdict.minima)
        return self._switched(state, t, lr, "the loss has passed its minimum")

    def lr_after(self, state: dict[str, Any], t: int) -> float:
        """See :class:`Listening`."""
        if state["switch"] is None or t < state["switch"][0]:
            return self._grown(t)
        return self._decayed(t, *state["switch"])

    def note(self, state: dict[str, Any]) -> dict[str, Any]:
        """See :class:`Listening`."""
        if state["switch"] is None:
            return {}
        t, lr = state["switch"]
        return {"round": t, "lr_before": self._grown(t), "lr_after": lr, "why": state["why"]}

    def _grown(self, t: float) -> float:
        least = self.settings.lr_min
        return float(least * (self.facts.lr / least) ** (t / self.longest)) if self.longest else self.facts.lr

    def _decayed(self, t: int, start: int, lr: float) -> float:
        rounds = self.facts.rounds
        if self.settings.cooldown == "constant-then-cosine":
            start = max(start, math.ceil((1 - _LAST) * rounds))
        if t <= start:
            return lr
        return lr * (1 + math.cos(math.pi * (t - start) / (rounds - start))) / 2

    def _switched(self, state: dict[str, Any], t: int, lr: float, why: str) -> dict[str, Any]:
        return {**state, "losses": [], "switch": [t, lr], "why": why}
