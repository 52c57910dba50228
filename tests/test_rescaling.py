"""Weights before a batch norm at norm 1: what that leaves alone, which weights they are, and in every kind of run."""

import copy
import tomllib
from typing import ClassVar

import pytest
import tomli_w
import torch
from command import decentral, metrics
from ranks import decentral as launch
from torch import nn
from torch.nn.functional import batch_norm, cross_entropy

import topologies
from decentral.algorithms import DIGing, DmSGD, SlowMo
from decentral.comm import LocalComm
from decentral.comm.layout import Layout
from decentral.comm.world import LocalWorld
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS, SGD, rescaled
from decentral.optimizers.before_norms import before_norms
from decentral.optimizers.rescaling import Rescaling
from decentral.rounds.script.optimizer import Decentralized
from decentral.rounds.spared import Spared
from decentral.rounds.trials.moved_models import goes_on_where_models_are
from decentral.runs.asynchronous import training as asynchronous
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal
from decentral.runs.place import Here
from decentral.runs.rounds.phases import PhasedTraining
from decentral.runs.rounds.training import Training
from decentral.runs.stages import training as stages

HERE = Here(LocalWorld(), torch.device("cpu"))
BY = ("layer", "filter")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Exact(nn.BatchNorm2d):
    """A batch norm by hand, for eps = 0, which torch's refuses."""

    def forward(self, x):
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        if self.training:
            with torch.no_grad():
                self.running_mean.mul_(0.9).add_(0.1 * mean)
                self.running_var.mul_(0.9).add_(0.1 * var)
        else:
            mean, var = self.running_mean, self.running_var
        mean, var, weight, bias = (p[:, None, None] for p in (mean, var, self.weight, self.bias))
        return (x - mean) / torch.sqrt(var + self.eps) * weight + bias


class Net(nn.Module):
    """Layers before batch norms of every kind, and one of each kind that is not to be touched."""

    def __init__(self, norm=Exact, eps=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, groups=1), norm(8, eps=eps)
        self.grouped, self.norm_grouped = nn.Conv2d(8, 6, 3, groups=2, bias=False), norm(6, eps=eps)
        self.up, self.norm_up = nn.ConvTranspose2d(6, 4, 3, groups=2), norm(4, eps=eps)
        self.plain, self.one = nn.Conv2d(4, 1, 1), nn.ConvTranspose2d(1, 6, 3)
        self.norm_one = norm(6, eps=eps)
        self.skipped, self.norm_skipped = nn.Conv2d(6, 6, 1), norm(6, eps=eps)
        self.twice, self.norm_twice = nn.Conv2d(6, 6, 1), norm(6, eps=eps)
        self.moved, self.norm_moved = nn.Conv2d(6, 6, 1), norm(6, eps=eps)
        self.frozen, self.norm_frozen = nn.Conv2d(6, 6, 1), norm(6, eps=eps)
        self.frozen.bias.requires_grad_(False)
        self.tied, self.norm_tied = nn.Conv2d(6, 6, 1), norm(6, eps=eps)
        self.dense, self.norm_dense = (
            nn.Linear(6, 5),
            nn.BatchNorm1d(5, eps=1e-300, track_running_stats=False),
        )
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(1.7).add_(0.01 * torch.randn(p.shape, dtype=p.dtype))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.norm_grouped(self.grouped(x)))
        x = torch.tanh(self.norm_up(self.up(x)))
        x = torch.tanh(self.norm_one(self.one(self.plain(x))))
        y = self.skipped(x)
        x = torch.tanh(self.norm_skipped(y) + y)
        x = torch.tanh(self.norm_twice(self.twice(self.twice(x))))
        y = self.moved(x)
        y.add_(1.0)
        x = torch.tanh(self.norm_moved(y))
        x = torch.tanh(self.norm_frozen(self.frozen(x)))
        x = torch.tanh(self.norm_tied(self.tied(x)) + self.tied.weight.mean())
        return self.norm_dense(self.dense(x.mean((2, 3))))


FOUND = {"conv": "norm", "grouped": "norm_grouped", "up": "norm_up", "one": "norm_one", "dense": "norm_dense"}
X = drawn(16, 3, 9, 9)


def channels(net, path):
    """(channels, rest): each output channel's weights, one after the other, by hand."""
    layer = net.get_submodule(path)
    w = layer.weight.detach()
    if path != "up":
        return list(w.transpose(0, 1) if path == "one" else w)
    # two groups of three inputs and two outputs
    return [w[3 * g : 3 * g + 3, k] for g in range(2) for k in range(2)]


