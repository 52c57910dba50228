"""Whether a torch optimizer can make a method's gradient step for it: where the method does no more with the gradient.

Told by running the method's own ``step`` with a gradient, and without one, on a small communicator.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from decentral.algorithms.state import tensors_of
from decentral.algorithms.traits import Method, traits_of
from decentral.comm.stand_ins import Averaged
from decentral.rounds.trials.messages import TRIAL_LR, trials

Place = Literal["first", "last"]


def outer_step(method: Method[Any], n: int = 4) -> Place | None:
    """Where in a round the gradient step is made, if ``method.step`` with g = None is all the rest of it; else None.

        outer_step(DSGD())         "first"    step(x, g) = step(x - lr g, None)
        outer_step(DSGD("awc"))    "last"     step(x, g) = step(x, None) - lr g
        outer_step(DecentLaM())    None       it needs x and x - lr g

    A method that averages gradients is looked at with the means that it asks for: its step comes after them.
    The same bit for bit, state included, in all rounds that :func:`decentral.rounds.trials.messages.trials` has.
    """
    places: list[Place] = ["first", "last"]
    for tried in trials(method, n):
        trial = replace(tried, comm=Averaged(tried.comm)) if averages_gradients(method) else tried
        x, g, whole = trial.x, trial.g, trial.step(method, trial.x, trial.g)
        try:
            before = trial.step(method, x.sub(g, alpha=TRIAL_LR), None)
            after, state = trial.step(method, x, None)
        except Exception:  # whatever a method does without a gradient that it needs
            return None
        by_place = {"first": before, "last": (after.sub(g, alpha=TRIAL_LR), state)}
        places = [place for place in places if _equal(by_place[place], whole)]
    return places[0] if places else None


def averages_gradients(method: Method[Any]) -> bool:
    """Whether workers share their gradients, so that a rule or an optimizer is to step with the mean of them."""
    return traits_of(method).sends == "gradients"


def _equal(ours: tuple[Tensor, Any], theirs: tuple[Tensor, Any]) -> bool:
    pairs = zip([ours[0], *tensors_of(ours[1])], [theirs[0], *tensors_of(theirs[1])], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
