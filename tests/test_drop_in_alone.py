"""The drop-in with one worker, in this process: what is no matter of ranks, against torch's own optimizers."""

import copy
import functools
import io
import pickle
import re
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim import SGD, Adam, Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import topologies
from decentral.algorithms import DSGD, DecentLaM, DiLoCo, GradientTracking
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.rounds.script.join import join
from decentral.rounds.script.optimizer import Decentralized

X = torch.randn(8, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(3, (8, 6), generator=torch.Generator().manual_seed(1))
METHODS = [DSGD(), DSGD("awc"), DecentLaM(0.0), GradientTracking()]  # alone they are the inner optimizer


def net():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def sgd(model):
    return SGD(model.parameters(), lr=0.1)


def dropped_in(model, method=None, inner=None, **more):
    comm = LocalComm(topologies.constant([[1.0]]))
    return Decentralized(inner or sgd(model), method or DSGD(), comm, model=model, **more)


def train(model, optimizer, rounds):
    for t in rounds:
        optimizer.zero_grad()
        cross_entropy(model(X[t]), Y[t]).backward()
        optimizer.step()


def apart(ours, theirs):
    return max((a - b).abs().max() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def inner_of(optimizer):
    return getattr(optimizer, "inner", optimizer)


class ScheduleFree(Optimizer):
    """Steps z and its mean x at a point between them, as schedule-free SGD does; x is the model that is evaluated."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "training": True})

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            z = self.state[p].setdefault("z", p.clone())
            p.lerp_(z, 0.25).sub_(p.grad, alpha=0.01)
            z.sub_(p.grad, alpha=0.1)

    @torch.no_grad()
    def _turn(self, weight, training):
        for p in self.param_groups[0]["params"]:
            p.lerp_(self.state[p]["z"], weight)
        self.param_groups[0]["training"] = training

    def eval(self):
        self._turn(1 - 1 / 0.9, False)

    def train(self):
        self._turn(1 - 0.9, True)


class Sign(Optimizer):
    """A user's own, without a learning rate."""

    def __init__(self, parameters):
        super().__init__(parameters, {"scale": 0.01})

    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad.sign(), alpha=self.param_groups[0]["scale"])


def evaluated(model, optimizer):
    optimizer.eval()
    optimizer.train()


def reloaded(model, optimizer):
    state = inner_of(optimizer).state_dict()
    state["param_groups"][0]["lr"] = 0.03
    inner_of(optimizer).load_state_dict(state)


def scheduled(make):
    def change(model, optimizer):
        schedule = make(optimizer)
        for t in range(4):
            train(model, optimizer, [t])
            schedule.step()

    return change


KEPT = {
    "sign": (lambda m: Sign(m.parameters()), lambda m, o: None),
    "schedule-free": (lambda m: ScheduleFree(m.parameters()), evaluated),
    "pruned": (sgd, lambda m, o: prune.l1_unstructured(m[0], "weight", 0.5)),
    "parametrized": (sgd, lambda m, o: parametrize.register_parametrization(m[0], "weight", nn.Softplus())),
    "compiled": (sgd, lambda m, o: m.compile(backend="eager")),
    "another buffer": (sgd, lambda m, o: setattr(m[1], "running_mean", torch.ones(4).double())),
    "inner state loaded": (sgd, reloaded),
    "one cycle": (
        lambda m: SGD(m.parameters(), lr=0.1, momentum=0.8),
        scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=9)),
    ),
    "one cycle of Adam": (
        lambda m: Adam(m.parameters()),
        scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.01, total_steps=9)),
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_a_script_does_between_steps_acts_as_with_the_optimizer_alone(case):
    make, change = KEPT[case]
    for method in METHODS:
        ours, theirs = net(), net()
        for model, optimizer in ((ours, dropped_in(ours, method, make(ours))), (theirs, make(theirs))):
            train(model, optimizer, range(3))
            change(model, optimizer)
            train(model, optimizer, range(3, 6))
        assert apart(ours, theirs) < 1e-12, method


def steps_inside(model, optimizer):
    with optimizer.averaged():
        optimizer.step()