# ------------------------------------------------------------------------------------------------ what is left alone


def test_the_weights_are_found_by_a_pass_that_leaves_the_model_as_it_was():
    net, inputs = Net(nn.BatchNorm2d, 1e-5), X.clone()
    net.norm.eval()
    state, before = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    held = [b for _, b in net.named_buffers()]
    found = before_norms(net, lambda: net(inputs))
    assert {one.weight: one.norm for one in found} == {f"{a}.weight": b for a, b in FOUND.items()}
    assert [one.bias for one in found] == ["conv.bias", "", "up.bias", "one.bias", "dense.bias"]
    variances = ["norm_grouped.running_var", "norm_up.running_var", "norm_one.running_var", ""]
    assert [one.var for one in found][1:] == variances
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(a is b for a, b in zip(held, net.buffers(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in (net, net.norm, net.norm_up)] == [True, False, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize("by", BY)
def test_a_network_with_exact_batch_norms_stays_where_it_was(by):
    net = Net()
    for _ in range(3):
        net(X)  # statistics that are not the first ones
    ours = copy.deepcopy(net)
    Rescaling(before_norms(ours, lambda: ours(X)), by).act_on(ours)
    for path in FOUND:
        norms = torch.stack([w.norm() for w in channels(ours, path)])
        whole = ours.get_submodule(path).weight.norm()
        expected = 1.0 if by == "layer" else len(norms) ** 0.5
        torch.testing.assert_close(whole.item(), expected, rtol=1e-13, atol=0)
        if by == "filter":
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-13, atol=0)
    others = {name for name, p in ours.named_parameters() if torch.equal(p, net.get_parameter(name))}
    assert others == {name for name, _ in net.named_parameters() if name.partition(".")[0] not in FOUND}
    for training in (False, True):
        a, b = net.train(training)(X), ours.train(training)(X)
        torch.testing.assert_close(b, a, rtol=0, atol=1e-11 if not training else 1e-12)
        y = torch.arange(16) % 5
        torch.testing.assert_close(cross_entropy(b, y), cross_entropy(a, y), rtol=0, atol=1e-12)


def test_torch_s_batch_norm_has_its_eps_c_squared_times_as_heavy_and_no_other_change():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).double()
    net(X)
    ours = copy.deepcopy(net)
    c = float(net[0].weight.detach().norm())
    Rescaling(before_norms(ours, lambda: ours(X)), "layer").act_on(ours)
    for training in (True, False):
        plain, found = net.train(training)(X), ours.train(training)(X)
        exactly = batch_norm(
            net[0](X),
            net[1].running_mean.clone(),
            net[1].running_var.clone(),
            training=training,
            eps=1e-5 * c * c,
        )
        torch.testing.assert_close(found, exactly, rtol=0, atol=1e-12)
        assert 1e-9 < (found - plain).abs().max() < 1e-3


def test_sgd_on_c_w_with_c_squared_times_the_lr_is_c_times_sgd_on_w():
    w, x, y, c, lr = drawn(5, 4), drawn(32, 4, seed=1), drawn(32, 5, seed=2), 7.0, 0.3

    def gradient(w):
        w = w.clone().requires_grad_()
        h = x @ w.T
        out = (h - h.mean(0)) / h.std(0, unbiased=False)
        ((out - y) ** 2).mean().backward()
        return w.grad

    g = gradient(w)
    torch.testing.assert_close((g * w).sum(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(c * w - c * c * lr * gradient(c * w), c * (w - lr * g), rtol=0, atol=1e-12)
    # so a step with lr on w leads in the same direction as one with lr / |w|^2 on w / |w|
    unit = w / w.norm()
    one, other = w - lr * g, unit - lr / w.norm() ** 2 * gradient(unit)
    torch.testing.assert_close(one / one.norm(), other / other.norm(), rtol=0, atol=1e-12)


def test_a_weight_of_zeros_stays_and_rows_do_not_depend_on_their_neighbours():
    net = Net(nn.BatchNorm2d, 1e-5)
    found = before_norms(net, lambda: net(X))
    rows = {
        name: torch.stack([p.detach(), 3 * p.detach(), 0 * p.detach()]) for name, p in net.named_parameters()
    }
    buffers = {name: torch.stack([b, b, b]) for name, b in net.named_buffers()}
    alone = {name: value[:1].clone() for name, value in rows.items()}
    of_alone = {name: value[:1].clone() for name, value in buffers.items()}
    for by in BY:
        Rescaling(found, by).act(rows, buffers)
        Rescaling(found, by).act(alone, of_alone)
    assert all(torch.equal(rows[name][:1], alone[name]) for name in rows)
    assert all(torch.equal(buffers[name][:1], of_alone[name]) for name in buffers)
    torch.testing.assert_close(rows["conv.weight"][1], rows["conv.weight"][0], rtol=1e-13, atol=0)
    assert not rows["conv.weight"][2].any()


# ------------------------------------------------------------------------------------------------- as a torch optimizer


def small():
    torch.manual_seed(5)
    parts = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5)
    return nn.Sequential(*parts, nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


PAIRS = {"0": "1", "4": "5"}  # of small()


def by_hand(net, by, pairs):
    """Rescales ``net`` as the equations have it, channel by channel."""
    for of_layer, of_norm in pairs.items():
        layer, norm = net.get_submodule(of_layer), net.get_submodule(of_norm)
        whole = float(layer.weight.detach().norm())
        with torch.no_grad():
            for k in range(len(layer.weight)):
                c = whole if by == "layer" else float(layer.weight[k].norm())
                layer.weight[k] /= c
                if layer.bias is not None:
                    layer.bias[k] /= c
                norm.running_mean[k] /= c
                norm.running_var[k] /= c**2


def groups(net, pairs, decay):
    """All parameters in groups: those that are rescaled have no weight decay."""
    spared = {id(p) for path in pairs for p in net.get_submodule(path).parameters()}
    parts = [[p for p in net.parameters() if (id(p) in spared) is wish] for wish in (False, True)]
    return [{"params": parts[0], "weight_decay": decay}, {"params": parts[1], "weight_decay": 0.0}]


def step(net, optimizer, t):
    optimizer.zero_grad()
    loss = cross_entropy(net(X + 0.1 * t), torch.arange(16) % 3)
    loss.backward()
    optimizer.step()


def alike(a, b, tolerance=1e-12):
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=name)


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05),
    "lars": lambda p: OPTIMIZERS["lars"](trust=0.1).build(p, 0.1, 0.05),
}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("name", MAKERS)
def test_any_torch_optimizer_rescales_after_its_steps(name, by):
    ours, theirs = small(), small()
    optimizer = rescaled(MAKERS[name](ours.parameters()), ours, X, by=by, every=2)
    plain = MAKERS[name](groups(theirs, PAIRS, 0.05))
    for t in range(10):
        if t == 5:  # goes on from what was saved, in the middle of its two steps
            saved, optimizer = optimizer.state_dict(), MAKERS[name](ours.parameters())
            optimizer = rescaled(optimizer, ours, X, by=by, every=2)
            optimizer.load_state_dict(copy.deepcopy(saved))
        step(ours, optimizer, t)
        step(theirs, plain, t)
        if t % 2:
            by_hand(theirs, by, PAIRS)
    alike(ours, theirs)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_inside_of_the_drop_in_it_comes_after_the_round():
    ours, theirs = small(), small()
    comm = LocalComm(topologies.constant([[1.0]]))
    inner = rescaled(MAKERS["sgd"](ours.parameters()), ours, X)
    optimizer, plain = (
        Decentralized(inner, DIGing(), comm, model=ours),
        rescaled(MAKERS["sgd"](theirs.parameters()), theirs, X),
    )
    for t in range(4):
        step(ours, optimizer, t)
        step(theirs, plain, t)
        assert float(ours[0].weight.detach().norm()) == pytest.approx(1, abs=1e-13)
    with pytest.raises(UserError, match="SlowMo keeps earlier ones"):
        Decentralized(rescaled(MAKERS["sgd"](ours.parameters()), ours, X), SlowMo(), comm)


