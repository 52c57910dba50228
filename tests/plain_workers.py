"""Workers with a partly frozen model that make the steps of rules' equations, each in plain torch."""

import copy

import torch
from nlcg_loop import Loop
from test_rules import DECAY, by_itself
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from decentral.runs.experiment import expand
from decentral.runs.place import place_of

RULES = {
    "sgd": {"momentum": 0.9},
    "adamw": {},
    "lars": {"trust": 0.02},
    "larc": {"trust": 0.1},
    "lamb": {},
    "lambc": {"upper": 0.05},
    "novograd": {},
    "rsg": {"beta": 0.9},
    "arsg": {"beta": 0.9, "mu": 0.2},
    "nlcg": {"update": "polak-ribiere", "period": 2, "threshold": 0.1},
}
ROUNDS, WORKERS = 10, 3


class Observing(torch.optim.Optimizer):
    """The equations of RSG and ARSG, parameter by parameter."""

    def __init__(self, rule, parameters):
        self.rule = rule
        super().__init__(parameters, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure=None):
        rule = self.rule
        for p in self.param_groups[0]["params"]:
            kept, g = self.state[p], p.grad + DECAY * p
            kept["m"] = rule.beta * kept.get("m", 0.0) + (1 - rule.beta) * g
            step = (1 - rule.mu) * kept["m"] + rule.mu * g
            if type(rule).__name__ == "ARSG":
                kept["v"] = rule.beta2 * kept.get("v", 0.0) + (1 - rule.beta2) * g**2
                kept["most"] = torch.maximum(kept.get("most", torch.full_like(p, rule.eps)), kept["v"])
                step /= kept["most"].sqrt()
            p -= self.param_groups[0]["lr"] * step


class Plain:
    """A model and the loop of the rule's equation, on what it learns."""

    def __init__(self, rule, module):
        self.module = module
        self.free = [p for p in module.parameters() if p.requires_grad]
        kind = type(rule).__name__
        if kind == "NLCG":
            self.loop = Loop(parameters_to_vector(self.free).detach(), rule, DECAY)
        elif kind in ("RSG", "ARSG"):
            self.loop = Observing(rule, self.free)
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
