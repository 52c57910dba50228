"""What may be known of a method without running it; and of a user's own, which may say nothing of itself."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import topologies
from decentral.algorithms import ALGORITHMS, DSGD, MATCHA, SlowMo, Traits
from decentral.algorithms.rest import Rest, rest_of
from decentral.algorithms.titles import titles
from decentral.algorithms.traits import maker_of, traits_of
from decentral.comm import LocalComm
from decentral.commands.advise_methods import candidates
from decentral.commands.catalogue import print_catalogue
from decentral.commands.compatibility import compatibility
from decentral.rounds.advance import advance
from decentral.rounds.script.optimizer import Decentralized
from topologies import named

TITLES = {
    "pmsgd": "PmSGD", "dsgd": "DSGD", "dmsgd": "DmSGD", "decentlam": "DecentLaM", "quasi-global": "QG-DSGDm",
    "d2": "D2", "exact-diffusion": "exact diffusion", "extra": "EXTRA", "gradient-tracking": "gradient tracking",
    "diging": "DIGing", "momentum-tracking": "momentum tracking", "local-sgd": "local SGD",
    "gossip-pga": "Gossip-PGA", "slowmo": "SlowMo", "diloco": "DiLoCo", "relay-sgd": "RelaySGD",
    "push-sum": "push-sum", "push-diging": "Push-DIGing", "choco": "CHOCO", "power-gossip": "PowerGossip",
    "matcha": "MATCHA", "ad-psgd": "AD-PSGD", "async-push-sum": "async push-sum",
    "async-local-sgd": "async local SGD",
}  # fmt: skip


class Bare:
    """DSGD that says nothing of itself, and is no dataclass."""

    def init(self, x, comm):
        return ()

    def step(self, x, state, g, comm, lr):
        return comm.mix_(x.sub_(g, alpha=lr)), state


@dataclass(frozen=True)
class Rare:
    """Gossips in every ``every``-th round."""

    every: int = 2

    traits = Traits(title="rarely", needs=("rows", "symmetric"))

    def init(self, x, comm):
        return ()

    def step(self, x, state, g, comm, lr):
        x = x.sub_(g, alpha=lr)
        return (comm.mix_(x) if (comm.t + 1) % self.every == 0 else x), state


def test_titles_are_those_of_the_hand_made_table():
    assert titles() == TITLES


@pytest.mark.parametrize("base", [name for name in ALGORITHMS if name != "slowmo"])
def test_slowmo_has_the_traits_of_its_base_but_sends_models(base):
    method, inner = SlowMo(base), traits_of(ALGORITHMS[base]())
    sends = "edges" if inner.sends == "edges" else "models"
    assert method.traits == replace(inner, title="SlowMo", sends=sends)
    assert bool(maker_of(method)) == (base == "matcha")


def test_slowmo_makes_the_matrices_that_its_base_makes():
    graph = topologies.ring(6)
    ours, theirs = SlowMo("matcha").schedule(graph), MATCHA().schedule(graph)
    assert all((ours.matrix(t) != theirs.matrix(t)).nnz == 0 for t in range(5))
    with pytest.raises(ValueError, match="makes no mixing matrices of its own"):
        SlowMo("dsgd").schedule(graph)


def test_what_a_method_does_not_say_is_as_of_most():
    assert traits_of(Bare()) == traits_of(None) == Traits()
    assert rest_of(Bare()) is None
    assert rest_of(DSGD()) == Rest("atc", changing=True)
    assert rest_of(MATCHA()) is None


def test_a_method_without_traits_makes_rounds_and_steps_of_a_script():
    x, g = torch.randn(4, 6), torch.randn(4, 6)
    found = []
    for method in (Bare(), DSGD()):
        comm = LocalComm(topologies.mixing_matrix(topologies.ring(4)))
        gradient = [(slice(0, 6), g.clone())]
        found.append(advance(method, x.clone(), method.init(x, comm), gradient, comm, 0, 0.1)[0])
    assert torch.equal(*found)
    model = nn.Linear(2, 1)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Decentralized(inner, Bare(), LocalComm(topologies.constant([[1.0]])), model)
    before = model.weight.detach().clone()
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * 3)


@pytest.mark.parametrize(("kind", "title"), [(Bare, None), (Rare, "rarely")])
def test_a_method_that_is_added_to_the_table_is_seen(kind, title, monkeypatch, capsys):
    for name in list(ALGORITHMS):  # of which no other is asked for, to save time
        monkeypatch.delitem(ALGORITHMS, name)
    monkeypatch.setitem(ALGORITHMS, "own", kind)
    assert titles().get("own") == title
    print_catalogue("algorithms")
    assert "own" in capsys.readouterr().out
    (refused,) = compatibility(4).values()
    assert "ring" not in refused
    assert ("exponential" in refused) == (kind is Rare)
    (row,) = candidates()
    assert row.sends.late == (1 if kind is Bare else 1 / 2)
    assert SlowMo("own").traits == replace(traits_of(kind()), title="SlowMo")


def test_a_topology_by_name_and_its_mixing():
    assert {type(named.build(name, 4)) for name in topologies.SCHEDULES} == {topologies.Schedule}
    for name, rule in (("ring", "metropolis"), ("exponential", "uniform")):
        graph = named.build(name, 8)
        w = topologies.mixing_matrix(graph, rule)
        assert (named.mixing(graph).matrix(0) != w).nnz == 0
    schedule = named.build("random-matching", 4, seed=1)
    assert named.mixing(schedule) is schedule
    graph = named.build("star", 4)
    assert named.mixing(graph, make=MATCHA(budget=1.0).schedule).period is None
    with pytest.raises(ValueError, match="unknown weights"):
        named.mixing(graph, "nearly")
