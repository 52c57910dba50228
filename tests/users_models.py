"""Models as users bring them: what draws, what keeps something, what vmap cannot do, and what cannot be right."""

import random
import threading
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def net(middle, first=None):
    return nn.Sequential(nn.Flatten(), first or nn.Linear(64, 16), middle, nn.ReLU(), nn.Linear(16, 10))


def plain(shape, classes):
    return net(nn.Tanh())


class Warm(nn.Module):
    """Counts its batches, by assignment."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return x * (self.seen.clamp(max=4).to(x.dtype) / 4)


class Centre(nn.Module):
    """Takes the running mean off, which is assigned and in no state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(16), persistent=False)

    def forward(self, x):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.mean(0).detach()
        return x - self.centre


class Twice(nn.Module):
    """One buffer by two names."""

    def __init__(self):
        super().__init__()
        one = torch.ones(())
        self.register_buffer("a", one)
        self.register_buffer("b", one)

    def forward(self, x):
        if self.training:
            self.a.add_(1)
        return x / self.b


class Adjacent(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", torch.eye(16).to_sparse())
        self.register_buffer("whiten", torch.ones(1).expand(16))
        self.register_buffer("phase", torch.full((16,), 3 + 4j, dtype=torch.complex64))

    def forward(self, x):
        return torch.sparse.mm(self.adjacency, x.T).T * self.whiten * self.phase.abs()


class Tied(nn.Module):
    """One weight in two layers, and a bias that a list knows too."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
        self.others = [self.a.bias]

    def forward(self, x):
        h = functional.linear(x.flatten(1), self.a.weight, self.others[0])
        return self.c(torch.tanh(self.b(torch.tanh(h))))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(20, 4, sparse=True), nn.Linear(256, 10)

    def forward(self, x):
        return self.last(self.words((x * 16).long().clamp(0, 19).flatten(1)).flatten(1))


def warm(shape, classes):
    return net(Warm())


def centre(shape, classes):
    return net(Centre())


def twice(shape, classes):
    return net(Twice())


def adjacent(shape, classes):
    return net(Adjacent())


def tied(shape, classes):
    return Tied()


def words(shape, classes):
    return Words()


def frozen(shape, classes):
    model = net(nn.Tanh())
    model[1].requires_grad_(False)
    model.register_parameter("none", nn.Parameter(torch.zeros(0, 3)))
    return model


def partly_frozen(shape, classes):
    """Three layers, of which the first learns its weight alone and the second its bias alone."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 10)
    )
    model[1].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    return model


def doubled(shape, classes):
    model = net(nn.Tanh())
    model[1].weight.register_hook(lambda g: 2 * g)
    return model


def spectral(shape, classes):
    return net(nn.Identity(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16)))


def spectral_old(shape, classes):
    return net(nn.Identity(), nn.utils.spectral_norm(nn.Linear(64, 16)))


