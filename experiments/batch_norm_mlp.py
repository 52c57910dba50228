"""A multi-layer perceptron with batch norm, for ``swap_mnist.toml``: 784-64-64-10 on MNIST."""

import math

from torch import nn


def make(shape, classes):
    """Images as vectors, twice a linear layer with batch norm and ReLU, and a linear layer."""
    layers, inputs = [nn.Flatten()], math.prod(shape)
    for width in (64, 64):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
