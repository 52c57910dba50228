"""Whether a method goes on where its models are put: weight rescaling changes them between two rounds."""

from __future__ import annotations

from typing import Any

import torch

import topologies
from decentral.algorithms.state import map_state
from decentral.algorithms.traits import Method
from decentral.comm import LocalComm
from decentral.rounds.trials.columns import PATH
from decentral.rounds.trials.messages import TRIAL_LR, whole_numbers

_BEFORE, _AT_LEAST, _AT_MOST = 2, 6, 500  # rounds before all models are moved, and after it
_MOVE = 100.0


def goes_on_where_models_are(method: Method[Any]) -> bool:
    """Whether models that are all moved by c between two rounds stay c apart from those that are not.

        goes_on_where_models_are(DmSGD())     True      its state is of gradients
        goes_on_where_models_are(D2())        True      ours has corrections, which sum up differences of models
        goes_on_where_models_are(SlowMo())    False     it keeps the models of the last outer step

    Told by rounds of its own ``step`` with the same gradients, as many as twice its largest whole number, but at most
    500. A method that keeps models would take the move for a step that was made, and go on with it or take it back.
    """
    comm = LocalComm(topologies.constant(PATH), check=False)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(comm.n, 3, generator=draw, dtype=torch.float64)
    state = method.init(x.clone(), comm)
    after = min(max(_AT_LEAST, 2 * max(whole_numbers(method), default=0)), _AT_MOST)
    other, of_other = x, state
    for t in range(_BEFORE + after):
        if t == _BEFORE:
            other, of_other = x + _MOVE, map_state(torch.Tensor.clone, state)
        g = torch.randn(x.shape, generator=draw, dtype=torch.float64)
        x, state = method.step(x, state, g.clone(), comm.at(t), TRIAL_LR)
        if t >= _BEFORE:
            other, of_other = method.step(other, of_other, g, comm.at(t), TRIAL_LR)
    return bool(torch.isclose(other - x, torch.full_like(x, _MOVE), rtol=1e-9, atol=0.0).all())
