"""Momentum over momentum: a method that sums up gradients, behind a rule or a torch optimizer that does so too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

import topologies
from decentral.algorithms.traits import Method, traits_of
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.rounds.trials.columns import PATH
from decentral.rounds.trials.messages import TRIAL_LR, whole_numbers

if TYPE_CHECKING:
    from decentral.optimizers.rule import Rule

_ROUNDS, _MOST_ROUNDS = 12, 2_000
_MORE = 1.5  # times a gradient step, above which a method is said to have momentum


def steps_made_of_one(method: Method[Any]) -> float:
    """How many times lr g the models move a round, in the end, where all workers agree and g stays what it is.

        steps_made_of_one(DSGD())         1
        steps_made_of_one(DmSGD(0.9))     10      1 / (1 - beta): heavy ball, and DecentLaM, quasi-global, ...

    Told by rounds of its own ``step``, until their mean no longer changes; a method that acts every k-th round is
    looked at k rounds at a time.
    """
    comm = LocalComm(topologies.constant(PATH), check=False)
    x = torch.zeros(comm.n, 2, dtype=torch.float64)
    g, state, before, found = torch.ones_like(x), method.init(x.clone(), comm), 0.0, 0.0
    period = min(max([_ROUNDS, *whole_numbers(method)]), _MOST_ROUNDS // 2)
    for t in range(_MOST_ROUNDS // period * period):
        x, state = method.step(x, state, g.clone(), comm.at(t), TRIAL_LR)
        if (t + 1) % period == 0:
            moved = -float(x.mean())
            last, found = found, (moved - before) / (period * TRIAL_LR)
            if abs(found - last) < 1e-4 * abs(found):
                break
            before = moved
    return found


def rule_has_momentum(rule: Rule | None) -> bool:
    """Whether a gradient still moves the models when the next one is zero: told by asking the rule twice."""
    if rule is None:
        return False
    rule, x = rule.decayed(0.0), torch.zeros(1, 2, dtype=torch.float64)
    layout = Layout((Span("x", 0, 2, (1, 2)),))  # a matrix, which all rules take
    _, state = rule.direction(x, rule.init(x, layout), torch.ones_like(x), layout, TRIAL_LR)
    d, _ = rule.direction(x, state, torch.zeros_like(x), layout, TRIAL_LR)
    return bool(d.any())


def groups_have_momentum(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a torch optimizer with these groups has it: SGD's and RMSprop's ``momentum``, Adam's first ``betas``."""
    return any(group.get("momentum") or (group.get("betas") or (0,))[0] for group in groups)


def momentum_twice(method: Method[Any], over: str) -> str:
    """What to say where ``method`` is behind ``over``, which has momentum; "" where the method has none."""
    if traits_of(method).optimizer:
        return ""
    times = steps_made_of_one(method)
    if not times > _MORE:
        return ""
    return (
        f"momentum over momentum: {type(method).__name__} sums up what {over} has averaged already, so a step is about "
        f"{times:.3g} times, 1 / (1 - momentum), as large as {over}'s; take lr / {times:.3g}, or a method without "
        "momentum such as dsgd"
    )
