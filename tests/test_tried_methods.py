"""What is found of a method by trying it: that it looks across columns, breaks its contract, has momentum."""

import tomllib
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from decentral.algorithms import (
    ALGORITHMS,
    DSGD,
    DecentLaM,
    DmSGD,
    LocalSGD,
    PmSGD,
    QuasiGlobal,
    SlowMo,
    Traits,
)
from decentral.comm import LocalComm
from decentral.comm.world import LocalWorld
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS, SGD, Adam
from decentral.rounds.ruled import Ruled
from decentral.rounds.script.optimizer import Decentralized
from decentral.rounds.trials.columns import looks_across, looks_across_layers
from decentral.rounds.trials.contract import refuse_misfit
from decentral.rounds.trials.momentum import momentum_twice, rule_has_momentum, steps_made_of_one
from decentral.runs.journal import Journal
from decentral.runs.place import Here
from decentral.runs.reading import read
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.refusals import check as check_rounds
from decentral.runs.rounds.training import Training
from decentral.runs.stages.config import StageRun
from decentral.runs.stages.training import check as check_stages


class Kept(NamedTuple):
    m: Tensor


class Mine:
    """A user's method made of functions of the gradient, of x, and of what init and step give."""

    def __init__(self, direction=None, init=lambda x: (), step=None):
        self.direction, self._init, self._step = direction, init, step

    def init(self, x, comm):
        return self._init(x)

    def step(self, x, state, g, comm, lr):
        if self._step:
            return self._step(x, state, g, comm, lr)
        return comm.mix_(x.sub_(self.direction(x, g), alpha=lr)), state


def clip(limit):
    return lambda x, g: g * (limit / g.norm(dim=1, keepdim=True)).clamp(max=1)


ACROSS = {
    "clipping by a small norm": clip(0.5),
    "clipping by a large norm": clip(1e4),
    "trust ratio": lambda x, g: g * (x.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True)).clamp(max=10),
    "largest entry": lambda x, g: torch.zeros_like(g).scatter_(1, g.abs().argmax(1, keepdim=True), 1.0),
    "sorted": lambda x, g: g.sort(1).values,
    "sign of a sum": lambda x, g: g * g.sum(1, keepdim=True).sign(),
    "centred": lambda x, g: g - g.mean(1, keepdim=True),
    "largest hundred": lambda x, g: g * (g.abs() >= g.abs().topk(100).values[:, -1:]),
    "shifted": lambda x, g: g.roll(1, 1),
}
ALIKE = {
    "clipped entries": lambda x, g: g.clamp(-1, 1),
    "signs": lambda x, g: g.sign(),
    "functions of entries": lambda x, g: g.tanh() * x.sigmoid(),
    "across workers": lambda x, g: g / (g.norm(dim=0, keepdim=True) + 1e-8),
}


@pytest.mark.parametrize("name", ACROSS)
def test_methods_that_look_across_columns_are_found(name):
    assert looks_across(Mine(ACROSS[name]))
    assert looks_across_layers(Mine(ACROSS[name]))


@pytest.mark.parametrize("name", ALIKE)
def test_methods_that_act_alike_on_columns_are_left_in_blocks(name):
    assert not looks_across(Mine(ALIKE[name]))
    assert not looks_across_layers(Mine(ALIKE[name]))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_method_of_the_table_looks_across_columns_or_breaks_its_contract(name):
    method = ALGORITHMS[name]()
    assert not looks_across(method)
    assert not looks_across_layers(method)
    refuse_misfit(method, torch.float64)
    refuse_misfit(method, torch.float32)


def test_layers_by_themselves_are_whole_in_blocks_and_right_in_stages():
    def by_layer(x, state, g, comm, lr):
        for span in comm.layout.spans:
            part = g[:, span.columns]
            x[:, span.columns] -= lr * part / part.norm(dim=1, keepdim=True)
        return comm.mix_(x), state

    assert looks_across(Mine(step=by_layer))
    assert not looks_across_layers(Mine(step=by_layer))


