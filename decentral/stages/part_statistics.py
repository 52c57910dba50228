"""What the parts of a factorised boundary stand for: sums over samples, from which they are pictured and named."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decentral.stages.factorisation import coefficients_of


class PartStatistics:
    """What has how much of each part: sums over samples, from which the parts can be pictured and named.

        parts                S (r, d), rows of length 1, as they were for the last samples
        coefficients         M (B, r) of the last samples, z ~ M S with that S
        residual             sum |z - M S|^2 / sum |z|^2
        pictures             (r, *input)   sum_i M_ij x_i / sum_i M_ij: the mean input, weighted by the part
        mean_input           (*input)      sum_i x_i / N
        classes              (C)           labels that were seen, ascending
        class_coefficients   (r, C)        mean of M_ij over the samples i of a class

    A picture is not the part, which has no pixels of its own: it is what the inputs that use the part share. NaN
    where no sample has any of it. Without inputs that are numbers, or labels one a sample, their rows are left out.
    Cost of a batch: 3 B d r + B r^2 ``sweeps`` + B r * input multiplications.
    """

    def __init__(self, sweeps: int) -> None:
        self.sweeps = sweeps
        self.last: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.of_class: dict[int, Tensor] = {}  # (r + 1): of M, and how many samples

    def add(self, parts: Tensor, z: Tensor, x: Tensor, y: Tensor) -> None:
        """Samples with values z, inputs x and labels y; M is found for S = ``parts`` as it is."""
        s, z = normalize(parts), z.flatten(1)  # lengths drift from batch to batch, and M's with them
        m = coefficients_of(z, s, self.sweeps)
        self.last = {"parts": s, "coefficients": m}
        self._add("missed", (z - m @ s).square().sum())
        self._add("energy", z.square().sum())
        if x.is_floating_point():
            self._add("weights", m.sum(0))
            self._add("weighted", torch.einsum("ij,i...->j...", m, x))
            self._add("inputs", x.sum(0))
            self._add("samples", x.new_tensor(len(x)))
        if y.dim() == 1:
            counted = torch.cat([m, torch.ones_like(m[:, :1])], 1)
            for c in set(y.tolist()):
                self.of_class[c] = self.of_class.get(c, 0) + counted[y == c].sum(0)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + value

    def findings(self) -> dict[str, Tensor]:
        """By name, as listed above."""
        sums, found = self.sums, dict(self.last)
        found["residual"] = sums["missed"] / sums["energy"]
        if "samples" in sums:
            weights = sums["weights"].view(-1, *(1 for _ in sums["inputs"].shape))
            found["pictures"] = sums["weighted"] / weights
            found["mean_input"] = sums["inputs"] / sums["samples"]
        if self.of_class:
            classes = sorted(self.of_class)
            found["classes"] = torch.tensor(classes)
            found["class_coefficients"] = torch.stack(
                [self.of_class[c][:-1] / self.of_class[c][-1] for c in classes], 1
            )
        return found
