"""A frozen parameter stays as it is and the others make the steps of the equations: under all rules, in all places."""

import copy

import pytest
import torch
from dataflow_networks import Chain, play
from nlcg_loop import Loop
from test_metrics import HERE
from test_rules import DECAY, by_itself
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import decentral.runs.asynchronous.training as asynchronous
import decentral.runs.rounds.training as rounds
import decentral.runs.stages.training as stages
from decentral.comm import LocalComm
from decentral.dataflow.updates import Updates
from decentral.optimizers import OPTIMIZERS
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal
from decentral.runs.place import place_of

RULES = {
    "sgd": {"momentum": 0.9},
    "adamw": {},
    "lars": {"trust": 0.02},
    "larc": {"trust": 0.1},
    "lamb": {},
    "lambc": {"upper": 0.05},
    "novograd": {},
    "nlcg": {"update": "polak-ribiere", "period": 2, "threshold": 0.1},
}
ROUNDS, WORKERS = 10, 3
ANY = pytest.mark.parametrize("name", RULES)
BY_LAYERS = pytest.mark.parametrize("name", [name for name in RULES if name != "nlcg"])  # it needs all layers


class Plain:
    """A model and the loop of the rule's equation, on what it learns."""

    def __init__(self, rule, module):
        self.module = module
        self.free = [p for p in module.parameters() if p.requires_grad]
        if type(rule).__name__ == "NLCG":
            self.loop = Loop(parameters_to_vector(self.free).detach(), rule, DECAY)
        else:
            self.loop = by_itself(rule, self.free, 1.0, DECAY)

    def gradient(self, loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.free)])

    def step(self, g, loss, lr):
        """With the gradient g (d,)."""
        if isinstance(self.loop, Loop):
            self.loop.x = self.x
            self.loop.step(g, loss, lr)
            self.x = self.loop.x
            return
        for p, part in zip(self.free, g.split([p.numel() for p in self.free]), strict=True):
            p.grad = part.view_as(p)
        self.loop.param_groups[0]["lr"] = lr
        self.loop.step()

    @property
    def x(self):
        """(d,): what it learns."""
        return parameters_to_vector(self.free).detach().clone()

    @x.setter
    def x(self, row):
        vector_to_parameters(row.clone(), self.free)


def configured(name, **more):
    """A run of the partly frozen model, with a falling learning rate."""
    table = {
        "name": "small",
        "problem": {"name": "module", "factory": "users_models:partly_frozen", "data": "digits"},
        "optimizer": {"name": name, **RULES[name]},
        "schedule": {"name": "cosine"},
        "train": {
            "lr": 0.1, "rounds": ROUNDS, "batch_size": 16, "dtype": "float64", "weight_decay": DECAY,
        },
        **more,
    }  # fmt: skip
    (planned,) = expand(table).runs
    return planned.config


def of_workers(method):
    momentum = {"momentum": 0.0} if method == "pmsgd" else {}
    return {"topology": {"name": "ring", "workers": WORKERS}, "algorithm": {"name": method, **momentum}}


class Workers:
    """Plain models of the workers of a run, each with its own batches."""

    def __init__(self, config, workers):
        self.config = config
        self.objective = config.problem.build(place_of(config, range(workers), torch.device("cpu")))
        self.module = copy.deepcopy(self.objective.evaluation.module)
        self.each = [Plain(config.optimizer, copy.deepcopy(self.module)) for _ in range(workers)]

    def losses(self, t):
        inputs, labels = self.objective._batch(t)
        return [cross_entropy(one.module(inputs[i]), labels[i]) for i, one in enumerate(self.each)]

    def train(self, rounds, after=lambda x: x, averaged=False):
        """x (n, d) after rounds; ``after``: what becomes of x after the steps; ``averaged``: gradients, before them."""
        for t in range(rounds):
            lr = self.config.lr(min(t, ROUNDS - 1))
            losses = self.losses(t)
            g = [one.gradient(loss) for one, loss in zip(self.each, losses, strict=True)]
            losses = [loss.detach() for loss in losses]
            if averaged:
                g, losses = [sum(g) / len(g)] * len(g), [sum(losses) / len(g)] * len(g)
            for one, *rest in zip(self.each, g, losses, strict=True):
                one.step(*rest, lr)
            for one, row in zip(self.each, after(self.x), strict=True):
                one.x = row
        return self.x

    @property
    def x(self):
        return torch.stack([one.x for one in self.each])

    def same(self, module, i=0):
        """That worker's model: what is frozen to the bit, as it was initialised."""
        for p, q in zip(module.parameters(), self.each[i].module.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10 if p.requires_grad else 0)
        pairs = zip(module.parameters(), self.module.parameters(), strict=True)
        assert [torch.equal(p, q) for p, q in pairs] == [not p.requires_grad for p in module.parameters()]
        assert [p.requires_grad for p in module.parameters()] == [True, False, False, True, True, True]


