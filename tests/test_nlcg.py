"""NLCG against a plain loop of its equations: on rows, and as a torch optimizer."""

import copy
from itertools import pairwise

import pytest
import torch
from nlcg_loop import Loop
from test_rules import DECAY, fill, rates, start, two_layers
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.algorithms.state import tensors_of
from decentral.comm.layout import Layout
from decentral.optimizers import NLCG
from decentral.optimizers.dots import dots

STEPS = 32
RULES = [
    NLCG(),
    NLCG(precondition=False, monitor="online"),
    NLCG("polak-ribiere", monitor="online", threshold=0.3),
    NLCG("polak-ribiere", precondition=False, period=2),
    NLCG(period=1, threshold=0.2),
]


def losses(h):
    """(STEPS, h): of some workers they fall, of others they rise, in waves."""
    t, i = torch.arange(STEPS, dtype=torch.float64)[:, None], torch.arange(h, dtype=torch.float64)
    return 2.0 + (i - 1) * 0.04 * t + 0.9 * torch.sin(t * (0.4 + i / 3))


def noisy(x, t):
    """Gradients (h, d) of quadratics with a curvature of their own, with noise."""
    draw = torch.Generator().manual_seed(t)
    a = 0.2 + torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(99))
    return a * (x - 0.5) + 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=draw)


def on_rows(rule, x, layout=None):
    """x after STEPS on it, and the state."""
    x, layout, of = x.clone(), Layout.whole(x.shape[1]), losses(len(x))
    state = rule.init(x, layout)
    for t, lr in enumerate(rates(STEPS, 0.05)):
        state = rule.heard(state, of[t])
        state = rule.step_(x, state, noisy(x, t), layout, lr)
    return x, state


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_worker_is_a_plain_loop_of_the_equations(rule, decay):
    h, x = 4, start(4, 37)
    found, state = on_rows(rule.decayed(decay), x)
    loops, of = [Loop(row, rule, decay) for row in x], losses(h)
    for t, lr in enumerate(rates(STEPS, 0.05)):
        g = noisy(torch.stack([one.x for one in loops]), t)
        for i, one in enumerate(loops):
            one.step(g[i], of[t, i], lr)
    torch.testing.assert_close(found, torch.stack([one.x for one in loops]), rtol=0, atol=1e-10)
    torch.testing.assert_close(state.base[:, 0], torch.tensor([one.base for one in loops]).double())
    trace = [step for one in loops for step in one.trace]
    assert min(base for _, base, *_ in trace) < 0.9  # it has shrunk, been taken back, and grown again
    assert any(back for *_, back, _ in trace)
    assert any(a[1] < b[1] for one in loops for a, b in pairwise(one.trace))
    assert any(0 < beta < 1 for beta, *_ in trace)
    assert any(moved for *_, moved in trace) is rule.precondition


@pytest.mark.parametrize("rule", RULES[:3], ids=repr)
def test_a_worker_s_bits_are_its_own_whoever_is_hosted_with_it(rule):
    x, of = start(4, 5_001), losses(4)
    layout = Layout.whole(5_001)

    def steps(rows):
        part = x[rows].clone()
        state = rule.init(part, layout)
        for t in range(7):
            state = rule.heard(state, of[t, rows])
            state = rule.step_(part, state, noisy(x, t)[rows], layout, 0.05)
        return [part, *tensors_of(state)]

    together = steps(slice(0, 4))
    for i in range(4):
        alone = steps(slice(i, i + 1))
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("h", "d"), [(1, 1), (3, 2_048), (2, 5_001), (1, 70_000), (70, 2_500)])
def test_inner_products_are_sums_of_pieces_in_their_order(h, d, dtype):
    a, b = start(h, d, dtype), start(h, d, dtype).flip(1)
    expected = torch.zeros(h, 1, dtype=torch.float64)
    for k in range(0, d, 2_048):
        expected += (a[:, k : k + 2_048].double() * b[:, k : k + 2_048].double()).sum(1, keepdim=True)
    assert torch.equal(dots(a, b), expected)
    torch.testing.assert_close(
        expected, (a.double() * b.double()).sum(1, keepdim=True), rtol=1e-12, atol=1e-9
    )


def test_on_a_quadratic_its_steps_are_conjugate_gradients_while_b_is_below_one():
    # with exact steps along d, which is what lr = -g'd / d'Ad is, and without a change of base
    a = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    x, centre = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    rule, layout = NLCG(precondition=False), Layout.whole(4)
    state, sizes, factors = rule.init(x, layout), [], []
    for _ in range(4):
        g = (x - centre) @ a
        sizes.append(float(g.norm()))
        state = rule.heard(state, torch.ones(1, dtype=torch.float64))
        d, state = rule.direction(x, state, g, layout, 1.0)
        factors.append(float((g * d).sum() / (d @ a * d).sum()))
        x = x - factors[-1] * d
    assert all(later < earlier for earlier, later in pairwise(sizes))
    torch.testing.assert_close(x, centre, rtol=0, atol=1e-6)  # four steps in four dimensions; eps is in b


