"""Networks for images with declared layers: VGG and the CIFAR ResNets of any depth.

Both map a batch (B, channels, height, width) to logits (B, classes).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from decentral.errors import UserError
from decentral.problems.models.convolutional import GlobalAverage, ResidualBlock, _conv_norm, _image
from decentral.problems.models.layered import LayeredNetwork

Shape = Sequence[int]

VGG8B = ((1, False), (2, True), (2, False), (4, True), (4, True), (4, True))
"""Of each convolution: channels in units of ``width``, and whether the map is halved after it."""


def vgg(shape: Shape, classes: int, width: int = 32, hidden: int = 256) -> LayeredNetwork:
    """VGG-8b: six 3x3 convolutions with batch norm and ReLU, a hidden linear layer, and a linear head; seven layers.

    ``width`` channels first, four times as many at the end; ``hidden`` units. Nokland and Eidnes 2019
    (arXiv 1901.06656) have width 128 and 1,024 hidden units. Maps are halved by maxima over 2 x 2 pixels.
    Raises UserError unless ``shape`` is (channels, height, width).
    """
    inputs, height, columns = _image("vgg", shape)
    if width < 1 or hidden < 1:
        raise UserError(f"vgg: width = {width} and hidden = {hidden} must be at least 1")
    layers: list[nn.Module] = []
    for factor, halved in VGG8B:
        pool = [nn.MaxPool2d(2, ceil_mode=True)] if halved else []
        layers.append(nn.Sequential(*_conv_norm(inputs, factor * width), nn.ReLU(), *pool))
        inputs = factor * width
        if halved:
            height, columns = -(-height // 2), -(-columns // 2)
    features = inputs * height * columns
    layers.append(
        nn.Sequential(
            nn.Flatten(), nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()
        )
    )
    return LayeredNetwork(layers, nn.Linear(hidden, classes))


def resnet(shape: Shape, classes: int, depth: int = 20) -> LayeredNetwork:
    """ResNet of ``depth`` 6 n + 2 for small images, in 3 n + 1 layers: a convolution, then 3 n residual blocks.

    Depth 20 is :func:`decentral.problems.models.convolutional.resnet20`: the same parameters from the same stream.
    He, Zhang, Ren, Sun, CVPR 2016 (arXiv 1512.03385), section 4.2, shortcuts without parameters; there depth is 20, 32,
    44, 56 or 110. Raises UserError for another depth, or unless ``shape`` is (channels, height, width).
    """
    channels, _, _ = _image("resnet", shape)
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise UserError(f"resnet: depth = {depth} must be 6 n + 2 with n at least 1; use 20, 32 or 110")
    layers: list[nn.Module] = [nn.Sequential(*_conv_norm(channels, 16), nn.ReLU())]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        layers.append(ResidualBlock(inputs, outputs))
        layers += [ResidualBlock(outputs, outputs) for _ in range(blocks - 1)]
    network = LayeredNetwork(layers, nn.Sequential(GlobalAverage(), nn.Linear(64, classes)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network