def test_what_acts_in_some_rounds_only_or_is_behind_a_rule_is_found_too():
    @dataclass(frozen=True)
    class Sometimes:
        every: int = 40

        def init(self, x, comm):
            return ()

        def step(self, x, state, g, comm, lr):
            g = clip(0.1)(x, g) if (comm.t + 1) % self.every == 0 else g
            return comm.mix_(x.sub_(g, alpha=lr)), state

    assert looks_across(Sometimes())
    assert looks_across(Ruled(Sometimes(), SGD(0.9)))
    assert not looks_across(Ruled(DmSGD(), Adam()))


def test_a_trial_leaves_the_random_numbers_of_a_run_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    looks_across(Mine(lambda x, g: g + torch.randn_like(g)))
    refuse_misfit(Mine(lambda x, g: g + torch.randn_like(g)))
    assert torch.equal(torch.rand(3), expected)


@dataclass(frozen=True)
class Clipping:
    limit: float = 0.05

    def init(self, x, comm):
        return ()

    def step(self, x, state, g, comm, lr):
        return comm.mix_(x.sub_(clip(self.limit)(x, g), alpha=lr)), state


@dataclass(frozen=True)
class Whole(Clipping):
    traits = Traits(whole=True)


TABLE = """
name = "clip"
seeds = [0]
[problem]
name = "mlp"
hidden = [8]
[topology]
name = "ring"
workers = 4
[algorithm]
name = "dsgd"
[train]
lr = 0.5
rounds = 4
batch_size = 8
dtype = "float64"
"""


def notes_of(journal_notes):
    class Noting(Journal):
        def begin(self, facts, notes, row=None):
            journal_notes.extend(notes)
            super().begin(facts, notes, row)

    return Noting()


def trained(method, optimizer=""):
    run = read(RoundsRun, tomllib.loads(TABLE + optimizer))
    object.__setattr__(run, "algorithm", method)
    check_rounds(run, LocalWorld())
    notes: list[str] = []
    training = Training(run, Here(LocalWorld(), torch.device("cpu")), notes_of(notes))
    training.run()
    return training.x, notes


def test_a_run_does_its_rounds_whole_and_notes_it():
    x, notes = trained(Clipping())
    stated, unsaid = trained(Whole())
    assert torch.equal(x, stated)
    assert sum("Clipping looks across the columns" in note for note in notes) == 1
    assert not any("looks across" in note for note in unsaid)
    # a step of 0.5 clipped to 0.05 moves no worker's model by more than 0.025, and gossip moves the mean not at all
    start = Training(
        read(RoundsRun, tomllib.loads(TABLE)), Here(LocalWorld(), torch.device("cpu")), Journal()
    ).objective.start()
    assert float((x.mean(0) - start).norm()) <= 4 * 0.025 + 1e-12


def test_stages_refuse_what_looks_across_the_whole_model():
    table = tomllib.loads(TABLE)
    table |= {"stages": {"count": 2}, "program": {"name": "local"}}
    table["problem"]["hidden"] = [8, 8]
    run = read(StageRun, table)
    check_stages(run, LocalWorld())
    object.__setattr__(run, "algorithm", Clipping())
    with pytest.raises(UserError, match=r"Clipping looks across the columns .* use stages.count = 1"):
        check_stages(run, LocalWorld())


