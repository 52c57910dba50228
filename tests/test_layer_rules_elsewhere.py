"""Rules of layers without rounds, in stages and in nodes, against loops of their equations."""

import asynchronous_workers
import numpy as np
import pytest
import test_programs_local
import test_stages_gossip
import torch
from dataflow_networks import Chain, distance, play
from layer_loops import ByLoops
from layered_workers import CLOSE, FEW, RULES, said
from test_methods import gradients
from test_rules import DECAY, RING, start
from test_stages_gossip import flat
from torch import nn

from decentral.algorithms import DSGD, DecentLaM, PmSGD
from decentral.algorithms.asynchronous import ADPSGD, AsyncPushSum
from decentral.comm import LocalComm
from decentral.comm.layout import Layout, Span
from decentral.dataflow.updates import Updates
from decentral.rounds.ruled import Ruled
from decentral.stages.programs.backprop import BackProp


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_a_worker_without_rounds_makes_the_steps_of_the_loop(rule, monkeypatch):
    layout = Layout((Span("a", 0, 4, (2, 2)), Span("b", 4, 6, (2,))))

    class Layers(asynchronous_workers.Bowl):
        def __init__(self, a, c):
            super().__init__(a, c)
            self.layout = layout

    monkeypatch.setattr(asynchronous_workers, "Bowl", Layers)
    a, c = gradients(1, 6, 1, seed=3)[0].abs().numpy(), gradients(1, 6, 1, seed=4)[0].numpy()
    for method in (ADPSGD(), AsyncPushSum()):
        told = asynchronous_workers.played(
            method, np.ones((1, 1)), start(1, 6).numpy(), 10, lr=0.02, a=a, c=c, rule=rule.decayed(DECAY)
        )
        parts = [nn.Parameter(view.clone()) for view in layout.views(start(1, 6)[0]).values()]
        loop = ByLoops(rule, parts, 0.02, DECAY)
        for _ in range(told.workers[0].t):
            x = torch.cat([p.detach().flatten() for p in parts])
            g = torch.tensor(a[0]) * (x - torch.tensor(c[0]))
            for p, grad in zip(parts, layout.views(g).values(), strict=True):
                p.grad = grad.clone()
            loop.step()
        assert told.workers[0].t >= 10
        found = torch.tensor(asynchronous_workers.models(told))[0]
        torch.testing.assert_close(found, torch.cat([p.detach().flatten() for p in parts]), **CLOSE)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("rule", RULES, ids=said)
def test_stages_make_the_steps_of_the_loop(rule, stages):
    double = torch.float64
    whole, *_ = test_programs_local.train(
        BackProp(), stages, double, optimizer=lambda p: rule.build(p, 0.01, DECAY)
    )
    expected = test_programs_local.backprop_by_torch(double, lambda p: ByLoops(rule, p, 0.01, DECAY))
    test_programs_local.same(whole, expected, tolerance=1e-10)


@pytest.mark.parametrize("method", [DSGD(), DecentLaM(), PmSGD(0.0)], ids=said)
@pytest.mark.parametrize("rule", FEW, ids=said)
def test_stages_that_gossip_ask_it_as_rounds_do(rule, method):
    rounds_of = Ruled(method, rule.decayed(DECAY))
    modules, _, stages = test_stages_gossip.train(BackProp(), rounds_of, RING)
    comm_s = LocalComm(RING)
    comm_s.layout = Layout.of(test_stages_gossip.module())
    expected = rounds_with_layout(rounds_of, comm_s)
    torch.testing.assert_close(torch.stack([flat(whole) for whole in modules]), expected, **CLOSE)
    assert [len(span.shape) for span in stages[0][0].comm.layout.spans] == [2, 1] * 2


def rounds_with_layout(method, comm):
    """:func:`test_stages_gossip.rounds_of_whole_models` with a communicator that knows the layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_stages_gossip, "LocalComm", lambda *_, **__: comm)
        return test_stages_gossip.rounds_of_whole_models(method, RING)[0]


@pytest.mark.parametrize("rule", RULES, ids=said)
def test_nodes_make_the_steps_of_the_loop(rule):
    case = Chain(14)
    ours = play(case, 3, updates=lambda _, p: Updates(rule.build(p, 0.01, DECAY)))
    theirs = play(case, 3, updates=lambda _, p: Updates(ByLoops(rule, p, 0.01, DECAY)))
    assert distance(ours.modules, theirs.modules) < 1e-10
    assert distance(ours.modules, case.modules()) > 1e-5