CHANGES = {
    "assign": (lambda m, o: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True), "has got a new parameter"),
    "head": (lambda m, o: m.__setitem__(3, nn.Linear(4, 3).double()), "new parameter '3.weight'"),
    "one number": (lambda m, o: setattr(m, "scale", nn.Parameter(m.scale.detach().clone())), "new parameter 'scale'"),
    "appended": (lambda m, o: m.append(nn.Linear(3, 3).double()), "new parameter '4.weight'"),
    "removed": (lambda m, o: delattr(m, "scale"), "has lost its parameter 'scale'"),
    "weight norm": (lambda m, o: parametrizations.weight_norm(m[0]), "original0"),
    "orthogonal": (lambda m, o: parametrizations.orthogonal(m[3]), "were moved"),
    "frozen": (lambda m, o: m[0].requires_grad_(False), "frozen now"),
    "unfrozen": (lambda m, o: m.kept.requires_grad_(True), "is trained now"),
    "group": (lambda m, o: o.inner.add_param_group({"params": [nn.Parameter(torch.ones(2))]}), "other parameters"),
    "group's list": (lambda m, o: o.param_groups[0].update(params=[*net().parameters()]), "other parameters"),
    "another optimizer": (lambda m, o: dropped_in(m), "another Decentralized"),
    "float": (lambda m, o: m.float().double(), "were moved"),
    "inside averaged": (steps_inside, "within averaged()"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_changed_models_are_refused_in_the_next_step(case):
    change, said = CHANGES[case]
    model = net()
    model.scale = nn.Parameter(torch.ones(()).double())
    model.kept = nn.Parameter(torch.ones(3).double(), requires_grad=False)
    optimizer = dropped_in(model)
    train(model, optimizer, range(2))

    def go_on():
        change(model, optimizer)
        train(model, optimizer, [2])

    with pytest.raises(UserError, match=re.escape(said)):
        go_on()


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_hooks_act_once_a_step_wherever_they_are(method):
    calls = []
    model = net()
    inner = sgd(model)
    optimizer = dropped_in(model, method, inner)
    for register in (
        inner.register_step_pre_hook, inner.register_step_post_hook, optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook, register_optimizer_step_pre_hook, register_optimizer_step_post_hook,
    ):  # fmt: skip
        calls.clear()
        handle = register(lambda stepped, *_: calls.append(stepped))
        train(model, optimizer, range(3))
        handle.remove()
        train(model, optimizer, [3])
        assert len(calls) == 3, register


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("scheduled", ["before", "after", "never"])
def test_a_step_put_in_the_place_of_the_inner_one_is_called(method, wraps, scheduled):
    model, calls = net(), []
    inner = sgd(model)
    if scheduled == "before":
        lr_scheduler.StepLR(inner, 1)
    own = inner.step

    def step(self, *args, **kwargs):
        calls.append(self)
        return own(*args, **kwargs)

    inner.step = types.MethodType(functools.wraps(own)(step) if wraps else step, inner)
    if scheduled == "after":
        lr_scheduler.StepLR(inner, 1)
    train(model, dropped_in(model, method, inner), range(3))
    assert calls == [inner] * 3


def test_hooks_of_state_dicts_act():
    seen, model = [], net()
    inner = sgd(model)
    optimizer = dropped_in(model, inner=inner)
    for each in (inner, optimizer):
        each.register_state_dict_pre_hook(lambda o: seen.append((o, "save")))
        each.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
        each.register_load_state_dict_pre_hook(
            lambda o, state: {k: v for k, v in state.items() if k != "more"}
        )
        each.register_load_state_dict_post_hook(lambda o: seen.append((o, "load")))
    state = optimizer.state_dict()
    assert state["more"] == state["inner"]["more"] == 1
    optimizer.load_state_dict(state)
    assert seen == [(optimizer, "save"), (inner, "save"), (inner, "load"), (optimizer, "load")]


def size(what):
    file = io.BytesIO()
    torch.save(what, file)
    return file.tell()


def test_a_saved_part_is_as_large_as_it_was():
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 3))
    parts = [model, model[1], model[1].state_dict, lambda: model[1].weight, lambda: copy.deepcopy(model[1])]
    sizes = [size(part() if not isinstance(part, nn.Module) else part) for part in parts]
    pickled = len(pickle.dumps(model[1]))
    for method in (DSGD(), DecentLaM()):
        optimizer = dropped_in(model, method)
        assert sizes == [size(part() if not isinstance(part, nn.Module) else part) for part in parts]
        assert len(pickle.dumps(model[1])) == pickled
        with optimizer.averaged():
            assert size(model[1].state_dict()) == sizes[2]
        alone = copy.deepcopy(model)
        alone.load_state_dict(model.state_dict())
        with torch.no_grad():
            model[0].weight += 1
        assert torch.equal(alone[0].weight + 1, model[0].weight)


