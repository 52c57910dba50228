"""What ``rescale`` of ``[optimizer]`` means in a run: which weights of its model, and what cannot be had with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.optimizers.before_norms import Normed, before_norms
from decentral.optimizers.rescaling import Rescaling
from decentral.optimizers.rescaling_hook import checked
from decentral.problems.capabilities import Layered, Made
from decentral.problems.model_objective import ModelObjective
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.rounds.spared import Spared, spares
from decentral.rounds.trials.moved_models import goes_on_where_models_are

if TYPE_CHECKING:
    from decentral.algorithms.traits import Method
    from decentral.optimizers.rule import Rule
    from decentral.problems.objective import Objective
    from decentral.runs.kind import Run

SAMPLES = 4  # that go through the model once, in training mode


def rescaling_of(rule: Rule | None, objective: Objective) -> Rescaling | None:
    """What the rule asks for, on the objective's models; None where it does not."""
    if rule is None or rule.rescale is None:
        return None
    assert isinstance(objective, ModelObjective)  # refuse_rescaling has seen to that
    module, batch = objective.evaluation.module, objective.evaluation.train_x[:SAMPLES]
    with Generators(GENERATORS, objective.place.device).kept():
        return made(rule, before_norms(module, lambda: module(batch.clone())))


def made(rule: Rule, layers: list[Normed]) -> Rescaling:
    """What a rule that rescales does with these layers."""
    assert rule.rescale is not None
    return Rescaling(layers, rule.rescale, 1 if rule.rescale_every is None else rule.rescale_every)


def sparing(rule: Rule | None, rescaling: Rescaling | None, weight_decay: float) -> Rule | None:
    """The rule, which leaves weights that are rescaled out of its weight decay; ``weight_decay``: what it will have."""
    if rule is None or rescaling is None or not weight_decay:
        return rule
    return Spared(rule.decayed(weight_decay), rescaling.spared)


def refuse_rescaling(
    run: Run, rule: Rule | None, method: Method[Any] | None, section: str = "optimizer"
) -> None:
    """Raise UserError for a rule that rescales what there is not, or where it cannot be done. This reads the data."""
    if rule is None or not _is_wished(rule, section):
        return
    key = f"{section}.rescale = {rule.rescale!r}"
    if not isinstance(run.problem, Layered):
        raise UserError(f"{key} is for models with batch norm, and the problem has no layers; remove the key")
    if rule.evaluates:
        raise UserError(
            f"{key} changes models between rounds, and {rule.title} keeps earlier ones, from which it would go on; use "
            "another rule"
        )
    one = run.problem.made(run.workers, run.seed)
    if run.train.weight_decay and not spares(rule, Layout.of(one.module)):
        raise UserError(
            f"{key} leaves weights without weight decay, and {rule.title} has one for the whole model; set "
            "train.weight_decay = 0, or use a rule of each layer such as lamb"
        )
    if method is not None and not goes_on_where_models_are(method):
        raise UserError(
            f"{key} changes models between rounds, and {type(method).__name__} keeps earlier ones, from which it would "
            "go on; use a method whose state is of gradients, such as dsgd or dmsgd"
        )
    try:
        checked(made(rule, _layers(one)))
    except ValueError as error:
        raise UserError(f"{section}.{error}") from None


def _is_wished(rule: Rule, section: str) -> bool:
    if rule.rescale is None and rule.rescale_every is not None:
        raise UserError(
            f"{section}.rescale_every = {rule.rescale_every} says how often, and nothing is rescaled; add "
            f'{section}.rescale = "layer" or "filter", or remove the key'
        )
    return rule.rescale is not None


def _layers(one: Made) -> list[Normed]:
    batch, module = one.dataset.train_x[:SAMPLES].clone(), one.module
    if batch.is_floating_point():
        batch = batch.to(next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32))
    with Generators(GENERATORS).kept():
        return before_norms(module, lambda: module(batch))
