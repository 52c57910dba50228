"""LSTM layers with projection: dense, in groups, and with factorised gates; and language models of them.

With the input x (q,), the layer's own output h' (p,) of the step before, and n cells,

    a = T [x; h'] + b,    (c, m) as in :mod:`.lstm_step`,    h = P m          P (p, n) without bias

A dense layer has any T (4n, q + p). One of k groups cuts x, h', gates and cells into k equal slices, group g's gates
seeing x_g and h'_g alone; P is whole, and b one for all. A factorised one has T = W2 W1, W1 (r, q + p), W2 (4n, r).

Reference: Kuchaiev, Ginsburg 2017 (arXiv 1703.10722), with q = p. A layer has 4n + pn numbers and those of T:
4n(q + p), that over k, or r(q + p) + 4nr. First weights are uniform within 1 / sqrt(inputs), as those
of torch's linear layers; b is 0, since f has a 1 of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from decentral.comm.layout import Recurrent
from decentral.errors import UserError
from decentral.problems.models.language import check_sizes
from decentral.problems.models.layered import LayeredNetwork
from decentral.problems.models.lstm_scan import Part, scan


class Cells(Recurrent):
    """What one of k groups has: weights of inputs (4s, q/k) and of h', its bias (4s,), its columns of P (p, s)."""

    def __init__(self, q: int, n: int, p: int, k: int = 1) -> None:
        super().__init__()
        s, inputs = n // k, (q + p) // k
        self.of_x = _uniform((4 * s, q // k), inputs)
        self.of_h = _uniform((4 * s, p // k), inputs)
        self.bias = nn.Parameter(torch.zeros(4 * s))
        self.projection = _uniform((p, s), n)

    @property
    def part(self) -> Part:
        """Its tensors."""
        return Part(self.of_x, self.of_h, self.bias, self.projection)


class GroupLSTM(nn.Module):
    """A layer of ``k`` groups, from ``q`` features to ``p``, of ``n`` cells; k = 1 is the dense layer.

    Raises UserError where k does not divide n, p and q.
    """

    def __init__(self, q: int, n: int, p: int, k: int = 1) -> None:
        super().__init__()
        check_sizes(inputs=q, cells=n, projection=p, groups=k)
        if n % k or p % k or q % k:
            raise UserError(
                f"g-lstm: groups = {k} must divide cells = {n}, projection = {p} and inputs = {q}; choose others"
            )
        self.k, self.q, self.n, self.p = k, q, n, p
        self.groups = nn.ModuleList(Cells(q, n, p, k) for _ in range(k))

    def forward(self, x: Tensor) -> Tensor:
        """h (B, T, p) of x (B, T, q)."""
        return scan(x, None, self.parts)

    @property
    def parts(self) -> list[Part]:
        """The groups' tensors."""
        return [group.part for group in self.groups if isinstance(group, Cells)]


class FactorisedLSTM(Recurrent):
    """A layer whose gates have T = W2 W1 of rank ``r``, from ``q`` features to ``p``, of ``n`` cells."""

    def __init__(self, q: int, n: int, p: int, r: int) -> None:
        super().__init__()
        check_sizes(inputs=q, cells=n, projection=p, rank=r)
        self.of_x, self.of_h = _uniform((r, q), q + p), _uniform((r, p), q + p)
        self.up = _uniform((4 * n, r), r)
        self.bias = nn.Parameter(torch.zeros(4 * n))
        self.projection = _uniform((p, n), n)

    def forward(self, x: Tensor) -> Tensor:
        """h (B, T, p) of x (B, T, q)."""
        return scan(x, self.up, [Part(self.of_x, self.of_h, self.bias, self.projection)])


class Dropped(nn.Sequential):
    """A layer whose outputs are dropped with a probability while it learns."""

    def __init__(self, layer: nn.Module, dropout: float) -> None:
        super().__init__(layer, nn.Dropout(dropout))


def projected(
    vocabulary: int, p: int, layers: int, layer: Callable[[], nn.Module], dropout: float = 0.0
) -> LayeredNetwork:
    """A language model in ``layers`` + 1 layers: an embedding of p numbers, then so many of ``layer()``, then logits.

    ``dropout``: of the embedding's outputs and of each layer's, where it is not 0.
    """
    check_sizes(vocabulary=vocabulary, projection=p)
    parts = [nn.Embedding(vocabulary, p), *(layer() for _ in range(layers))]
    return LayeredNetwork(
        [Dropped(part, dropout) for part in parts] if dropout else parts, nn.Linear(p, vocabulary)
    )


def _uniform(shape: tuple[int, int], inputs: int) -> nn.Parameter:
    parameter, bound = nn.Parameter(torch.empty(shape)), 1 / math.sqrt(inputs)
    nn.init.uniform_(parameter, -bound, bound)
    return parameter
