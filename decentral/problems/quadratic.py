"""Heterogeneous quadratics with known optimum: the problem on which theory is exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from decentral.blocks import block_width, column_blocks
from decentral.problems.objective import OF_OPTIMUM, Place, check_positive, check_spread, one_worker
from decentral.problems.sizes import refuse_models
from topologies.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from decentral.comm import Communicator
    from decentral.problems.capabilities import BatchSize


@dataclass(frozen=True)
class Quadratic:
    """f_i(x) = (x - c_i)' A_i (x - c_i) / 2, gradients exact or with additive Gaussian noise.

    ``dimension``: d. ``condition``: the eigenvalues of every A_i are spread geometrically from 1 / condition to 1, in
    directions of its own (``curvature = "distinct"``) or common to all ("shared"). ``heterogeneity``: standard
    deviation of the entries of c_i around a common point. ``noise``: standard deviation of each entry of the noise on
    a gradient. ``diagonal``: A_i is diagonal, so that memory and time are O(n d).
    """

    dimension: int = 20
    condition: float = 10.0
    heterogeneity: float = 1.0
    noise: float = 0.0
    curvature: Literal["distinct", "shared"] = "distinct"
    diagonal: bool = False

    def __post_init__(self) -> None:
        check_positive(dimension=self.dimension)
        check_spread(self.condition, heterogeneity=self.heterogeneity, noise=self.noise)

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """There are no samples, and always an optimum."""
        del batch_size, weight_decay

    def curvature_of(self, seed: int, worker: int) -> NDArray[np.float64]:
        """A_i, (d, d), or its diagonal (d,)."""
        d = self.dimension
        who = worker if self.curvature == "distinct" else 0
        rng = stream(seed, "curvature", who)
        spectrum = self.condition ** -np.linspace(0, 1, d) if d > 1 else np.ones(1)
        if self.diagonal:
            return np.asarray(rng.permutation(spectrum))
        basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
        return np.asarray((basis * spectrum) @ basis.T)

    def centre_of(self, seed: int, worker: int) -> NDArray[np.float64]:
        """c_i, (d,)."""
        common = stream(seed, "centre").standard_normal(self.dimension)
        return common + self.heterogeneity * stream(seed, "centre", worker).standard_normal(self.dimension)

    def linear_terms(self, workers: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """H_i = A_i, (n, d, d), and r_i = A_i c_i, (n, d), of all n workers, float64, without weight decay."""
        a = np.stack([self.curvature_of(seed, i) for i in range(workers)])
        c = np.stack([self.centre_of(seed, i) for i in range(workers)])
        if self.diagonal:
            a = np.einsum("nd,de->nde", a, np.eye(self.dimension))
        return a, np.einsum("nde,ne->nd", a, c)

    def largest_curvature(self, workers: int, seed: int) -> float:
        """The largest eigenvalue of any A_i: 1, by construction."""
        del workers, seed
        return 1.0

    def exact(self, batch_size: BatchSize) -> bool:
        """Gradients have no noise but what is asked for."""
        del batch_size
        return self.noise == 0

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`."""
        del workers, weight_decay
        return ("train_loss", *OF_OPTIMUM)

    def parameters(self) -> int:
        """See :class:`decentral.problems.capabilities.Sized`."""
        return self.dimension

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """A_i and c_i of each, and for the optimum their mean."""
        d = self.dimension
        curvature = d if self.diagonal else float(d) * d
        return workers * itemsize * (curvature + d) + 8 * curvature

    def prepare(self, workers: int, seed: int) -> None:
        """There is nothing to read, and there must be room for one worker."""
        del workers, seed
        refuse_models(self, 1, 4)

    def build(self, place: Place) -> QuadraticObjective:
        """The objective of the hosted workers."""
        return QuadraticObjective(self, place)