STEP = lambda x, s, g, c, lr: (c.mix_(x.sub_(g, alpha=lr)), s)  # noqa: E731
MISFITS = {
    "gives None; it must give two": Mine(step=lambda x, s, g, c, lr: None),
    "it must give two things": Mine(step=lambda x, s, g, c, lr: c.mix(x)),
    "gives models of (1, 6)": Mine(step=lambda x, s, g, c, lr: (c.mean(x), s)),
    "gives models of (4, 6) float32 for": Mine(step=lambda x, s, g, c, lr: (x.float(), s)),
    "must be a torch tensor": Mine(step=lambda x, s, g, c, lr: (x.numpy(), s)),
    "init gives None for the state": Mine(init=lambda x: None, step=STEP),
    "init gives a dict for the state": Mine(init=lambda x: {"m": x.clone()}, step=STEP),
    "init gives (4, 6) float64 for the state": Mine(init=lambda x: x.clone(), step=STEP),
    "init puts 'm' into the state": Mine(init=lambda x: ("m",), step=STEP),
    "init puts (6,) float64": Mine(init=lambda x: Kept(x[0].clone()), step=STEP),
    "init puts (1, 6) float64": Mine(init=lambda x: Kept(x[:1].clone()), step=STEP),
    "init puts (4, 6) float32": Mine(init=lambda x: Kept(torch.zeros(x.shape)), step=STEP),
    "init changes the models": Mine(init=lambda x: Kept(x.mul_(0).clone()), step=STEP),
    "init keeps a state in the memory of x": Mine(init=lambda x: Kept(x[:, :]), step=STEP),
    "step keeps a state in the memory of x or g": Mine(
        init=lambda x: Kept(x.clone()), step=lambda x, s, g, c, lr: (c.mix(x - lr * g + (x - s.m)), Kept(x))
    ),
    "keep x.clone()": Mine(
        init=lambda x: Kept(torch.zeros_like(x)),
        step=lambda x, s, g, c, lr: (c.mix(x - lr * (g - s.m)), Kept(g)),
    ),
    "gives a state of Kept((4, 6) float64) where it was tuple()": Mine(
        step=lambda x, s, g, c, lr: (c.mix(x - lr * g), Kept(g.clone()))
    ),
    "step fails with 'RuntimeError": Mine(step=lambda x, s, g, c, lr: (x + x.new_zeros(5), s)),
}


@pytest.mark.parametrize("said", MISFITS)
def test_what_init_or_step_must_not_give_is_refused_in_one_line(said):
    with pytest.raises(UserError) as refused:
        refuse_misfit(MISFITS[said])
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_the_command_line_and_the_drop_in_refuse_it_before_they_begin():
    bad = MISFITS["gives models of (1, 6)"]
    with pytest.raises(UserError, match=r"Mine.step gives models"):
        trained(bad)
    layer = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"Mine.step gives models"):
        Decentralized(torch.optim.SGD(layer.parameters(), 0.1), bad, LocalComm([[1.0]]))
    with pytest.raises(UserError, match="Mine has no init"):
        refuse_misfit(type("Mine", (), {"step": STEP})())


# ----------------------------------------------------------------------------------------------- momentum over momentum


@pytest.mark.parametrize(
    ("method", "times"),
    [
        (DSGD(), 1), (DmSGD(0.0), 1), (LocalSGD(), 1), (DmSGD(0.5), 2), (DmSGD(0.9), 10), (DecentLaM(0.8), 5),
        (QuasiGlobal(0.9), 10), (LocalSGD(every=7, momentum=0.9), 10), (PmSGD(0.9, nesterov=True), 10),
        (SlowMo("dsgd", slow_momentum=0.75), 4),
    ],
)  # fmt: skip
def test_momentum_makes_1_over_1_minus_beta_steps_of_one(method, times):
    assert steps_made_of_one(method) == pytest.approx(times, rel=2e-3)
    assert bool(momentum_twice(method, "AdamW")) is (times > 1)


def test_rules_with_momentum_are_found_by_asking_them():
    found = {
        rule: rule_has_momentum(rule) for rule in (SGD(), SGD(0.9), SGD(0.5, True), Adam(), Adam(beta1=0.0))
    }
    assert list(found.values()) == [False, True, True, True, False]
    assert rule_has_momentum(OPTIMIZERS["adamw"]().decayed(0.1))