def test_without_losses_the_step_stays_as_it_is():
    rule, layout, x = NLCG(period=1), Layout.whole(3), start(2, 3)
    state = rule.init(x, layout)
    for t in range(4):
        state = rule.step_(x, state, noisy(x, t), layout, 0.1)
    assert torch.equal(state.base, torch.ones_like(state.base))


# ------------------------------------------------------------------------------------------------- as a torch optimizer


def batch(t):
    draw = torch.Generator().manual_seed(t)
    x = torch.randn(8, 5, dtype=torch.float64, generator=draw)
    return x, torch.randint(3, (8,), generator=draw)


def trained(rule, step_of, steps=12):
    """A module with matrices, vectors and a frozen parameter after steps, and the loop that it should be."""
    module, plain = two_layers(), two_layers()
    for one in (module, plain):
        one[0].bias.requires_grad_(False)
    free = [p for p in plain.parameters() if p.requires_grad]
    loop = Loop(nn.utils.parameters_to_vector(free).detach(), rule, DECAY)
    step = rule.build(module.parameters(), 0.1, DECAY)
    for t, lr in enumerate(rates(steps, 1.0)):
        x, y = batch(t)
        nn.utils.vector_to_parameters(loop.x, free)
        loss = cross_entropy(plain(x), y)
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, free)])
        loop.step(g, loss.detach(), lr)
        step.param_groups[0]["lr"] = lr
        step = step_of(module, step, x, y, t)
    return module, loop


def by_closure(module, step, x, y, t):
    def closure():
        step.zero_grad()
        loss = cross_entropy(module(x), y)
        loss.backward()
        return loss

    assert float(step.step(closure).detach()) > 0
    return step


def by_hearing(module, step, x, y, t):
    step.zero_grad()
    loss = cross_entropy(module(x), y)
    loss.backward()
    step.hear(loss)
    step.step()
    return step


def with_saved_states(module, step, x, y, t):
    step = by_closure(module, step, x, y, t)
    if t == 4:
        fresh = step.rule.build(module.parameters(), 0.5, 0.5)
        fresh.load_state_dict(copy.deepcopy(step.state_dict()))
        return fresh
    return step


@pytest.mark.parametrize("step_of", [by_closure, by_hearing, with_saved_states])
@pytest.mark.parametrize("rule", [RULES[0], RULES[2], RULES[3]], ids=repr)
def test_a_built_optimizer_is_the_plain_loop(rule, step_of):
    module, loop = trained(rule, step_of)
    free = [p.detach() for p in module.parameters() if p.requires_grad]
    torch.testing.assert_close(nn.utils.parameters_to_vector(free), loop.x, rtol=0, atol=1e-10)
    assert torch.equal(module[0].bias, two_layers()[0].bias)
    assert min(base for _, base, *_ in loop.trace) < 1


def test_a_built_optimizer_is_copied_with_its_module():
    module = two_layers()
    step = NLCG().build(module.parameters(), 0.1, DECAY)
    by_closure(module, step, *batch(0), 0)
    twin, twin_step = copy.deepcopy((module, step))
    for one, optimizer in ((module, step), (twin, twin_step)):
        by_hearing(one, optimizer, *batch(1), 1)
    assert all(map(torch.equal, module.parameters(), twin.parameters()))


def test_a_built_optimizer_says_what_it_needs():
    module = two_layers()
    step = NLCG().build(module.parameters(), 0.1, 0.0)
    fill(module, 0)
    with pytest.raises(
        ValueError, match=r"NLCG needs the loss of each batch; call step\(closure\) or hear\(loss\)"
    ):
        step.step()
    step.hear(1.0)
    step.step()
    module[0].bias.grad = None
    step.hear(1.0)
    with pytest.raises(ValueError, match="the same parameters in every step"):
        step.step()
    reloaded = NLCG().build(module.parameters(), 0.1, 0.0)
    reloaded.load_state_dict(step.state_dict())
    reloaded.hear(1.0)
    with pytest.raises(ValueError, match="the same parameters in every step"):
        reloaded.step()
    with pytest.raises(ValueError, match="one group of parameters"):
        NLCG().build([{"params": [p]} for p in module.parameters()], 0.1, 0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"update": "hestenes"}, "update = 'hestenes' must be one of fletcher-reeves, polak-ribiere"),
        ({"monitor": "none"}, "monitor = 'none' must be one of step, online"),
        ({"period": 0}, "period = 0 must be at least 1"),
        ({"threshold": 0.0}, "threshold = 0.0 must be positive"),
        ({"threshold": float("inf")}, "threshold = inf must be a finite number"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        NLCG(**settings)