def test_what_cannot_be_rescaled_in_a_script_is_refused():
    net, without = small(), nn.Sequential(nn.Flatten(), nn.Linear(243, 3)).double()
    sgd = MAKERS["sgd"](net.parameters())
    with pytest.raises(ValueError, match="needs a weight whose output goes into a batch norm"):
        rescaled(MAKERS["sgd"](without.parameters()), without, X)
    with pytest.raises(ValueError, match="rescale = 'channel' must be one of layer, filter"):
        rescaled(sgd, net, X, by="channel")
    with pytest.raises(ValueError, match="rescale_every = 0 must be a whole number of steps"):
        rescaled(sgd, net, X, every=0)
    assert len(sgd.param_groups) == 1
    with pytest.raises(ValueError, match="rescales weights already"):
        rescaled(rescaled(sgd, net, X), net, X)
    with pytest.raises(ValueError, match="BoostedOptimizer keeps earlier models"):
        rescaled(OPTIMIZERS["seboost"]().build(net.parameters(), 0.1, 0.0), net, X)
    with pytest.raises(ValueError, match="leave it out, and say"):
        SGD(rescale="layer").build(net.parameters(), 0.1, 0.0)


# --------------------------------------------------------------------------------------------------------- in rules


@pytest.mark.parametrize(
    "name", [name for name, kind in OPTIMIZERS.items() if not (kind.joint or kind.hears or kind.evaluates)]
)
def test_a_rule_spares_spans_as_groups_of_its_torch_optimizer_do(name):
    net = small()
    layout, spared = Layout.of(net), {"0.weight", "0.bias", "4.weight"}
    x = torch.stack([layout.flatten(net), 0.5 + layout.flatten(net)])
    rule = Spared(OPTIMIZERS[name]().decayed(0.3), spared)
    state, row = rule.init(x, layout), x[:1].clone()
    of_row = rule.init(row, layout)
    named = dict(net.named_parameters())
    parts = [[p for n, p in named.items() if (n in spared) is wish] for wish in (False, True)]
    optimizer = OPTIMIZERS[name]().build(
        [{"params": parts[0]}, {"params": parts[1], "weight_decay": 0.0}], 0.02, 0.3
    )
    for t in range(4):
        g = drawn(2, layout.d, seed=t)
        state = rule.step_(x, state, g, layout, 0.02)
        d, of_row = rule.direction(row, of_row, g[:1], layout, 0.02)
        row -= 0.02 * d
        for n, part in layout.views(g[0]).items():
            named[n].grad = part.clone()
        optimizer.step()
        torch.testing.assert_close(x[0], layout.flatten(net), rtol=0, atol=1e-13)
        torch.testing.assert_close(row[0], x[0], rtol=0, atol=1e-13)


