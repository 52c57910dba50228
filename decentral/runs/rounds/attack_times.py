"""What adversarial examples cost on the simulated clock, and where they stand in its timeline.

In units of a gradient on samples alone, by FLOPs: the gradient on samples and examples is 2; an attack is a forward
pass, and as much again for the slope of the inputs. One after the other a round computes for attack + 2, and attackers
beside the workers that are a round ahead make that max(attack, 2), in the first round attack + max(attack, 2). What an
attacker and its worker send each other takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral.network.compute import ComputeTime
from decentral.problems.adversarial import Adversarial
from decentral.problems.objective import Place
from decentral.runs.computing import flops_of
from decentral.runtime.trace import Span

_GRADIENT = 2.0


@dataclass(frozen=True)
class AttackedTime:
    """A :class:`ComputeTime`: the seconds of ``base``, which are those of a gradient on samples alone, with attacks."""

    base: ComputeTime
    settings: Adversarial
    attack: float

    def check(self, n: int) -> None:
        """See :class:`ComputeTime`."""
        self.base.check(n)

    def draw(self, t: int, workers: range, seed: int) -> NDArray[np.float64]:
        """See :class:`ComputeTime`."""
        return self.base.draw(t, workers, seed) * self._units(t)

    def spans(self, span: Span, workers: int) -> list[Span]:
        """What a worker's computing in round ``tag`` consists of: "attack", of it or of the attacker beside it, ..."""
        worker, _, begin, end, t = span
        unit = (end - begin) / self._units(t)
        attacker = worker + workers if self.settings.attackers else worker
        found, begun = [], begin
        if not self._ahead or t == 0:
            begun = begin + self.attack * unit
            found.append(Span(attacker, "attack", begin, begun, t))
        if self._ahead:
            found.append(Span(attacker, "attack", begun, begun + self.attack * unit, t + 1))
        if attacker != worker:
            found.append(Span(worker, "wait", begin, begun, t))
        computed = begun + _GRADIENT * unit
        found += [Span(worker, "compute", begun, computed, t), Span(worker, "wait", computed, end, t)]
        return [one for one in found if one.end_s - one.start_s > 1e-9 * (end - begin)]

    @property
    def _ahead(self) -> bool:
        return self.settings.attackers and self.settings.stale > 0

    def _units(self, t: int) -> float:
        if not self._ahead:
            return self.attack + _GRADIENT
        return max(self.attack, _GRADIENT) + (self.attack if t == 0 else 0.0)


def with_attacks(base: ComputeTime, problem: Any, place: Place) -> ComputeTime:
    """The compute times of a run of these examples, ``place`` being worker 0's alone; ``base`` where it makes none."""
    settings = place.adversarial
    if settings is None or not settings.weight:
        return base
    return AttackedTime(base, settings, _attack_share(problem, place))


def _attack_share(problem: Any, place: Place) -> float:
    """FLOPs of an attack over those of a gradient on the same samples; 1 where they cannot be counted."""
    objective = problem.build(replace(place, adversarial=None))
    evaluation, x = objective.evaluation, objective.start()
    inputs, labels = (part[:1] for part in evaluation.some_test)
    buffers = {name: rows[0] for name, rows in objective.buffers.items()}
    evaluation.module.eval()  # as many FLOPs; in training batch norm wants more than one sample
    forward = flops_of(lambda: evaluation.count_right("", x, buffers, inputs, labels), 0.0)
    evaluation.module.train()
    samples = len(objective.shards[0]) if place.batch_size == "full" else place.batch_size
    gradient = flops_of(lambda: list(objective.gradient(x[None].clone(), 0)), 0.0)
    return 2 * forward * samples / gradient if gradient else 1.0
