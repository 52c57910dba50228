"""A convolutional network of few bits: integer weights and activations by fake quantisation, with batch norms between.

Activations and inputs are integers times a power of two, and weights integers, so that sums are exact in floating point
in whatever order. In training the steps of rounding are passed by the gradient (straight-through estimator); in
evaluation the batch norm's affine map is rounded as exact arithmetic would have it, so the network is one of integers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from decentral.errors import UserError
from decentral.problems.models.convolutional import _image
from decentral.problems.models.layered import LayeredNetwork
from decentral.problems.models.rounding import floor_of_sum, passed_through

INPUT_BITS, INPUT_FRACTION = 8, 5
"""Of an input, with its sign; behind the point: steps of 1/32 from -4 to 4 - 1/32."""
MOST_SUM = 1 << 24
"""Up to here float32 has every integer."""


class QuantisedConvolution(nn.Conv2d):
    """A convolution without bias whose weights are the integers of :func:`integer_weight`, of ``bits`` bits.

    ``fraction``: inputs are integers times 2^-fraction, and so are the sums.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int, fraction: int) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bits, self.fraction = bits, fraction

    def forward(self, x: Tensor) -> Tensor:
        """Sums (B, outputs, H', W')."""
        weight, _ = integer_weight(self.weight, self.bits)
        sums: Tensor = self._conv_forward(x, weight, None)
        if self.training:
            return sums
        # exact already, unless the kernel transforms its inputs (Winograd)
        return (sums * (1 << self.fraction)).round() * 2.0**-self.fraction


class QuantisedBlock(nn.Module):
    """Convolution, batch norm, ReLU and rounding: (B, C, H, W) to (B, outputs, H / stride, W / stride).

        y = clip(floor(2^f norm(conv(x)) + 1/2), 0, 2^bits - 1) 2^-f,     f = bits - 1,

    so activations go from 0 to nearly 2. In evaluation norm is x -> a x + b with two float32 numbers a channel
    (:meth:`affine`), and the floor is that of exact arithmetic.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, weight_bits: int, bits: int, fraction: int
    ) -> None:
        super().__init__()
        self.conv = QuantisedConvolution(inputs, outputs, stride, weight_bits, fraction)
        self.norm = nn.BatchNorm2d(outputs)
        self.bits, self.fraction = bits, bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Activations."""
        sums, most, unit = self.conv(x), (1 << self.bits) - 1, 1 << self.fraction
        if self.training:
            # clamp's backward pass takes seven times as long
            return passed_through(functional.hardtanh(self.norm(sums), 0, most / unit), unit)
        a, b = (part.view(-1, 1, 1) for part in self.affine())
        y = floor_of_sum(a * sums.double() * unit, b * unit)
        return (y.clamp(0, most) / unit).to(sums.dtype)

    def affine(self) -> tuple[Tensor, Tensor]:
        """a = gamma / sqrt(var + eps) and b = beta - a mean, (outputs,): float32 numbers, as float64."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        a = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        a = a.float().double()
        return a, (norm.bias.double() - a * norm.running_mean.double()).float().double()


class QuantisedInput(nn.Module):
    """Inputs in fixed point: the nearest integer times 2^-5 from -128 to 127, halves to even."""

    def forward(self, x: Tensor) -> Tensor:
        """As many numbers."""
        return self.integers(x) * 2.0**-INPUT_FRACTION

    @staticmethod
    def integers(x: Tensor) -> Tensor:
        """The integers, as floating-point numbers."""
        most = 1 << INPUT_BITS - 1
        return (x * (1 << INPUT_FRACTION)).round().clamp(-most, most - 1)


class QuantisedHead(nn.Module):
    """Logits from integer weights and no bias: ``step`` x (sums of integers), so that these decide."""

    def __init__(self, features: int, classes: int, bits: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes, bias=False)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of activations of any shape (B, ...)."""
        weight, step = integer_weight(self.linear.weight, self.bits)
        if self.training:
            return step * functional.linear(x.flatten(1), weight)
        sums = functional.linear(x.flatten(1).double(), weight.double())
        return (step.double() * sums).to(x.dtype)


def integer_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers q, |q| <= m = 2^(bits - 1) - 1, in the numbers of ``weight``, and the step s with weight ~ s q.

        s = mean |w| 2^(3 - bits),     q = round(clip(w / s, -m, m)),     dq/dw = 1/s where nothing is clipped

    So weights are clipped near four times their mean size, and with two bits at twice. One s for the tensor, which
    grows with it, so that a batch norm after it makes its length meaningless.
    """
    most = (1 << bits - 1) - 1
    step = (weight.detach().abs().mean() * 2.0 ** (3 - bits)).clamp_min(1e-30)
    return passed_through((weight / step).clamp(-most, most)), step


def quantised_cnn(
    shape: Sequence[int], classes: int, width: int = 16, weight_bits: int = 4, activation_bits: int = 4
) -> LayeredNetwork:
    """Three 3x3 convolutions with batch norm, the last two of stride 2, and a linear layer without bias.

    ``width`` channels, then twice as many. Raises UserError unless ``shape`` is (channels, height, width), and where a
    sum of a convolution might leave the integers that float32 has.
    """
    channels, height, columns = _image("quantised-cnn", shape)
    wide = ((channels, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2))
    layers: list[nn.Module] = []
    bits, fraction = INPUT_BITS, INPUT_FRACTION
    for inputs, outputs, stride in wide:
        reach = worst_case(9 * inputs, weight_bits, bits, signed=not layers)
        if reach > MOST_SUM:
            raise UserError(
                f"quantised-cnn: sums of weights of {weight_bits} bits over {inputs:,} channels reach {reach:,}, and "
                f"float32 has all integers up to {MOST_SUM:,} only; lower width = {width}, "
                "weight_bits or activation_bits"
            )
        layers.append(QuantisedBlock(inputs, outputs, stride, weight_bits, activation_bits, fraction))
        bits, fraction = activation_bits, activation_bits - 1
    layers[0] = nn.Sequential(QuantisedInput(), layers[0])
    features = 2 * width * -(-height // 4) * -(-columns // 4)
    return LayeredNetwork(layers, QuantisedHead(features, classes, weight_bits))


def worst_case(fan_in: int, weight_bits: int, bits: int, signed: bool) -> int:
    """R: no sum of ``fan_in`` products of a weight and an input of ``bits`` bits is beyond -R or R."""
    return fan_in * ((1 << weight_bits - 1) - 1) * (1 << bits - 1 if signed else (1 << bits) - 1)