def test_methods_that_keep_models_are_told_from_those_that_keep_gradients():
    assert goes_on_where_models_are(DmSGD())
    assert not goes_on_where_models_are(SlowMo(every=7))  # told in the round after the next outer step only


# -------------------------------------------------------------------------------------------------- in kinds of run

CNN = {
    "name": "small",
    "seeds": [3],
    "problem": {"name": "cnn", "width": 2},
    "topology": {"name": "ring", "workers": 3},
    "algorithm": {"name": "dsgd"},
    "optimizer": {"name": "sgd", "momentum": 0.5, "rescale": "filter", "rescale_every": 2},
    "train": {
        "lr": 0.1, "rounds": 10, "batch_size": 8, "weight_decay": 0.05, "dtype": "float64", "record_every": 5,
    },
}  # fmt: skip
CUT = {"stages": {"count": 3}, "program": {"name": "backprop"}}
OF_CNN = {"0": "1", "3": "4", "6": "7"}


def table(**changes):
    """The run, with other keys in its sections; None removes one."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in CNN.items()}
    for key, value in changes.items():
        if value is None:
            made.pop(key)
        else:
            made[key] = value if "name" in value else {**made.get(key, {}), **value}
    return made


def config(**changes):
    (planned,) = expand(table(**changes)).runs
    return planned.config


def module(run):
    return run.problem.made(run.workers, 3).module.double().train()


def trained_by_hand(
    modules, batch, mixing=None, averaged=False, momentum=0.5, by="filter", every=2, decay=0.05
):
    """10 rounds of W (x - lr m) on these modules, each with its momentum; ``averaged``: with the mean gradient."""
    params = [list(one.parameters()) for one in modules]
    spared = {name for path in OF_CNN for name in (f"{path}.weight", f"{path}.bias")}
    decays = [0.0 if name in spared else decay for name, _ in modules[0].named_parameters()]
    velocities = [[torch.zeros_like(p) for p in own] for own in params]
    for t in range(10):
        grads = []
        for i, one in enumerate(modules):
            x, y = batch(i, t)
            grads.append(torch.autograd.grad(cross_entropy(one(x), y), params[i]))
        if averaged:
            mean = [torch.stack(each).mean(0) for each in zip(*grads, strict=True)]
            grads = [mean for _ in modules]
        with torch.no_grad():
            for own, given, kept in zip(params, grads, velocities, strict=True):
                for p, g, v, wd in zip(own, given, kept, decays, strict=True):
                    v.mul_(momentum).add_(g + wd * p)
                    p.sub_(0.1 * v)
            if mixing is not None:
                for each in zip(*params, strict=True):
                    mixed = [sum(w * p for w, p in zip(row, each, strict=True)) for row in mixing]
                    for p, value in zip(each, mixed, strict=True):
                        p.copy_(value)
        if (t + 1) % every == 0:
            for one in modules:
                by_hand(one, by, OF_CNN)
    return modules


def same_models(training, modules):
    for i, one in enumerate(modules):
        torch.testing.assert_close(training.x[i], training.objective.layout.flatten(one), rtol=0, atol=1e-10)
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(training.objective.buffers[name][i], buffer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("algorithm", ["dsgd", "pmsgd"])
def test_rounds_are_those_of_a_plain_loop_and_can_be_resumed(algorithm):
    momentum = {"momentum": 0.0} if algorithm == "pmsgd" else {}
    run = config(algorithm={"name": algorithm, **momentum}, train={"checkpoint_every": 5})
    kept = []

    class Keeping(Journal):
        def keep(self, state):
            kept.append(copy.deepcopy(state))

    training = Training(run, HERE, Keeping())
    assert training.run().status == "finished"
    mixing = run.topology.mixing().matrix(0).toarray() if algorithm == "dsgd" else None

    def batch(i, t):
        inputs, labels = training.objective._batch(t)
        return inputs[i], labels[i]

    same_models(
        training, trained_by_hand([module(run) for _ in range(3)], batch, mixing, averaged=mixing is None)
    )
    resumed = Training(run, HERE, Journal(), kept[0])  # after round 5: the next rescaling is after the sixth
    resumed.run()
    assert torch.equal(resumed.x, training.x)
    for name, buffer in training.objective.buffers.items():
        assert torch.equal(resumed.objective.buffers[name], buffer)


@pytest.mark.parametrize("algorithm", ["ad-psgd", "async-push-sum"])
def test_an_asynchronous_worker_alone_is_a_plain_loop(algorithm):
    run = config(algorithm={"name": algorithm}, topology={"name": "complete", "workers": 1})
    training = asynchronous.Training(run, HERE, Journal())
    plain = module(run)
    by_hand(plain, "filter", OF_CNN)  # at the start too
    worker = training.workers[0]
    assert training.run().status == "finished"

    def batch(_, t):
        inputs, labels = worker.objective._batch(t)
        return inputs[0], labels[0]

    assert worker.t == 10
    trained_by_hand([plain], batch)
    plain(batch(0, 10)[0])  # a gradient that comes too late, but has gone through the batch norms
    torch.testing.assert_close(
        worker.side.model()[0], training.objective.layout.flatten(plain), rtol=0, atol=1e-10
    )
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(worker.objective.buffers[name][0], buffer, rtol=1e-10, atol=1e-10)


def test_asynchronous_workers_keep_models_whose_shares_are_small_at_norm_one():
    run = config(algorithm={"name": "async-push-sum"}, optimizer={"rescale_every": 1})
    training = asynchronous.Training(run, HERE, Journal())
    steps, seen = [w._rescale for w in training.workers.values()], []
    for worker, rescale in zip(training.workers.values(), steps, strict=True):

        def noted(worker=worker, rescale=rescale):
            rescale()
            z = worker.objective.layout.views(worker.side.model()[0])["3.weight"]
            seen.append((float(worker.side.w), z.flatten(1).norm(dim=1)))

        worker._rescale = noted
    training.run()
    assert min(w for w, _ in seen) < 0.9
    assert all(torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-12) for _, norms in seen)


@pytest.mark.parametrize("count", [1, 3])
def test_stages_rescale_their_own_layers(count):
    run = config(topology=None, algorithm=None, **CUT | {"stages": {"count": count}})
    training = stages.Training(run, HERE, Journal())
    assert training.run().status == "finished"
    plain = module(run)
    trained_by_hand([plain], lambda i, t: training.plan.samples.batch(i, t))
    expected = dict(plain.state_dict())
    names, found = training.assembly.names, 0
    for stage in training.stages:
        for name, value in stage.network.modules().state_dict().items():
            if int(name.partition(".")[0]) in stage.span or (
                stage.last and name.startswith(f"{stage.depth}.")
            ):
                torch.testing.assert_close(value, expected[names[name]], rtol=1e-10, atol=1e-10)
                found += 1
    assert found == len(expected)


class Apart(nn.Module):
    """Three layers, of which the second has the batch norm of the first's weight, and the third has both."""

    def __init__(self):
        super().__init__()
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        second = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU())
        third = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.layers, self.head = nn.ModuleList([first, second, third]), nn.Linear(8, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def apart(shape, classes):
    return Apart()


def nothing_before(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 10))