def normed(shape, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return net(nn.Identity(), nn.utils.weight_norm(nn.Linear(64, 16)))


class Cached(nn.Module):
    """Computes a constant when it first needs it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("waves", None, persistent=False)

    def forward(self, x):
        if self.waves is None:
            self.waves = torch.cos(torch.arange(16)).to(x)
        return x * self.waves


def cached(shape, classes):
    return net(Cached())


def clamped(shape, classes):
    """Writes to a parameter in its pass."""

    def within(m, x):
        with torch.no_grad():
            m.scale.clamp_(-0.1, 0.1)
        return x * m.scale

    middle = Of(within)
    middle.scale = nn.Parameter(torch.linspace(-0.2, 0.2, 16))
    return net(middle)


def replaced(shape, classes):
    def other(m, x):
        m.scale.data = m.scale.data.clamp(-0.1, 0.1)
        return x * m.scale

    middle = Of(other)
    middle.scale = nn.Parameter(torch.linspace(-0.2, 0.2, 16))
    return net(middle)


def halved(shape, classes):
    return nn.Sequential(Of(lambda m, x: x.mul_(0.5)), net(nn.Tanh()))


def locked(shape, classes):
    model = net(nn.Tanh())
    model[1].lock = threading.Lock()  # which cannot be copied
    return model


def cumulative(shape, classes):
    return net(nn.BatchNorm1d(16, momentum=None))


def norm(shape, classes):
    return net(nn.BatchNorm1d(16))


def untracked(shape, classes):
    return net(nn.BatchNorm1d(16, track_running_stats=False))


def _filled(x):
    y = x.clone()
    y[y < 0] = 0
    return y


def _added(x):
    y = torch.zeros(x.shape, dtype=x.dtype)
    y += x
    return y


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


def branch(shape, classes):
    return net(Of(lambda m, x: x / 2 if x.abs().mean() > 100 else x))


def masked(shape, classes):
    return net(Of(lambda m, x: _filled(x)))


def added(shape, classes):
    return net(Of(lambda m, x: _added(x)))


def square(shape, classes):
    return net(Of(lambda m, x: Square.apply(x)))


class Saved(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 16)

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def saved(shape, classes):
    return net(nn.Identity(), Saved())


def dropout(shape, classes):
    return net(Of(lambda m, x: functional.dropout(x, 0.5, m.training)))


def dropout_module(shape, classes):
    return net(nn.Dropout(0.5))


def always(shape, classes):
    return net(Of(lambda m, x: functional.dropout(x, 0.5)))


def _noise(m, x):
    return x + torch.from_numpy(np.random.randn(*x.shape)).to(x.dtype) if m.training else x


def noise(shape, classes):
    return net(Of(_noise))


def depth(shape, classes):
    return net(Of(lambda m, x: 2 * x if m.training and random.random() < 0.5 else x))


def mixed(shape, classes):
    """From all generators, in training and in evaluation, and a counter; three layers, so two stages."""
    drawn = Of(lambda m, x: functional.dropout(_noise(m, x), 0.2) * (2 if random.random() < 0.5 else 1))
    first = [nn.Linear(64, 16), drawn, Warm(), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *first, nn.Linear(16, 16), nn.RReLU(), nn.Linear(16, 10))


class Later(nn.Module):
    """Draws from its tenth pass on."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return functional.dropout(x, 0.5) if self.passes > 9 and self.training else x


def later(shape, classes):
    return net(Later())


class Scaled(nn.Module):
    """Counts outside its buffers."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        return x * self.passes


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return x + torch.randn(x.shape, generator=self.generator) if self.training else x


class Assigns(nn.Module):
    def __init__(self, first, then):
        super().__init__()
        self.register_buffer("kept", first)
        self.then = then

    def forward(self, x):
        if self.training:
            self.kept = self.then(self.kept, x.detach())
        return x


def scaled(shape, classes):
    return net(Scaled())


def own(shape, classes):
    return net(Own())


def unseeded(shape, classes):
    return net(Of(lambda m, x: x + float(np.random.default_rng().normal())))


def appears(shape, classes):
    return net(Assigns(None, lambda kept, x: x.mean(0)))


def grows(shape, classes):
    return net(Assigns(torch.zeros(0, 16), lambda kept, x: torch.cat([kept, x])))


def melts(shape, classes):
    return net(Assigns(torch.tensor(1), lambda kept, x: kept * 0.9))


def rotated(shape, classes):
    model = net(nn.Tanh())
    model.register_parameter("phase", nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    return model


def spread(shape, classes):
    model = net(nn.Tanh())
    model.register_parameter("spread", nn.Parameter(torch.zeros(1).expand(5)))
    return model


def overlapping(shape, classes):
    model, both = net(nn.Tanh()), torch.zeros(8)
    model.register_parameter("a", nn.Parameter(both))
    model.register_parameter("b", nn.Parameter(both[4:]))
    return model


def viewed(shape, classes):
    model = net(nn.Tanh())
    model.register_buffer("rows", model[1].weight.data[:2])
    return model


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.more = nn.Linear(64, 10), nn.LazyLinear(10)

    def forward(self, x):
        return self.first(x.flatten(1)) + (self.more(x.flatten(1)) if self.training else 0)


def lazy(shape, classes):
    return Lazy()


def still(shape, classes):
    return net(nn.Tanh()).requires_grad_(False)


def pair(shape, classes):
    return nn.Sequential(net(nn.Tanh()), Of(lambda m, x: (x, x) if m.training else x))


def infinite(shape, classes):
    return net(Of(lambda m, x: x / 0))


def constant(shape, classes):
    return net(Of(lambda m, x: x * torch.ones(16, dtype=torch.float64)))


def forgetful(shape, classes):
    model = net(nn.Tanh())
    model[1].weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    return model
