"""Rules of layers against pytorch_optimizer's, at settings where it has the papers' equations; and where it has not."""

import pytest
import torch
from test_any_torch import looped
from test_methods import gradients
from test_rule_runs import KINDS, run, write
from test_rules import DECAY, RING, SPANS, in_rounds, start
from torch import nn

from decentral.algorithms import DSGD
from decentral.comm import LocalComm
from decentral.optimizers import LAMB, LARS, OPTIMIZERS, Muon, NovoGrad

theirs = pytest.importorskip("pytorch_optimizer")

RATES = [0.02, 0.05, 0.01, 0.1, 0.03, 0.02, 0.04, 0.02]
SHAPES = (4, 3), (3,), (2, 3, 2), (5,), (3, 6)
WAYS = pytest.mark.parametrize("foreach", [True, False])
DECAYS = pytest.mark.parametrize("decay", [0.0, DECAY])


def parameters(size=0.5):
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(size * torch.randn(shape, dtype=torch.float64, generator=draw)) for shape in SHAPES]


def stepped(make, rates=RATES, before=lambda group, k: None, first=None):
    """What the optimizer that ``make`` gives of the parameters makes of them; ``first``: the parameters to step."""
    mine = first or parameters()
    optimizer, draw = make(mine), torch.Generator().manual_seed(1)
    for k, lr in enumerate(rates):
        for p in mine:
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = lr
            before(group, k + 1)
        optimizer.step()
    return [p.detach() for p in mine]


def same(found, expected):
    # eight steps, each with some ten roundings of numbers below 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def first_steps(make, size=0.5):
    """By how much the first step, with lr = 0.1, moves each parameter."""
    before = parameters(size)
    after = stepped(make, [0.1], first=parameters(size))
    return [float((one.detach() - other).norm()) for one, other in zip(before, after, strict=True)]


# --------------------------------------------------------------------------------------------------- where it is right


@WAYS
@DECAYS
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_with_lr_outside_of_the_velocity(momentum, decay, foreach):
    made = {
        "lr": 0.1,
        "weight_decay": decay,
        "momentum": momentum,
        "trust_coefficient": 0.02,
        "foreach": foreach,
    }
    ours = LARS(momentum, 0.02, "plain"), LARS(momentum, 0.02)
    expected = stepped(lambda p: theirs.LARS(p, **made))
    same(stepped(lambda p: ours[0].build(p, 0.1, decay)), expected)
    pairs = zip(stepped(lambda p: ours[1].build(p, 0.1, decay)), expected, strict=True)
    apart = max(float((one - other).abs().max()) for one, other in pairs)
    assert (apart > 0.01) is (
        momentum > 0
    )  # the paper's form has lr in the velocity, which shows where lr changes
    steady = [0.05] * 8
    same(
        stepped(lambda p: ours[1].build(p, 0.1, decay), steady),
        stepped(lambda p: theirs.LARS(p, **made), steady),
    )


@WAYS
@DECAYS
@pytest.mark.parametrize("betas", [(0.95, 0.98), (0.9, 0.5)])
def test_novograd(betas, decay, foreach):
    made = {"lr": 0.1, "betas": betas, "weight_decay": decay, "foreach": foreach}
    same(
        stepped(lambda p: NovoGrad(*betas).build(p, 0.1, decay)),
        stepped(lambda p: theirs.NovoGrad(p, **made)),
    )


@WAYS
@DECAYS
def test_lamb_with_the_number_of_the_bias_corrections_in_its_decay(decay, foreach):
    # its u is m / (sqrt(v) + eps) + decay w. That of the paper is c times this with decay / c, where c is
    # sqrt(1 - beta2^k) / (1 - beta1^k), and the ratio takes c away; eps is too small to be seen
    made = {"lr": 0.1, "eps": 1e-30, "adam_debias": True, "weight_decouple": False, "foreach": foreach}

    def corrected(group, k):
        group["weight_decay"] = decay * (1 - 0.9**k) / (1 - 0.999**k) ** 0.5

    same(
        stepped(lambda p: LAMB(eps=1e-30, exclude="none").build(p, 0.1, decay)),
        stepped(lambda p: theirs.Lamb(p, **made), before=corrected),
    )


