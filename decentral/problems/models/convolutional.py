"""Convolutional networks for small images: a plain one and the CIFAR ResNet-20.

Both map a batch (B, channels, height, width) to logits (B, classes) and run under `torch.func.vmap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decentral.errors import UserError

Shape = Sequence[int]


def cnn(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """Three 3x3 convolutions with batch norm and ReLU, the last two of stride 2, and a linear layer.

    ``width`` channels, then twice as many. Strides instead of pooling keep CUDA deterministic.
    Raises `UserError` unless ``shape`` is (channels, height, width).
    """
    channels, height, columns = _image("cnn", shape)
    if width < 1:
        raise UserError(f"cnn: width = {width} must be at least 1")
    return nn.Sequential(
        *_conv_norm(channels, width),
        nn.ReLU(),
        *_conv_norm(width, 2 * width, stride=2),
        nn.ReLU(),
        *_conv_norm(2 * width, 2 * width, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * -(-height // 4) * -(-columns // 4), classes),
    )


def resnet20(shape: Shape, classes: int) -> nn.Module:
    """ResNet-20 for small images: 269,722 parameters for 3x32x32 and 10 classes.

    Section 4.2 with n = 3 and parameter-free shortcuts (option A): He, Zhang, Ren, Sun, CVPR 2016,
    arXiv 1512.03385. Convolutions are drawn from Kaiming's normal distribution, as there.
    Raises `UserError` unless ``shape`` is (channels, height, width).
    """
    channels, _, _ = _image("resnet20", shape)
    layers: list[nn.Module] = [*_conv_norm(channels, 16), nn.ReLU()]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        layers += [ResidualBlock(inputs, outputs), *(ResidualBlock(outputs, outputs) for _ in range(2))]
    model = nn.Sequential(*layers, GlobalAverage(), nn.Linear(64, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


class ResidualBlock(nn.Module):
    """relu(F(x) + shortcut(x)), F two 3x3 convolutions with batch norm: (B, C, H, W) in and out.

    Where the channels grow, F has stride 2 and the shortcut takes every second pixel and pads zeros.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.padding = outputs - inputs
        self.residual = nn.Sequential(
            *_conv_norm(inputs, outputs, self.stride), nn.ReLU(), *_conv_norm(outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Activations (B, outputs, H / stride, W / stride) of ``x`` (B, inputs, H, W)."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding))
        return torch.relu(self.residual(x) + shortcut)


class GlobalAverage(nn.Module):
    """Mean over height and width: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Means (B, C) of ``x`` (B, C, H, W)."""
        return x.mean(dim=(2, 3))


def _conv_norm(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)


def _image(model: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(
            f"{model} needs images (channels, height, width) and the data have shape {tuple(shape)}; use mlp"
        )
    return shape[0], shape[1], shape[2]