def of_user(factory):
    return {"problem": {"name": "module", "factory": f"test_rescaling:{factory}"}}


def test_a_weight_whose_batch_norm_is_in_the_next_stage_is_left_out_and_said():
    found = {}
    for cut in (1, 2):
        change = {"stages": {"count": 2, "cut": [cut]}, "program": {"name": "backprop"}}
        notes = []
        journal = Journal(begun=lambda facts, said, notes=notes: notes.extend(said))
        run = config(topology=None, algorithm=None, **of_user("apart"), **change)
        training = stages.Training(run, HERE, journal)
        assert training.run().status == "finished"
        parts = training.stages[0].network.layers[0][1], training.stages[1].network.layers[2][0]
        found[cut] = [abs(float(part.weight.detach()[0].norm()) - 1) < 1e-12 for part in parts]
        said = "1 weight(s), the first of them '0.1.weight', are not rescaled"
        assert any(said in note for note in notes) is (cut == 1)
    assert found == {1: [False, True], 2: [True, True]}


# ------------------------------------------------------------------------------------------------ on the command line

OWN_CLOCK = {"wall_s", "simulated_s", "mpi_bytes_sent"}


def write(path, **changes):
    path.write_text(tomli_w.dumps(table(**changes)))
    return path


def seen(out):
    ((_, rows),) = metrics(out).items()
    return [{k: v for k, v in row.items() if k not in OWN_CLOCK} for row in rows]


