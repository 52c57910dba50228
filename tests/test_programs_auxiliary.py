"""Penalty, augmented Lagrangian and block-ADMM: their iterations against torch.autograd on the written objectives."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import NMF
from torch import nn

from decentral.errors import UserError
from decentral.runtime import Compute, Send, StageError, VirtualClock
from decentral.stages.cut import cut_evenly
from decentral.stages.factorisation import NonNegativeFactorisation
from decentral.stages.layers import network_of
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.block_admm import BlockADMM
from decentral.stages.programs.penalty import AugmentedLagrangian, Penalty
from decentral.stages.stage import Stage

LABELS = 3


def network(k=3, width=6, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(4, width), nn.Tanh()]
    for _ in range(2 * k - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, LABELS)).double()


def samples(size=8, steps=1, seed=1):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((steps, size, 4)))
    return x, torch.from_numpy(rng.integers(LABELS, size=(steps, size)))


def sgd(lr, momentum=0.0, **more):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **more)


class Played:
    """A run on K stages: the trace, and of each stage what it sent, its inputs, and the gradients of each update."""

    def __init__(self, program, module, x, y, k=3, steps=1, optimizer=None, cost=lambda stage, kind: 0.0):
        net = network_of(module)
        optimizer = optimizer or sgd(0.0)  # frozen parameters
        spans = cut_evenly(len(net.layers), k)
        batches = lambda t: (x[t % len(x)], y[t % len(y)])  # noqa: E731
        self.stages = [Stage(i, spans, net, optimizer, batches, steps) for i in range(k)]
        self.gradients = [[] for _ in range(k)]
        self.inputs = [[] for _ in range(k)]
        self.up = [[] for _ in range(k)]
        self.down = [[] for _ in range(k)]
        for stage in self.stages:
            stage.on_update = lambda t, stage=stage: self.gradients[stage.index].append(
                [p.grad.clone() for p in stage.modules.parameters()]
            )
        self.trace = VirtualClock({s.index: self.watched(s, program.run(s)) for s in self.stages}, cost).run()

    def watched(self, stage, program):
        answer = None
        while True:
            try:
                request = program.send(answer)
            except StopIteration:
                return
            if isinstance(request, Compute) and request.kind == "forward":
                self.inputs[stage.index].append(request.args[0].detach().clone())
            if isinstance(request, Send):
                ways = self.up if request.channel.target > stage.index else self.down
                ways[stage.index].append(request.value.detach().clone())
            answer = yield request


def functions(module, k=3):
    """Each stage as a function of its input alone, with its parameters."""
    net = network_of(module)
    parts = [[net.layers[i] for i in span] for span in cut_evenly(len(net.layers), k)]
    parts[-1].append(net.head)
    return [nn.Sequential(*part) for part in parts]


def backprop(module, x, y, k=3):
    """Each stage's gradients, and the mean loss's gradient at each boundary, by one graph."""
    fs = functions(module, k)
    values = [x]
    for f in fs:
        values.append(f(values[-1]))
    loss = nn.functional.cross_entropy(values[-1], y)
    per_stage = [torch.autograd.grad(loss, list(f.parameters()), retain_graph=True) for f in fs]
    return per_stage, torch.autograd.grad(loss, values[1:-1])


def equal(found, expected, within=0.0, times=1.0):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, times * b, rtol=0, atol=within)


def same_parameters(a, b, within=0.0):
    equal(a.parameters(), b.parameters(), within)


def projection(width, s):
    return torch.kron(torch.eye(width // s), torch.full((s, s), 1 / s)).double()


def by_the_objective(module, x, y, *, beta, eta, inner, steps, lr, multipliers, serial, s=1, k=3):
    """The batch setting by autograd on the whole objective, written per sample; lambda, kappa per sample."""
    fs, size, project = functions(module, k), len(x), projection(6, s)
    parameters = [p for f in fs for p in f.parameters()]

    def descend(gradients):
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= lr * g

    for t in range(steps):
        if serial and t % serial == 0:
            values, h = [], x
            for f in fs[:-1]:
                h = f(h)
                values.append(h)
            loss = nn.functional.cross_entropy(fs[-1](h), y)
            gradients = torch.autograd.grad(loss, [*parameters, *values])
            lam = [v.detach() @ project for v in values]
            kappa = [size * g for g in gradients[len(parameters) :]]
            descend(gradients[: len(parameters)])
        elif t == 0:
            lam, h = [], x
            for f in fs[:-1]:
                h = (f(h) @ project).detach()
                lam.append(h)
            kappa = [torch.zeros_like(v) for v in lam]
        for i in range(inner):
            lam = [v.requires_grad_() for v in lam]
            outputs = [
                f(v) @ (project if f is not fs[-1] else torch.eye(LABELS).double())
                for f, v in zip(fs, [x, *lam], strict=True)
            ]
            residuals = [v - o for v, o in zip(lam, outputs[:-1], strict=True)]
            if multipliers and (i or t or serial):
                kappa = [m - 2 * beta * r.detach() for m, r in zip(kappa, residuals, strict=True)]
            total = nn.functional.cross_entropy(outputs[-1], y, reduction="sum")
            for m, r in zip(kappa, residuals, strict=True):
                total = total + beta * (r**2).sum() - (float(multipliers) * m * r).sum()
            g_lam = torch.autograd.grad(total, lam, retain_graph=True)
            descend(torch.autograd.grad(total / size, parameters))
            lam = [(v - eta * g).detach() for v, g in zip(lam, g_lam, strict=True)]


@pytest.mark.parametrize("serial", [0, 2])
@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("kind", [Penalty, AugmentedLagrangian])
def test_iterations_are_the_gradient_steps_of_the_written_objective(kind, s, serial):
    x, y = samples()
    ours, theirs = network(), network()
    settings = {"beta": 0.7, "eta": 0.2, "inner": 3}
    program = kind(**settings, serial_every=serial, setting="batch", down_sample=s)
    Played(program, ours, x, y, steps=4, optimizer=sgd(0.1))
    by_the_objective(
        theirs,
        x[0],
        y[0],
        **settings,
        steps=4,
        lr=0.1,
        multipliers=kind is AugmentedLagrangian,
        serial=serial,
        s=s,
    )
    same_parameters(ours, theirs, 1e-13)
    with pytest.raises(AssertionError):
        same_parameters(ours, network(), 1e-3)


def test_consistent_values_without_multipliers_teach_the_last_stage_alone():
    x, y = samples()
    for program in (Penalty(inner=1), AugmentedLagrangian(inner=1)):
        played = Played(program, network(), x, y)
        expected, _ = backprop(network(), x[0], y[0])
        equal(played.gradients[2][0], expected[2])
        for k in (0, 1):
            assert all(g.count_nonzero() == 0 for g in played.gradients[k][0])


def test_with_the_adjoint_as_multiplier_every_gradient_is_back_propagations_and_lambda_rests():
    x, y = samples()
    played = Played(AugmentedLagrangian(inner=2, serial_every=1), network(), x, y)
    expected, _ = backprop(network(), x[0], y[0])
    for k in range(3):
        equal(played.gradients[k][1], expected[k])  # [0] is the serial step's
    for k in (1, 2):
        before, after = played.inputs[k][1:3]
        assert (after - before).abs().max() <= 1e-15


def test_the_gradient_goes_down_one_stage_an_iteration_times_2_beta_eta():
    x, y = samples()
    played = Played(Penalty(beta=0.6, eta=1e-6, inner=3), network(), x, y)
    expected, _ = backprop(network(), x[0], y[0])
    factor = 2 * 0.6 * 1e-6
    equal(played.gradients[1][1], expected[1], within=1e-11 * factor, times=factor)
    assert all(g.count_nonzero() == 0 for g in played.gradients[0][1])
    equal(played.gradients[0][2], expected[0], within=1e-5 * factor**2, times=factor**2)


def test_the_first_steps_do_not_depend_on_how_often_the_batch_is_repeated():
    x, y = samples()
    for program in (AugmentedLagrangian(inner=5), BlockADMM(inner=5)):
        once, twice = network(), network()
        Played(program, once, x, y, optimizer=sgd(0.1))
        Played(program, twice, x.repeat(1, 2, 1), y.repeat(1, 2), optimizer=sgd(0.1))
        same_parameters(once, twice, 1e-14)


def test_with_frozen_parameters_the_multipliers_become_the_adjoint_and_the_residual_vanishes():
    x, y = samples()
    module = network()
    played = Played(AugmentedLagrangian(beta=1.0, eta=0.3, inner=300), module, x, y)
    _, adjoint = backprop(module, x[0], y[0])
    for k in (1, 2):
        assert (played.inputs[k][-1] - played.up[k - 1][-1]).abs().max() < 1e-14
        torch.testing.assert_close(played.down[k][-1], adjoint[k - 1], rtol=0, atol=1e-14)


def test_without_multipliers_the_residual_stays():
    x, y = samples()
    played = Played(Penalty(beta=1.0, eta=0.3, inner=300), network(), x, y)
    p = 2 * (played.inputs[2][-1] - played.up[1][-1]) / 8  # 2 beta / B (lambda - X) = - gradient at lambda
    h = played.inputs[2][-1].requires_grad_()
    loss = nn.functional.cross_entropy(functions(network())[2](h), samples()[1][0])
    torch.testing.assert_close(p, -torch.autograd.grad(loss, h)[0], rtol=0, atol=1e-14)
    assert p.abs().max() > 1e-3


@pytest.mark.parametrize(
    "program", [Penalty(inner=0, serial_every=1), AugmentedLagrangian(inner=0, serial_every=1)]
)
def test_serial_steps_alone_are_back_propagation_bit_for_bit(program):
    x, y = samples(steps=5)
    ours, staged, plain = network(), network(), network()
    Played(program, ours, x, y, steps=5, optimizer=sgd(0.1, 0.9))
    Played(BackProp(), staged, x, y, steps=5, optimizer=sgd(0.1, 0.9))
    optimizer = sgd(0.1, 0.9)(plain.parameters())
    for t in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x[t]), y[t]).backward()
        optimizer.step()
    same_parameters(ours, staged)
    same_parameters(ours, plain)


@pytest.mark.parametrize("program", [Penalty(inner=3), BlockADMM(inner=3), AugmentedLagrangian(inner=3)])
def test_one_stage_is_gradient_descent(program):
    x, y = samples()
    ours, plain = network(), network()
    played = Played(program, ours, x, y, k=1, optimizer=sgd(0.1))
    optimizer, losses = sgd(0.1)(plain.parameters()), []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(plain(x[0]), y[0]))
        losses[-1].backward()
        optimizer.step()
    same_parameters(ours, plain)
    assert played.stages[0].losses[0] == losses[0]
    assert not played.trace.channel_bytes


def test_the_noted_loss_is_that_of_the_first_pass_of_each_step():
    x, y = samples(steps=2)
    for program in (Penalty(inner=3), BlockADMM(inner=3), AugmentedLagrangian(inner=2, serial_every=1)):
        module = network()
        played = Played(program, module, x, y, steps=2)
        for t in range(2):
            expected = nn.functional.cross_entropy(module(x[t]), y[t])
            torch.testing.assert_close(played.stages[2].losses[t], expected.detach(), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("program", "up", "down"),
    [  # in boundaries of batch x width numbers, over 4 steps
        (Penalty(inner=3), 4 * 3, 4 * 3),
        (Penalty(inner=3, setting="batch"), 4 * 3, 4 * 3),
        (AugmentedLagrangian(inner=3, serial_every=2), 4 * 3 + 2, 4 * 3 + 2),
        (AugmentedLagrangian(inner=3, serial_every=2, down_sample=2), 4 * 3 / 2 + 2, 4 * 3 / 2 + 2),
        (BlockADMM(inner=3), 4 * (3 + 1), 4 * 3),
        (BlockADMM(inner=3, setting="batch"), 4 * 3 + 1, 4 * 3),
    ],
)
def test_bytes_are_those_that_the_docstrings_say(program, up, down):
    x, y = samples()
    sent = Played(program, network(), x, y, steps=4).trace.channel_bytes
    boundary = 8 * 6 * 8
    assert {(c.source, c.target): n for c, n in sent.items()} == {
        (0, 1): up * boundary, (1, 2): up * boundary, (1, 0): down * boundary, (2, 1): down * boundary,
    }  # fmt: skip


def test_on_maps_the_filter_saves_the_square_of_its_side():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * 8 * 12, LABELS)).double()
    x, y = torch.randn(1, 5, 1, 8, 12).double(), torch.tensor([[0, 1, 2, 0, 1]])
    played = Played(Penalty(inner=1, down_sample=4), module, x, y, k=2)
    assert set(played.trace.channel_bytes.values()) == {5 * 2 * 8 * 12 * 8 // 16}
    full = module[:2](x[0]).detach()
    coarse = full.view(5, 2, 2, 4, 3, 4).mean((3, 5))
    torch.testing.assert_close(played.up[0][0], coarse, rtol=0, atol=1e-15)
    torch.testing.assert_close(
        played.inputs[1][0], torch.kron(coarse, torch.ones(4, 4).double()), rtol=0, atol=1e-15
    )


def test_iterations_take_the_time_of_one_stage_however_many_there_are():
    x, y = samples()
    seconds = {"forward": 1.0, "backward": 2.0}
    for k in (1, 2, 6):
        played = Played(
            Penalty(inner=5, setting="batch"),
            network(),
            x,
            y,
            k=k,
            steps=4,
            cost=lambda _, kind: seconds.get(kind, 0),
        )
        fill = k - 1  # the first forward pass goes through the stages one after the other
        assert played.trace.makespan_s == 4 * 5 * 3 + fill


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Penalty(beta=0.0), "beta = 0.0 must be above 0"),
        (lambda: AugmentedLagrangian(eta=-1.0), "eta = -1.0"),
        (lambda: Penalty(inner=0, serial_every=2), "inner = 0"),
        (lambda: Penalty(serial_every=-1), "serial_every = -1"),
        (lambda: Penalty(setting="both"), "setting = 'both'"),
        (lambda: Penalty(down_sample=0), "down_sample = 0"),
        (lambda: BlockADMM(zeta=0.0), "zeta = 0.0"),
        (lambda: BlockADMM(inner=0), "inner = 0"),
        (lambda: BlockADMM(factors=-1), "factors = -1"),
        (lambda: NonNegativeFactorisation(0), "factors = 0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_cannot_run_is_refused():
    x, y = samples(steps=2)
    with pytest.raises(UserError, match=r"down_sample = 4 does not divide .*\(6,\); use a divisor of 6"):
        Played(Penalty(down_sample=4), network(), x, y)
    for program in (Penalty(setting="batch"), BlockADMM(setting="batch")):
        with pytest.raises(UserError, match="step 1 has another batch"):
            Played(program, network(), x, y, steps=2)
    with pytest.raises(ValueError, match="factors = 2 needs a boundary"):
        Played(BlockADMM(factors=2), network(), x, y, k=1)
    with pytest.raises(StageError, match="factors = 7 is more than 8 samples of 6 features"):
        Played(BlockADMM(factors=7), network(), x, y)


def admm_by_the_objectives(module, x, y, *, beta, zeta, inner, steps, lr, k=3):
    """Block-ADMM in the batch setting by autograd on each problem as written."""
    fs, size = functions(module, k), len(x)
    z, h = [], x
    for f in fs[:-1]:
        h = f(h).detach()
        z.append(h)
    u = [torch.zeros_like(v) for v in z]

    def squared(t, values):  # of block t = 0 .. K-2
        return beta / 2 * ((values[t] - fs[t]([x, *values][t]) + u[t]) ** 2).sum()

    for _ in range(steps * inner):
        new = []
        for t in range(k - 1):
            values = [v.detach() for v in z]
            values[t].requires_grad_()
            own = beta / 2 * ((values[t] - fs[t]([x, *z][t]).detach() + u[t]) ** 2).sum()
            above = (
                squared(t + 1, values)
                if t < k - 2
                else nn.functional.cross_entropy(fs[-1](values[t]), y, reduction="sum")
            )
            new.append((z[t] - zeta * torch.autograd.grad(own + above, values[t])[0]).detach())
        z = new
        problems = [squared(t, z) / size for t in range(k - 1)] + [
            nn.functional.cross_entropy(fs[-1](z[-1]), y)
        ]
        for f, problem in zip(fs, problems, strict=True):
            gradients = torch.autograd.grad(problem, list(f.parameters()))
            with torch.no_grad():
                for p, g in zip(f.parameters(), gradients, strict=True):
                    p -= lr * g
        u = [a + b - f(c).detach() for a, b, f, c in zip(u, z, fs, [x, *z], strict=False)]
    return z, u


def test_block_admm_iterations_are_the_steps_of_the_written_problems():
    x, y = samples()
    ours, theirs = network(), network()
    settings = {"beta": 0.8, "zeta": 0.5, "inner": 3}
    Played(BlockADMM(**settings, setting="batch"), ours, x, y, steps=4, optimizer=sgd(0.1))
    admm_by_the_objectives(theirs, x[0], y[0], **settings, steps=4, lr=0.1)
    same_parameters(ours, theirs, 1e-13)
    with pytest.raises(AssertionError):
        same_parameters(ours, network(), 1e-3)


@pytest.mark.parametrize("program", [BlockADMM(inner=3), AugmentedLagrangian(inner=3), Penalty(inner=3)])
def test_online_programs_forget_values_and_multipliers_with_each_batch(program):
    x, y = samples(steps=2)
    ours, theirs = network(), network()
    Played(program, ours, x, y, steps=2, optimizer=sgd(0.1))
    for t in range(2):
        Played(program, theirs, x[t : t + 1], y[t : t + 1], optimizer=sgd(0.1))
    same_parameters(ours, theirs)


def test_the_first_admm_gradient_with_zeta_beta_1_is_back_propagations():
    x, y = samples()
    played = Played(BlockADMM(beta=4.0, zeta=0.25, inner=1), network(), x, y)
    expected, _ = backprop(network(), x[0], y[0])
    equal(played.gradients[1][0], expected[1], within=1e-15)
    assert all(g.count_nonzero() == 0 for g in played.gradients[0][0])


def test_admm_duals_become_the_adjoint_and_the_residual_vanishes_with_frozen_parameters():
    x, y = samples()
    module = network()
    played = Played(BlockADMM(beta=1.0, zeta=0.5, inner=300), module, x, y)
    _, adjoint = backprop(module, x[0], y[0])
    fs = functions(module)
    h = x[0]
    for k in (0, 1):
        h = fs[k](h)
        assert (played.up[k][-1] - h).abs().max() < 1e-13
        torch.testing.assert_close(played.down[k + 1][-1], 8 * adjoint[k], rtol=0, atol=1e-13)


@pytest.mark.slow
def test_with_multipliers_training_ends_where_back_propagations_gradient_is_zero():
    x, y = samples()[0], samples()[0][..., :LABELS].argmax(-1)
    decay, rest = 0.02, {}
    for program in (BlockADMM(inner=1500), AugmentedLagrangian(inner=1500), Penalty(inner=1500)):
        torch.manual_seed(0)
        layers = [nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, LABELS)]
        module = nn.Sequential(*layers).double()
        Played(program, module, x, y, k=2, optimizer=sgd(0.3, 0.5, weight_decay=decay))
        loss = nn.functional.cross_entropy(module(x[0]), y[0])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        rest[type(program)] = max(
            float((g + decay * p.detach()).abs().max())
            for g, p in zip(gradients, module.parameters(), strict=True)
        )
    assert rest[AugmentedLagrangian] < 1e-4
    assert rest[BlockADMM] < 1e-4
    assert rest[Penalty] > 1e-2  # its minimum is another


@pytest.mark.parametrize(
    "program",
    [
        Penalty(),
        Penalty(down_sample=2),
        AugmentedLagrangian(serial_every=5),
        AugmentedLagrangian(setting="batch"),
        BlockADMM(),
        BlockADMM(setting="batch"),
        BlockADMM(factors=3),
    ],
)
def test_the_network_learns(program):
    x = samples(size=32)[0]
    y, module = x[..., :LABELS].argmax(-1), network()
    before = nn.functional.cross_entropy(module(x[0]), y[0])
    Played(program, module, x, y, steps=25, optimizer=sgd(0.2, 0.5))
    assert nn.functional.cross_entropy(module(x[0]), y[0]) < 0.8 * before


def objective(z, factorisation):
    return float(((z - factorisation.reconstruction) ** 2).sum())


def test_the_factorisation_never_rises_and_never_is_negative():
    for seed, shift in [(0, 0.0), (1, -0.3)]:  # the second has negative entries
        z = torch.from_numpy(np.random.default_rng(seed).random((30, 12)) + shift)
        factorisation = NonNegativeFactorisation(4)
        factorisation.start(z)
        before = objective(z, factorisation)
        for _ in range(50):
            factorisation.step(z)
            after = objective(z, factorisation)
            assert after <= before * (1 + 1e-14)
            assert factorisation.parts.min() >= 0
            assert factorisation.coefficients.min() >= 0
            before = after
        assert factorisation.coefficients.shape == (30, 4)
        assert factorisation.parts.shape == (4, 12)


def test_the_factorisation_is_scikit_learns_from_the_same_start():
    z = torch.from_numpy(np.random.default_rng(2).random((30, 12)))
    factorisation = NonNegativeFactorisation(4)
    factorisation.start(z)
    theirs = NMF(4, init="custom", solver="cd", max_iter=25, tol=0.0)
    m, s = factorisation.coefficients.numpy().copy(), factorisation.parts.numpy().copy()
    m = theirs.fit_transform(z.numpy(), W=m, H=s)
    factorisation.fit(z, 25)
    np.testing.assert_allclose(factorisation.coefficients.numpy(), m, atol=1e-10)
    np.testing.assert_allclose(factorisation.parts.numpy(), theirs.components_, atol=1e-10)


def test_the_start_is_scikit_learns_nndsvd():
    z = torch.from_numpy(np.random.default_rng(3).random((30, 12)))
    factorisation = NonNegativeFactorisation(4)
    factorisation.start(z)
    theirs = NMF(4, init="nndsvd", max_iter=1, tol=0.0, random_state=0)
    theirs.fit(z.numpy())
    factorisation.step(z)
    np.testing.assert_allclose(factorisation.parts.numpy(), theirs.components_, atol=1e-6)


def test_values_of_low_non_negative_rank_are_recovered():
    rng = np.random.default_rng(4)
    sparse = (
        rng.random((40, 3)) * (rng.random((40, 3)) < 0.5),
        rng.random((3, 10)) * (rng.random((3, 10)) < 0.5),
    )
    z = torch.from_numpy(sparse[0] @ sparse[1])
    factorisation = NonNegativeFactorisation(3)
    factorisation.start(z)
    factorisation.fit(z, 2000)
    assert objective(z, factorisation) < 1e-10 * float((z**2).sum())


def test_a_new_batch_keeps_the_parts():
    z = torch.from_numpy(np.random.default_rng(5).random((20, 2, 6)))
    factorisation = NonNegativeFactorisation(3)
    factorisation.start(z[:12])
    assert factorisation.fit(z[:12], 5).shape == (12, 2, 6)
    parts = factorisation.parts.clone()
    factorisation.start(z[12:])
    torch.testing.assert_close(
        factorisation.parts, parts / parts.norm(dim=1, keepdim=True), rtol=1e-14, atol=0
    )
    assert factorisation.coefficients.shape == (8, 3)
    assert factorisation.coefficients.min() >= 0


def positive_network():
    return nn.Sequential(*(nn.Sigmoid() if isinstance(layer, nn.Tanh) else layer for layer in network()))


def test_block_admm_passes_on_sums_of_the_parts_before_the_last_block():
    x, y = samples(size=16, steps=3)
    played = Played(BlockADMM(factors=2, inner=3), positive_network(), x, y, steps=3, optimizer=sgd(0.1))
    forward_passes = {0, 4, 8}  # the first message of each step
    for i, sent in enumerate(played.up[1]):
        assert (torch.linalg.svdvals(sent)[2] < 1e-13) == (i not in forward_passes)
        assert sent.min() >= 0
    assert torch.linalg.svdvals(played.up[0][1])[2] > 1e-6


def test_one_factor_after_many_sweeps_is_the_best_approximation_of_rank_one():
    x, y = samples()
    free = Played(BlockADMM(inner=1), positive_network(), x, y).up[1][1]  # z after its gradient step
    bound = Played(BlockADMM(inner=1, factors=1, sweeps=40), positive_network(), x, y).up[1][1]
    u, sigma, v = torch.linalg.svd(free)  # of a positive matrix: its largest triple is positive
    torch.testing.assert_close(bound, sigma[0] * torch.outer(u[:, 0], v[0]), rtol=0, atol=1e-13)
    hasty = Played(BlockADMM(inner=1, factors=1, sweeps=1), positive_network(), x, y).up[1][1]
    assert (hasty - bound).abs().max() > 1e-12
