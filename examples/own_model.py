"""Your own model: a function of (shape of one example, number of classes) that returns a torch.nn.Module."""

import math

from torch import nn


def make(shape, classes):
    """A small network with dropout; dropout makes decentral loop over workers, each with its own named stream."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, classes)
    )
