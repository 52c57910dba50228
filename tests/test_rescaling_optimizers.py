"""Rescaling after the steps of any torch optimizer, in the drop-in, and what rules spare for it."""

import copy

import pytest
import torch
from networks_with_norms import BY, PAIRS, X, by_hand, drawn, small
from torch import nn
from torch.nn.functional import cross_entropy

import topologies
from decentral.algorithms import DIGing, DmSGD, SlowMo
from decentral.comm import LocalComm
from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS, SGD, rescaled
from decentral.rounds.script.optimizer import Decentralized
from decentral.rounds.spared import Spared
from decentral.rounds.trials.moved_models import goes_on_where_models_are


def groups(net, pairs, decay):
    """All parameters in groups: those that are rescaled have no weight decay."""
    spared = {id(p) for path in pairs for p in net.get_submodule(path).parameters()}
    parts = [[p for p in net.parameters() if (id(p) in spared) is wish] for wish in (False, True)]
    return [{"params": parts[0], "weight_decay": decay}, {"params": parts[1], "weight_decay": 0.0}]


def step(net, optimizer, t):
    optimizer.zero_grad()
    loss = cross_entropy(net(X + 0.1 * t), torch.arange(16) % 3)
    loss.backward()
    optimizer.step()


def alike(a, b, tolerance=1e-12):
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=name)


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05),
    "lars": lambda p: OPTIMIZERS["lars"](trust=0.1).build(p, 0.1, 0.05),
}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("name", MAKERS)
def test_any_torch_optimizer_rescales_after_its_steps(name, by):
    ours, theirs = small(), small()
    optimizer = rescaled(MAKERS[name](ours.parameters()), ours, X, by=by, every=2)
    plain = MAKERS[name](groups(theirs, PAIRS, 0.05))
    for t in range(10):
        if t == 5:  # goes on from what was saved, in the middle of its two steps
            saved, optimizer = optimizer.state_dict(), MAKERS[name](ours.parameters())
            optimizer = rescaled(optimizer, ours, X, by=by, every=2)
            optimizer.load_state_dict(copy.deepcopy(saved))
        step(ours, optimizer, t)
        step(theirs, plain, t)
        if t % 2:
            by_hand(theirs, by, PAIRS)
    alike(ours, theirs)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_inside_of_the_drop_in_it_comes_after_the_round():
    ours, theirs = small(), small()
    comm = LocalComm(topologies.constant([[1.0]]))
    inner = rescaled(MAKERS["sgd"](ours.parameters()), ours, X)
    optimizer, plain = (
        Decentralized(inner, DIGing(), comm, model=ours),
        rescaled(MAKERS["sgd"](theirs.parameters()), theirs, X),
    )
    for t in range(4):
        step(ours, optimizer, t)
        step(theirs, plain, t)
        assert float(ours[0].weight.detach().norm()) == pytest.approx(1, abs=1e-13)
    with pytest.raises(UserError, match="SlowMo keeps earlier ones"):
        Decentralized(rescaled(MAKERS["sgd"](ours.parameters()), ours, X), SlowMo(), comm)


def test_what_cannot_be_rescaled_in_a_script_is_refused():
    net, without = small(), nn.Sequential(nn.Flatten(), nn.Linear(243, 3)).double()
    sgd = MAKERS["sgd"](net.parameters())
    with pytest.raises(ValueError, match="needs a weight whose output goes into a batch norm"):
        rescaled(MAKERS["sgd"](without.parameters()), without, X)
    with pytest.raises(ValueError, match="rescale = 'channel' must be one of layer, filter"):
        rescaled(sgd, net, X, by="channel")
    with pytest.raises(ValueError, match="rescale_every = 0 must be a whole number of steps"):
        rescaled(sgd, net, X, every=0)
    assert len(sgd.param_groups) == 1
    with pytest.raises(ValueError, match="rescales weights already"):
        rescaled(rescaled(sgd, net, X), net, X)
    with pytest.raises(ValueError, match="BoostedOptimizer keeps earlier models"):
        rescaled(OPTIMIZERS["seboost"]().build(net.parameters(), 0.1, 0.0), net, X)
    with pytest.raises(ValueError, match="leave it out, and say"):
        SGD(rescale="layer").build(net.parameters(), 0.1, 0.0)


@pytest.mark.parametrize(
    "name", [name for name, kind in OPTIMIZERS.items() if not (kind.joint or kind.hears or kind.evaluates)]
)
def test_a_rule_spares_spans_as_groups_of_its_torch_optimizer_do(name):
    net = small()
    layout, spared = Layout.of(net), {"0.weight", "0.bias", "4.weight"}
    x = torch.stack([layout.flatten(net), 0.5 + layout.flatten(net)])
    rule = Spared(OPTIMIZERS[name]().decayed(0.3), spared)
    state, row = rule.init(x, layout), x[:1].clone()
    of_row = rule.init(row, layout)
    named = dict(net.named_parameters())
    parts = [[p for n, p in named.items() if (n in spared) is wish] for wish in (False, True)]
    optimizer = OPTIMIZERS[name]().build(
        [{"params": parts[0]}, {"params": parts[1], "weight_decay": 0.0}], 0.02, 0.3
    )
    for t in range(4):
        g = drawn(2, layout.d, seed=t)
        state = rule.step_(x, state, g, layout, 0.02)
        d, of_row = rule.direction(row, of_row, g[:1], layout, 0.02)
        row -= 0.02 * d
        for n, part in layout.views(g[0]).items():
            named[n].grad = part.clone()
        optimizer.step()
        torch.testing.assert_close(x[0], layout.flatten(net), rtol=0, atol=1e-13)
        torch.testing.assert_close(row[0], x[0], rtol=0, atol=1e-13)


def test_methods_that_keep_models_are_told_from_those_that_keep_gradients():
    assert goes_on_where_models_are(DmSGD())
    assert not goes_on_where_models_are(SlowMo(every=7))  # told in the round after the next outer step only