class NeedsClosure(SGD):
    def step(self, closure):
        return super().step(closure)


def tensors(**named):
    """A model whose parameters and buffers they are."""
    model = nn.Linear(2, 2)
    for name, value in named.items():
        if isinstance(value, nn.Parameter):
            model.register_parameter(name, value)
        else:
            model.register_buffer(name, value)
    return model


WRONG = {
    "LBFGS": (lambda: dropped_in(None, inner=torch.optim.LBFGS(net().parameters())), "LBFGS does not take one"),
    "closure": (lambda: dropped_in(None, inner=NeedsClosure(net().parameters(), lr=0.1)), "NeedsClosure does not"),
    "differentiable": (lambda: dropped_in(None, inner=SGD(net().parameters(), differentiable=True)), "differentiable"),
    "no optimizer": (lambda: dropped_in(None, inner=net()), "not a Sequential"),
    "twice": (lambda: dropped_in(None, inner=dropped_in(net())), "not a Decentralized"),
    "method": (lambda: dropped_in(net(), "dsgd" * 99), "method should be one such as"),
    "class": (lambda: dropped_in(net(), DSGD), "method should be one such as"),
    "comm": (lambda: Decentralized(sgd(net()), DSGD(), "ring"), "not 'ring'"),
    "models": (lambda: dropped_in([net()], inner=sgd(net())), "ModuleList"),
    "another model": (lambda: dropped_in(net(), inner=sgd(net())), "none of the optimizer's parameters"),
    "overlap": (lambda: dropped_in(net(), overlap="no"), "overlap should be True or False"),
    "momentum later": (lambda: KEPT["one cycle"][1](m := net(), dropped_in(m, DiLoCo())), "cycle_momentum=False"),
    "no function": (lambda: dropped_in(net()).step(3), "closure should be a function"),
    "a part of a state": (lambda: dropped_in(net()).load_state_dict({"model_crc32": 1}), "no state_dict()"),
    "another optimizer's state": (
        lambda: dropped_in(net()).load_state_dict(dropped_in(m := net(), inner=Adam(m.parameters())).state_dict()),
        "another optimizer than this SGD",
    ),
    "meta": (lambda: dropped_in(tensors(a=torch.ones(2, device="meta"))), "shape (2,) is on the meta device"),
    "sparse": (lambda: dropped_in(tensors(a=nn.Parameter(torch.eye(2).to_sparse()))), "torch.sparse_coo"),
    "complex": (lambda: dropped_in(tensors(a=nn.Parameter(torch.ones(2) * 1j))), "torch.view_as_complex"),
    "lazy": (lambda: dropped_in(nn.LazyLinear(2)), "lazy parameters"),
    "lazy buffer": (lambda: dropped_in(nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False))), "lazy"),
    "join's method": (lambda: join("ring", method="dsgd"), "method should be one such as"),
    "join's weights": (lambda: join(topologies.ring(1), weights=3), "weights = 3 should be a rule's name"),
    "join of a tensor": (lambda: join(torch.ones(1, 1)), "not a Tensor"),
    "join of a complex matrix": (lambda: join(torch.ones(1, 1).mul(1j).numpy()), "real numpy or scipy matrix"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_one_line(case, monkeypatch):
    monkeypatch.setattr("sys.excepthook", None)  # which join replaces
    call, said = WRONG[case]
    with pytest.raises(UserError) as error:
        call()
    assert said in str(error.value)
    assert len(str(error.value)) < 300
