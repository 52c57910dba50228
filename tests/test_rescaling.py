"""Weights before a batch norm at norm 1: which weights they are, and what that leaves alone."""

import copy

import pytest
import torch
from networks_with_norms import BY, X, drawn
from torch import nn
from torch.nn.functional import batch_norm, cross_entropy

from decentral.optimizers.before_norms import before_norms
from decentral.optimizers.rescaling import Rescaling


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


def channels(net, path):
    """(channels, rest): each output channel's weights, one after the other, by hand."""
    layer = net.get_submodule(path)
    w = layer.weight.detach()
    if path != "up":
        return list(w.transpose(0, 1) if path == "one" else w)
    # two groups of three inputs and two outputs
    return [w[3 * g : 3 * g + 3, k] for g in range(2) for k in range(2)]


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