@WAYS
@DECAYS
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_in_groups_of_matrices_and_of_vectors(adjust, decay, foreach):
    def groups(mine):
        matrices, vectors = ([p for p in mine if (p.dim() > 1) is one] for one in (True, False))
        return theirs.Muon(
            [{"params": matrices, "use_muon": True}, {"params": vectors, "use_muon": False}],
            lr=0.1, weight_decay=decay, use_adjusted_lr=adjust == "match_rms_adamw", foreach=foreach,
            ns_coeffs=Muon().ns_coefficients, adamw_betas=(0.9, 0.999), adamw_wd=decay, adamw_eps=1e-8,
        )  # fmt: skip

    same(stepped(lambda p: Muon(adjust_lr_fn=adjust).build(p, 0.1, decay)), stepped(groups))


@pytest.mark.parametrize("name", ["SOAP", "LARS", "AdamP"])
def test_workers_take_turns_at_its_optimizers(name):
    path = f"pytorch_optimizer:{name}"
    g, x = gradients(4, 31, 14), start(4, 31)
    found, _ = in_rounds(DSGD(), OPTIMIZERS[path](), x, g, DECAY, layout=SPANS)
    assert torch.equal(found, looped(path, {}, x, g, LocalComm(RING)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_takes_soap(home, kind):
    rows = run(write(home / "x.toml", kind, optimizer={"name": "pytorch_optimizer:SOAP"}), home / "out")
    first, *_, last = [float(row["train_loss"]) for row in rows]
    assert last < first


# ----------------------------------------------------------------------------------------------- where it is otherwise


@WAYS
def test_its_lars_takes_a_ratio_for_a_layer_without_a_gradient(foreach):
    # trust |w| / (0 + decay |w|) of decay w is trust w; ours is 1 of it, as in most libraries
    made = []
    for make in (
        LARS(0.0, 0.02).build,
        lambda p, lr, decay: theirs.LARS(p, lr, decay, 0.0, trust_coefficient=0.02, foreach=foreach),
    ):
        p = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        p.grad = torch.zeros_like(p)
        make([p], 0.1, DECAY).step()
        made.append(1 - float(p[0, 0].detach()))
    assert made == pytest.approx([0.1 * DECAY, 0.1 * 0.02], rel=1e-12)


@WAYS
def test_the_first_step_of_its_lamb_is_10_times_the_paper_s_and_norms_are_cut_to_10(foreach):
    # lr |w| is the length that the paper gives a layer; the ratio has taken 1 / (1 - beta1) out of u, and it multiplies
    ours, other = LAMB(exclude="none"), lambda p, **more: theirs.Lamb(p, eps=1e-6, foreach=foreach, **more)
    sizes = [float(p.detach().norm()) for p in parameters()]
    assert first_steps(lambda p: ours.build(p, 0.1, 0.0)) == pytest.approx(
        [0.1 * s for s in sizes], rel=1e-12
    )
    assert first_steps(other) == pytest.approx([0.1 * s / (1 - 0.9) for s in sizes], rel=1e-5)
    large = first_steps(lambda p: other(p, adam_debias=True), size=500)
    assert large == pytest.approx([0.1 * 10] * 5, rel=1e-5)


@WAYS
def test_the_first_step_of_its_novograd_is_not_averaged(foreach):
    # m = g / |g| there, and (1 - beta1) g / |g| where, as here, m = 0 comes before
    ours = first_steps(lambda p: NovoGrad(averaging=True).build(p, 0.1, 0.0))
    other = first_steps(lambda p: theirs.NovoGrad(p, grad_averaging=True, foreach=foreach))
    assert ours == pytest.approx([0.1 * (1 - 0.95)] * 5, rel=1e-6)
    assert other == pytest.approx([0.1] * 5, rel=1e-6)
