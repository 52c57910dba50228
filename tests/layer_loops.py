"""What rules of layers are to be, as torch optimizers: their papers' equations parameter by parameter, and torch's."""

import math

import torch


def size(t):
    """|t|, summed without rounding."""
    return math.sqrt(math.fsum(float(v) ** 2 for v in t.flatten()))


def acts(rule, w):
    return rule.exclude == "none" or w.dim() > 1


def lars(rule, w, g, kept, lr, decay):
    decay = decay if acts(rule, w) else 0.0
    ratio = 1.0
    if acts(rule, w) and size(w) and size(g):
        ratio = rule.trust * size(w) / (size(g) + decay * size(w))
    in_velocity, outside = (lr, 1.0) if rule.velocity == "scaled" else (1.0, lr)
    kept["m"] = rule.momentum * kept.get("m", 0.0) + in_velocity * ratio * (g + decay * w)
    return w - outside * kept["m"]


def larc(rule, w, g, kept, lr, decay):
    decay = decay if acts(rule, w) else 0.0
    ratio = 1.0
    if acts(rule, w) and size(w) and size(g):
        own = rule.trust * size(w) / size(g)
        ratio = own if rule.mode == "scale" else 1.0 if own >= lr else own / lr
    kept["m"] = rule.momentum * kept.get("m", 0.0) + ratio * (g + decay * w)
    return w - lr * kept["m"]


def lamb(rule, w, g, kept, lr, decay):
    k = kept["k"] = kept.get("k", 0) + 1
    kept["m"] = rule.beta1 * kept.get("m", 0.0) + (1 - rule.beta1) * g
    kept["v"] = rule.beta2 * kept.get("v", 0.0) + (1 - rule.beta2) * g**2
    r = kept["m"] / (1 - rule.beta1**k) / ((kept["v"] / (1 - rule.beta2**k)).sqrt() + rule.eps)
    if not acts(rule, w):
        return w - lr * r
    u = r + decay * w
    ratio = 1.0
    if size(w) and size(u):
        ratio = min(max(size(w) / size(u), getattr(rule, "lower", 0.0)), getattr(rule, "upper", math.inf))
    return w - lr * ratio * u


def novograd(rule, w, g, kept, lr, decay):
    kept["v"] = rule.beta2 * kept["v"] + (1 - rule.beta2) * size(g) ** 2 if kept else size(g) ** 2
    new = g / (math.sqrt(kept["v"]) + rule.eps) + decay * w
    kept["m"] = rule.beta1 * kept.get("m", 0.0) + (1 - rule.beta1 if rule.averaging else 1.0) * new
    return w - lr * kept["m"]


LOOPS = {"LARS": lars, "LARC": larc, "LAMB": lamb, "LAMBC": lamb, "NovoGrad": novograd}


class ByLoops(torch.optim.Optimizer):
    """The rule's equation, parameter by parameter."""

    def __init__(self, rule, parameters, lr, decay=0.0):
        self.rule = rule
        super().__init__(parameters, {"lr": lr, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        del closure
        loop = LOOPS[type(self.rule).__name__]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    rest = self.state[p], group["lr"], group["weight_decay"]
                    p.copy_(loop(self.rule, p.detach().clone(), p.grad.clone(), *rest))


class ByTorch:
    """Torch's Muon for what has two dimensions or more, as a matrix, and its AdamW for the rest."""

    def __init__(self, rule, parameters, lr, decay=0.0):
        self.parameters = list(parameters)
        self.matrices = {
            p: torch.nn.Parameter(p.detach().flatten(1).clone()) for p in self.parameters if p.dim() > 1
        }
        muon = torch.optim.Muon(
            self.matrices.values(), lr, decay, rule.momentum, rule.nesterov, rule.ns_coefficients, rule.eps,
            rule.ns_steps, rule.adjust_lr_fn,
        )  # fmt: skip
        vectors = [p for p in self.parameters if p.dim() == 1]
        betas = rule.beta1, rule.beta2
        self.both = [muon]
        if vectors:
            self.both.append(torch.optim.AdamW(vectors, lr, betas, rule.vectors_eps, decay, foreach=False))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, lr=None):
        for p, matrix in self.matrices.items():
            matrix.grad = None if p.grad is None else p.grad.flatten(1)
        for one in self.both:
            if lr is not None:
                one.param_groups[0]["lr"] = lr
            one.step()
        for p, matrix in self.matrices.items():
            p.copy_(matrix.view_as(p))
