"""Optimizers as users write them: some that workers can take turns at, and some that they cannot."""

import torch
from torch.optim import Optimizer


class Rich(Optimizer):
    """Momentum kept in a list, a count that is an int, a mean that begins in the third step, a number of the group."""

    def __init__(self, params, lr=0.1, beta=0.9, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay, "seen": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                state, g = (
                    self.state[p],
                    p.grad.add_(p, alpha=group["weight_decay"]),
                )  # it writes to the gradient
                if not state:
                    state.update(count=0, sums=[torch.zeros_like(p), torch.zeros_like(p)], mean=None, more={})
                state["count"] += 1
                first, second = state["sums"]
                # the two are swapped, and new ones each time
                state["sums"] = [second, first * group["beta"] + g]
                if state["count"] == 3:
                    state["mean"] = p.T.clone().T
                    state["more"]["at"] = 1 / state["count"]
                if state["mean"] is not None:
                    state["mean"].lerp_(p, state["more"]["at"] / group["seen"])
                    p.sub_(state["mean"], alpha=1e-3)
                p.data = p - group["lr"] / state["count"] ** 0.5 * sum(state["sums"])


class Counting(Optimizer):
    """Its group has a count from the first step on, which moves nothing."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                decayed = p.grad + group["weight_decay"] * p
                p.sub_(decayed, alpha=group["lr"] * (1 - 1 / group["count"]))


class Hidden(Optimizer):
    """Its count is an attribute."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=self.param_groups[0]["lr"] / self.count)


class Based(Hidden):
    """It goes on from the lr that it was constructed with."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.base = lr

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=self.base)


class Drawing(Hidden):
    """It draws."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad + torch.randn_like(p), alpha=self.param_groups[0]["lr"])


class Keeping(Hidden):
    """It keeps what is no number."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["past"] = {1, 2}


class Late(Hidden):
    """After 20 steps it keeps more."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["count"] = state.get("count", 0) + 1
            if state["count"] == 20:
                state["late"] = torch.ones(3)
            p.sub_(p.grad, alpha=self.param_groups[0]["lr"])