class QuadraticObjective:
    """The quadratics of the hosted workers, as tensors A (h, d, d) or (h, d), c (h, d)."""

    def __init__(self, settings: Quadratic, place: Place) -> None:
        import torch

        from decentral.comm.layout import Layout

        self.settings, self.place = settings, place
        self.d = settings.dimension
        self.layout = Layout.whole(self.d)
        h = len(place.rows)
        shape = (h, self.d) if settings.diagonal else (h, self.d, self.d)
        self.A = torch.empty(shape, dtype=place.dtype, device=place.device)
        self.c = torch.empty((h, self.d), dtype=place.dtype, device=place.device)
        for row, worker in enumerate(place.rows):
            self.A[row] = torch.from_numpy(settings.curvature_of(place.seed, worker))
            self.c[row] = torch.from_numpy(settings.centre_of(place.seed, worker))
        self.losses: Tensor = self.c.new_zeros(h)
        self.buffers: dict[str, Tensor] = {}
        self.oracle = "closed form"
        self.notes: list[str] = []
        self.optimum: Tensor = self.c.new_tensor(self._optimum())

    def start(self) -> Tensor:
        """The origin."""
        origin: Tensor = self.c.new_zeros(self.d)
        return origin

    def gradient(self, x: Tensor, t: int) -> Iterator[tuple[slice, Tensor]]:
        """A_i (x_i - c_i), plus noise."""
        noise = self._noise(t)
        self.losses = x.new_zeros(x.shape[0])
        for columns in self._blocks():
            apart = x[:, columns] - self.c[:, columns]
            g = self._curved(columns, apart)
            self.losses += apart.mul_(g).sum(1).mul_(0.5)
            del apart  # while the round works on g, this block's memory is free
            if noise is not None:
                g += noise[:, columns]
            yield columns, g

    def alone(self, row: int) -> QuadraticObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one = copy.copy(self)
        one.place = one_worker(self.place, row)
        one.A, one.c, one.losses = self.A[row : row + 1], self.c[row : row + 1], self.losses[row : row + 1]
        return one

    def redrawn(self, batch_size: int, of_all: bool) -> QuadraticObjective:
        """See :class:`decentral.problems.objective.Objective`; there are no samples, and noise is as it was."""
        del batch_size, of_all
        return copy.copy(self)

    def renew_statistics(self, x: Tensor, batch_size: int) -> int:
        """There are none."""
        del x, batch_size
        return 0

    def record_cost_rounds(self) -> int:
        """A record costs about a round."""
        return 1

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """train_loss: f at the averaged model, over all workers."""
        del last
        hosted = np.zeros(x.shape[0])
        for columns in self._blocks():
            apart = mean[:, columns] - self.c[:, columns]
            g = self._curved(columns, apart)
            hosted += (apart.double() * g.double()).cpu().numpy().sum(axis=1) / 2
        return {"train_loss": float(comm.observe(hosted).mean())}

    def _blocks(self) -> list[slice]:
        """Diagonal curvature acts on each column alone, so a gradient need never be there as a whole."""
        every = slice(0, self.d)
        return column_blocks(every, block_width(*self.c.shape)) if self.settings.diagonal else [every]

    def _curved(self, columns: slice, apart: Tensor) -> Tensor:
        """A_i times each row, (h, width); of full matrices, all columns at once."""
        if self.settings.diagonal:
            return self.A[:, columns] * apart
        return (self.A @ apart.unsqueeze(-1)).squeeze(-1)

    def samples(self, rounds: int) -> None:
        """There is no data set."""

    def epoch(self, rounds: int) -> None:
        """There is no data set to pass over."""

    def _optimum(self) -> NDArray[np.float64]:
        """x* = (mean A + weight decay I)^-1 mean A c, (1, d); one worker at a time, so memory stays O(d^2)."""
        seed, d = self.place.seed, self.d
        total, right = np.zeros(d if self.settings.diagonal else (d, d)), np.zeros(d)
        for worker in range(self.place.workers):
            a, c = self.settings.curvature_of(seed, worker), self.settings.centre_of(seed, worker)
            total, right = total + a, right + (a * c if self.settings.diagonal else a @ c)
        total, right = total / self.place.workers, right / self.place.workers
        if self.settings.diagonal:
            return np.asarray(right / (total + self.place.weight_decay))[None]
        return np.asarray(np.linalg.solve(total + self.place.weight_decay * np.eye(d), right))[None]

    def _noise(self, t: int) -> Tensor | None:
        if not self.settings.noise:
            return None
        draws = [
            stream(self.place.seed, "noise", worker, t).standard_normal(self.d) for worker in self.place.rows
        ]
        noise: Tensor = self.c.new_tensor(np.stack(draws) * self.settings.noise)
        return noise
