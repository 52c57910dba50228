"""When a run has diverged: a worker's loss far above the first ones, or a model that is no longer finite."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.comm import Communicator
from decentral.runs.metrics import norms

_BLOW_UP = 1e10  # a loss this many times the first (or 1) has diverged
_KEPT = 50  # rounds whose losses are looked at together: one synchronisation of the device for many


def loss_limit(first: float) -> float:
    """What a loss may be, after this first one."""
    return _BLOW_UP * max(1.0, first) if math.isfinite(first) else _BLOW_UP


def blown_up(t: int, worker: int, loss: float) -> str:
    """The message of a loss above the limit, or not a number."""
    return f"round {t}, worker {worker}: its loss is {loss:.4g}"


def overflow(t: int, x: Tensor, comm: Communicator) -> str:
    """The message of models x (h, d) of which one is not finite: the first worker. Every rank calls it."""
    worker = int(np.argmin(np.isfinite(comm.observe(norms(x)))))
    return f"round {t}, worker {worker}: its model overflowed"


class Losses:
    """The hosted workers' losses of the newest rounds, (rounds, h), to be looked at a few rounds at a time.

    ``t``: the round that comes first. ``limit``: what a loss may be, infinite until the first are looked at.
    ``asked``: the signals that have asked ranks to end, by when they were last looked at; 0 is none.
    ``seen``: the losses of all workers, (rounds, n), that were last looked at.
    """

    def __init__(self, comm: Communicator, device: torch.device, t: int, limit: float) -> None:
        self.comm, self.t, self.limit, self.count = comm, t, limit, 0
        self.asked = [0] * comm.ranks
        self.seen = np.zeros((0, comm.n))
        self.kept = torch.zeros(_KEPT, comm.h, dtype=torch.float64, device=device)

    @property
    def full(self) -> bool:
        """Whether they must be looked at."""
        return self.count == _KEPT

    def note(self, losses: Tensor) -> None:
        """Those (h,) of the next round."""
        self.kept[self.count] = losses
        self.count += 1

    def trouble(self, asked: int = 0) -> str:
        """The message of the first loss that is too large or not a number, "" if none is; then forget them.

        ``asked``: the signal that has asked this rank to end; it travels with the losses, so that all ranks end in one
        round. Waits for the device. Every rank calls it, and gets the same answer.
        """
        mine, start = self.kept[: self.count].cpu().numpy(), self.t
        with_signal = np.vstack([mine, np.full((1, mine.shape[1]), float(asked))])
        everyone = self.comm.observe(np.ascontiguousarray(with_signal.T)).T
        losses, self.asked = everyone[:-1], [int(number) for number in everyone[-1, :: self.comm.h]]
        self.seen = losses
        if start == 0:
            self.limit = loss_limit(float(losses[0].max()))
        self.t, self.count = start + self.count, 0
        bad = first_divergence(losses, start, self.limit)
        return blown_up(*bad) if bad else ""


def first_divergence(losses: NDArray[np.float64], start: int, limit: float) -> tuple[int, int, float] | None:
    """(round, worker, loss) of the first loss, by round, then worker, that is not finite or above ``limit``.

    ``losses``: (rounds since ``start``, n).
    """
    bad = np.argwhere(~(losses <= limit))  # catches NaN too
    if not len(bad):
        return None
    t, worker = bad[0].tolist()
    return start + t, worker, float(losses[t, worker])