@ANY
@pytest.mark.parametrize("method", ["dsgd", "pmsgd"])
def test_in_rounds(name, method):
    config = configured(name, **of_workers(method))
    training, plain = rounds.Training(config, HERE, Journal()), Workers(config, WORKERS)
    mix = LocalComm(config.topology.mixing()).mix if method == "dsgd" else lambda x: x
    expected = plain.train(ROUNDS, mix, averaged=method == "pmsgd")
    assert training.run().status == "finished"
    assert training.x.shape == (WORKERS, 64 * 6 + 6 + 6 * 10 + 10)
    torch.testing.assert_close(training.x, expected, rtol=0, atol=1e-10)
    module = training.objective.evaluation.module
    vector_to_parameters(training.x[1].clone(), [p for p in module.parameters() if p.requires_grad])
    plain.same(module, 1)


@ANY
def test_without_rounds(name):
    config = configured(name, topology={"name": "complete", "workers": 1}, algorithm={"name": "ad-psgd"})
    training, plain = asynchronous.Training(config, HERE, Journal()), Workers(config, 1)
    assert training.run().status == "finished"
    worker = training.workers[0]
    assert worker.t >= ROUNDS
    torch.testing.assert_close(worker.side.model(), plain.train(worker.t), rtol=0, atol=1e-10)


@ANY
def test_in_stages(name):
    config = configured(name, program={"name": "backprop"}, stages={"count": 1 if name == "nlcg" else 2})
    training, plain = stages.Training(config, HERE, Journal()), Workers(config, 1)
    assert training.run().status == "finished"
    plain.train(ROUNDS)
    plain.same(training.stages[0].network.modules())


@ANY
@pytest.mark.parametrize("method", ["dsgd", "pmsgd"])
def test_in_stages_that_gossip(name, method):
    count = 1 if name == "nlcg" else 2
    config = configured(name, program={"name": "backprop"}, stages={"count": count}, **of_workers(method))
    training, plain = stages.Training(config, HERE, Journal()), Workers(config, WORKERS)
    mix = LocalComm(config.topology.mixing()).mix if method == "dsgd" else lambda x: x
    plain.train(ROUNDS, mix, averaged=method == "pmsgd")
    assert training.run().status == "finished"
    for i in range(WORKERS):
        plain.same(training.stages[i * count].network.modules(), i)


class Frozen(Chain):
    """The chain, whose first layer learns its weight alone and whose second its bias alone."""

    def modules(self):
        made = super().modules()
        made["a"].bias.requires_grad_(False)
        made["b"].weight.requires_grad_(False)
        return made


@BY_LAYERS
def test_in_nodes(name):
    rule, case, made, lrs = OPTIMIZERS[name](**RULES[name]), Frozen(5), [], (0.1, 0.03)

    def updates(_, parameters):
        made.append(Updates(rule.build(parameters, 0.5, DECAY)))
        return made[-1]

    def phases():
        for lr in lrs:
            for one in made:
                one.lr = lr
            yield range(case.count)

    found = play(case, phases=phases(), updates=updates).modules
    modules, first = case.modules(), case.modules()
    plain = [Plain(rule, modules[node]) for node in "abc"]
    for lr in lrs:
        for key in range(case.count):
            loss = case.loss(modules, key)
            g = torch.autograd.grad(loss, [p for one in plain for p in one.free])
            parts = torch.cat([part.flatten() for part in g]).split([one.x.numel() for one in plain])
            for one, part in zip(plain, parts, strict=True):
                one.step(part, loss.detach(), lr)
    for node in "abc":
        both = zip(
            found[node].parameters(), modules[node].parameters(), first[node].parameters(), strict=True
        )
        for p, q, begun in both:
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
            assert torch.equal(p, begun) is not p.requires_grad
    assert sum(not p.requires_grad for p in nn.ModuleDict(found).parameters()) == 2
