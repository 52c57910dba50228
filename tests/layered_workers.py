"""Workers of a model with layers of all kinds, the loops of what rules of layers make of them, and rounds of them."""

import pytest
import torch
from layer_loops import ByLoops
from test_methods import gradients
from test_rules import DECAY, RING, in_rounds, start
from torch import nn

from decentral.comm.layout import Layout
from decentral.optimizers import LAMB, LAMBC, LARC, LARS, NovoGrad

RULES = [
    LARS(trust=0.02), LARS(velocity="plain", momentum=0.8), LARS(exclude="none", trust=0.1),
    LARS(velocity="plain", exclude="none"), LARC(), LARC(mode="scale", trust=0.1), LARC(exclude="none", trust=0.1),
    LAMB(), LAMB(0.8, 0.9, 1e-3, exclude="none"), LAMBC(upper=0.7), LAMBC(lower=0.5, upper=2.0, exclude="none"),
    NovoGrad(), NovoGrad(0.9, 0.5, 1e-3, averaging=True),
]  # fmt: skip
FEW = [LARS(trust=0.02), LARC(trust=0.1), LAMB(), LAMBC(upper=0.7), NovoGrad()]
RATES = [0.02, 0.05, 0.01, 0.0, 0.1, 0.02, 0.02, 0.3, 0.01, 0.04]
CLOSE = {"rtol": 0, "atol": 1e-10}


def network():
    """A convolution, a matrix, vectors, a gain that is 0, and a matrix that is frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)
        )
    module[1].bias.data.zero_()
    module[4].weight.requires_grad_(False)
    return module.double()


LAYOUT = Layout.of(network())
D = LAYOUT.d
G = gradients(4, D, len(RATES), seed=7)
G[:, 1, LAYOUT.spans[4].columns] = 0.0  # worker 1 has a layer without a gradient
X = start(4, D)
X[:, LAYOUT.spans[3].columns] = 0.0


def by_loops(rule, decay, g, rates, after, directions=False):
    """x (h, d) after steps of each worker's loop; ``after(x, lr, t)`` is what becomes of x, or of the direction."""
    x = X[: g.shape[1]].clone()
    parts = [[nn.Parameter(view.clone()) for view in LAYOUT.views(row).values()] for row in x]
    loops = [ByLoops(rule, of_worker, 1.0, decay) for of_worker in parts]
    for t, (lr, g_t) in enumerate(zip(rates, g, strict=True)):
        stepped = []
        for i, loop in enumerate(loops):
            named = zip(parts[i], LAYOUT.views(x[i]).values(), LAYOUT.views(g_t[i]).values(), strict=True)
            for p, value, grad in named:
                p.data, p.grad = value.clone(), grad.clone()
            loop.param_groups[0]["lr"] = lr
            loop.step()
            stepped.append(torch.cat([p.detach().flatten() for p in parts[i]]))
        stepped = torch.stack(stepped)
        x = after((x - stepped) / lr if directions else stepped, lr, t)
    return x


def said(rule):
    """Its name and what is not its default, for a test's name."""
    return repr(rule).replace("weight_decay=0.0, ", "") if not isinstance(rule, float) else str(rule)


def each(test):
    return pytest.mark.parametrize("rule", RULES, ids=said)(
        pytest.mark.parametrize("decay", [0.0, DECAY])(test)
    )


STEADY = [0.02, 0.05, 0.01, 0.04, 0.1, 0.02, 0.02, 0.3, 0.01, 0.04]


@pytest.fixture(autouse=True)
def rates_of_rounds(monkeypatch):
    """To be imported where rounds are: their rates are these."""
    monkeypatch.setattr("test_rules.rates", lambda rounds: STEADY[:rounds])


def rounds(method, rule, decay, g=G, mixing=RING, width=None):
    return in_rounds(method, rule, X[: g.shape[1]], g, decay, width, mixing, LAYOUT)[0]


def fill(module, t, absent=()):
    draw = torch.Generator().manual_seed(t)
    for k, p in enumerate(module.parameters()):
        grad = torch.randn(p.shape, dtype=p.dtype, generator=draw)
        p.grad = grad if p.requires_grad and k not in absent else None
