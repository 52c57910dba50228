"""Rules of layers as torch optimizers, against loops of their equations."""

import copy
import io
import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from layer_loops import ByLoops
from layered_workers import CLOSE, FEW, RULES, D, each, fill, network, said
from test_rules import DECAY

from decentral.optimizers import LARC


def groups(module):
    *first, last = (p for p in module.parameters() if p.requires_grad)
    return [{"params": first}, {"params": [last], "lr": 0.05, "weight_decay": 0.0}]


ABSENT = [(), (0,), (0, 5), (), (2,), (), (1, 2, 3), ()]


def same(one, other, **close):
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(close or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("first", [(), (0, 3)], ids=["all", "some"])
@each
def test_a_built_optimizer_makes_the_steps_of_the_loop(rule, decay, first):
    ours, theirs = network(), network()
    for module in (ours, theirs):
        module[3].weight.data = module[3].weight.data.T.contiguous().T  # not in one piece
    step, loop = rule.build(groups(ours), 0.02, decay), ByLoops(rule, groups(theirs), 0.02, decay)
    falling = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (step, loop)]
    for t, absent in enumerate([first, *ABSENT]):
        for module, one, schedule in zip((ours, theirs), (step, loop), falling, strict=True):
            fill(module, t, absent)
            one.step()
            schedule.step()
        if t == 5:
            fresh = rule.build(groups(ours), 9.0, 9.0)
            buffer = io.BytesIO()
            torch.save(step.state_dict(), buffer)
            buffer.seek(0)
            fresh.load_state_dict(torch.load(buffer, weights_only=True))
            falling[0].optimizer = step = fresh
    same(ours, theirs, **CLOSE)
    assert torch.equal(ours[4].weight, network()[4].weight)


@pytest.mark.parametrize("way", ["loaded", "copied", "pickled"])
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_it_goes_on_with_the_same_bits(rule, way):
    module = network()
    step = rule.build(groups(module), 0.02, DECAY)
    for t in range(3):
        fill(module, t, ABSENT[t])
        step.step()
    if way == "loaded":
        twin = copy.deepcopy(module)
        other = rule.build(groups(twin), 0.5, 0.5)
        other.load_state_dict(copy.deepcopy(step.state_dict()))
    else:
        both = copy.deepcopy if way == "copied" else lambda pair: pickle.loads(pickle.dumps(pair))
        twin, other = both((module, step))
    for t in range(3, 6):
        for one, optimizer in ((module, step), (twin, other)):
            fill(one, t)
            optimizer.step()
    same(module, twin)
    kept = step.state_dict()["state"]
    assert set(kept) == set(range(6 + 1))
    for k, p in enumerate(p for p in module.parameters() if p.requires_grad):
        assert kept[k]["m"].shape == (1, p.numel())


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_parameters_may_be_added_and_states_taken_away(rule):
    ours, theirs = network(), network()
    made = []
    for module, make in ((ours, rule.build), (theirs, lambda *a: ByLoops(rule, *a))):
        one = make(module[0].parameters(), 0.02, DECAY)
        made.append(one)
        for t in range(6):
            fill(module, t)
            if t == 2:
                one.add_param_group({"params": module[3].parameters(), "lr": 0.1})
            if t == 4:
                one.state.clear()
            one.step()
    same(ours, theirs, **CLOSE)
    assert not torch.equal(ours[3].weight, network()[3].weight)


@pytest.mark.parametrize("rule", FEW, ids=said)
def test_a_closure_is_called_with_gradients(rule):
    module = network()
    step = rule.build(module.parameters(), 0.01, 0.0)

    def closure():
        step.zero_grad()
        loss = module(torch.ones(2, 2, 3, 3, dtype=torch.float64)).square().sum()
        loss.backward()
        return loss

    losses = [step.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]


@dataclass(frozen=True)
class Joint(LARC):
    """Looks at all layers as one vector."""

    joint: ClassVar[bool] = True


def test_a_rule_of_one_vector_refuses_another_vector():
    module = network()
    step = Joint(exclude="none").build(module.parameters(), 0.1, 0.0)
    for t in range(2):
        fill(module, t)
        step.step()
    (kept,) = step.state_dict()["state"].values()
    assert kept["m"].shape == (1, D)
    fill(module, 2, absent=(0,))
    with pytest.raises(ValueError, match="of the same parameters in every step"):
        step.step()
