"""Networks with batch norms, and what rescaling makes of them channel by channel."""

import torch
from torch import nn

BY = ("layer", "filter")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = drawn(16, 3, 9, 9)


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