def test_a_run_notes_momentum_over_momentum():
    over = '[optimizer]\nname = "adamw"\n'
    _, notes = trained(DmSGD(0.9), over)
    assert any(
        "DmSGD sums up what AdamW has averaged already, so a step is about 10 times" in n for n in notes
    )
    for method, optimizer in ((DSGD(), over), (DmSGD(0.9), ""), (DmSGD(0.9), over + "beta1 = 0.0\n")):
        assert not any("momentum" in note for note in trained(method, optimizer)[1])


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_the_drop_in_warns_of_it(make):
    with pytest.warns(UserWarning, match="momentum over momentum: DecentLaM .* 10 times"):
        Decentralized(make(nn.Linear(2, 2).parameters()), DecentLaM(0.9), LocalComm([[1.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Decentralized(make(nn.Linear(2, 2).parameters()), DSGD(), LocalComm([[1.0]]))
        plain = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
        Decentralized(plain, DecentLaM(0.9), LocalComm([[1.0]]))


def test_the_drop_in_of_a_method_that_looks_across_has_one_block():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    start = [p.detach().clone() for p in net.parameters()]
    optimizer = Decentralized(torch.optim.SGD(net.parameters(), 0.1), Clipping(0.1), LocalComm([[1.0]]))
    assert len(optimizer.row.blocks) == 1
    net(torch.ones(3, 6)).square().sum().backward()
    norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    optimizer.step()
    for p, before in zip(net.parameters(), start, strict=True):
        assert torch.allclose(p, before - 0.1 * p.grad * (0.1 / norm), rtol=1e-5)


# ------------------------------------------------------------------------------------------ one worker is torch's own


@pytest.mark.parametrize(
    ("method", "make"),
    [
        (DSGD(), lambda p: torch.optim.SGD([p], 0.1)),
        (PmSGD(0.9), lambda p: torch.optim.SGD([p], 0.1, momentum=0.9)),
        (PmSGD(0.8, nesterov=True), lambda p: torch.optim.SGD([p], 0.1, momentum=0.8, nesterov=True)),
        (DmSGD(0.9), lambda p: torch.optim.SGD([p], 0.1, momentum=0.9)),
        (DmSGD(0.7, "awc"), lambda p: torch.optim.SGD([p], 0.1, momentum=0.7)),
        (DmSGD(0.7, "nesterov"), lambda p: torch.optim.SGD([p], 0.1, momentum=0.7, nesterov=True)),
        (DecentLaM(0.9), lambda p: torch.optim.SGD([p], 0.1, momentum=0.9)),
        (LocalSGD(every=2, momentum=0.5), lambda p: torch.optim.SGD([p], 0.1, momentum=0.5)),
        (Ruled(DSGD(), OPTIMIZERS["adamw"]().decayed(0.1)), lambda p: torch.optim.AdamW([p], 0.1, weight_decay=0.1)),
        (Ruled(DmSGD(0.0), Adam()), lambda p: torch.optim.Adam([p], 0.1)),
    ],
)  # fmt: skip
def test_one_worker_is_torch_s_own_optimizer(method, make):
    comm, draw = LocalComm([[1.0]]), torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, generator=draw, dtype=torch.float64)
    p = nn.Parameter(x.clone())
    optimizer, state = make(p), method.init(x, comm)
    for t in range(12):
        g = torch.randn(1, 5, generator=draw, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        x, state = method.step(x, state, g, comm.at(t), 0.1)
    assert torch.allclose(x, p.detach(), rtol=1e-12, atol=1e-13)


@dataclass(frozen=True)
class ClippedSGD(SGD):
    """A rule of a user's own that cuts each row, and does not say so."""

    momentum: float = 0.5

    def direction(self, x, state, g, layout, lr):
        return super().direction(x, state, clip(0.05)(x, g), layout, lr)


def test_a_rule_that_looks_across_is_found_and_named():
    run = read(RoundsRun, tomllib.loads(TABLE))
    object.__setattr__(run, "optimizer", ClippedSGD())
    notes: list[str] = []
    training = Training(run, Here(LocalWorld(), torch.device("cpu")), notes_of(notes))
    assert training.whole
    assert any("ClippedSGD looks across the columns" in note for note in notes)