def run(file, out):
    said = decentral("run", file, "--out", out)
    assert said.code == 0, said.err
    return seen(out)


def test_stages_that_gossip_rescale_as_rounds_do(home):
    rounds = run(write(home / "x.toml", algorithm={"name": "dmsgd"}), home / "rounds")
    found = run(write(home / "y.toml", algorithm={"name": "dmsgd"}, **CUT), home / "stages")
    for column in ("test_loss", "consensus_sq"):
        assert float(found[-1][column]) == pytest.approx(float(rounds[-1][column]), rel=1e-7)
    plain = run(
        write(home / "z.toml", algorithm={"name": "dmsgd"}, optimizer={"rescale_every": 20}), home / "plain"
    )
    assert float(plain[-1]["test_loss"]) != pytest.approx(float(rounds[-1]["test_loss"]), rel=1e-3)


def test_the_second_of_phases_rescales_by_its_own_rule(home):
    replicas = {"rounds": 3, "batch_size": 8, "lr": 0.05, "optimizer": {"name": "sgd", "rescale": "layer"}}
    training = execute_phases(config(optimizer=None, phases={"replicas": replicas}))
    for norms in training.norms[:1]:
        assert not torch.allclose(norms, torch.ones(3, dtype=torch.float64), atol=1e-3)
    for norms in training.norms[10:13]:
        torch.testing.assert_close(norms, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert len(training.norms) == 13


def execute_phases(run):
    class Watching(PhasedTraining):
        norms: ClassVar[list] = []

        def _advance(self, *args):
            super()._advance(*args)
            self.norms.append(self.objective.layout.views(self.x)["3.weight"].flatten(1).norm(dim=1))

    training = Watching(run, HERE, Journal())
    assert training.run().status == "finished"
    return training


def test_the_keys_are_in_the_table_of_a_run_that_has_them_and_of_no_other(home):
    tables = {}
    every = dict(CNN["optimizer"])
    for name, keys in (
        ("plain", ["rescale", "rescale_every"]),
        ("with", []),
        ("every step", ["rescale_every"]),
    ):
        changed = table() | {"optimizer": {key: value for key, value in every.items() if key not in keys}}
        (home / "x.toml").write_text(tomli_w.dumps(changed))
        run(home / "x.toml", home / name)
        (path,) = (home / name / "runs").glob("*/config.toml")
        tables[name] = tomllib.loads(path.read_text())["optimizer"]
    plain = {"name": "sgd", "momentum": 0.5, "nesterov": False}
    assert tables == {
        "plain": plain,
        "with": plain | {"rescale": "filter", "rescale_every": 2},
        "every step": plain | {"rescale": "filter"},
    }


MLP = {"problem": {"name": "mlp", "hidden": [8]}}
OF_REPLICAS = {"name": "sgd", "rescale": "layer", "rescale_every": -1}
BOSS = {"topology": None, "algorithm": None, "assistant": {"name": "logistic"}}
NODES = {"topology": None, "algorithm": None, "dataflow": {"workers": 2}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (MLP, "optimizer.rescale = 'filter' needs a weight whose output goes into a batch norm"),
        (of_user("nothing_before"), "needs a weight whose output goes into a batch norm"),
        ({"problem": {"name": "quadratic", "dimension": 3}}, "'filter' is for models with batch norm"),
        ({"optimizer": {"rescale": "channel"}}, "optimizer.rescale = 'channel' should be 'layer' or 'filter'"),
        ({"optimizer": {"rescale_every": 0}}, "optimizer.rescale_every = 0 must be a whole number of steps"),
        ({"optimizer": {"name": "sgd", "rescale_every": 3}}, 'nothing is rescaled; add optimizer.rescale = "layer"'),
        ({"optimizer": {"name": "nlcg", "rescale": "layer"}}, "NLCG has one for the whole model"),
        ({"optimizer": {"name": "seboost", "rescale": "layer"}}, "SEBOOST keeps earlier ones"),
        ({"optimizer": {"name": "seboost", "base": {"name": "sgd", "rescale": "layer"}}}, "leave rescale out"),
        ({"optimizer": {"name": "torch.optim:Adamax", "rescale": "layer"}}, "torch.optim:Adamax has one for the whole"),
        ({**BOSS, "problem": {"name": "resnet", "depth": 8, "data": "digits"}}, "a Boss leaves its own as they are"),
        ({"algorithm": {"name": "relay-sgd"}, "topology": {"name": "path", "workers": 3}}, "RelaySGD keeps earlier"),
        ({"train": {"compile": True}}, "or do without [optimizer]"),
        ({"algorithm": {"name": "ad-psgd"}, **MLP}, "needs a weight whose output goes into a batch norm"),
        ({"topology": None, "algorithm": None, **CUT, **MLP}, "needs a weight whose output goes into a batch norm"),
        ({"topology": None, "algorithm": None, **CUT, "program": {"name": "stale-pipeline", "correction": "nesterov"}},
         "use another correction"),
        ({**NODES, **MLP}, "networks of nodes have none"),
        ({"phases": {"replicas": {"rounds": 2, "batch_size": 8, "lr": 0.1, "optimizer": OF_REPLICAS}}},
         "phases.replicas.optimizer.rescale_every = -1 must be"),
    ],
)  # fmt: skip
def test_refusals(home, change, words):
    said = decentral("run", write(home / "x.toml", **change), "--out", "out")
    assert (said.code, words in said.err.replace("\n", " "), len(said.err) < 300) == (2, True, True), said.err
    assert not (home / "out").exists()


def test_any_torch_optimizer_by_its_path_is_rescaled(home):
    change = {
        "optimizer": {"name": "torch.optim:SGD", "momentum": 0.5, "rescale": "filter", "rescale_every": 2}
    }
    found = run(write(home / "x.toml", train={"weight_decay": 0.0}, **change), home / "path")
    ours = run(write(home / "y.toml", train={"weight_decay": 0.0}), home / "named")
    assert float(found[-1]["test_loss"]) == pytest.approx(float(ours[-1]["test_loss"]), rel=1e-9)
    (path,) = (home / "path" / "runs").glob("*/config.toml")
    options = tomllib.loads(path.read_text())["optimizer"]
    assert (options["rescale"], options["rescale_every"]) == ("filter", 2)


@pytest.mark.mpi
def test_two_ranks_have_the_bits_of_one(tmp_path):
    file = write(tmp_path / "x.toml", topology={"name": "ring", "workers": 4})
    for ranks in (1, 2):
        done = launch("run", file, "--out", tmp_path / f"on{ranks}", ranks=ranks)
        assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "on1") == seen(tmp_path / "on2")
