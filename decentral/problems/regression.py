"""Linear regression with known optimum: full or sampled gradients over each worker's own samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from decentral.problems.data.batches import EpochBatches
from decentral.problems.objective import OF_OPTIMUM, Place, check_positive, check_spread, one_worker
from decentral.problems.sizes import refuse_models
from topologies.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from decentral.comm import Communicator
    from decentral.problems.capabilities import BatchSize


@dataclass(frozen=True)
class LinearRegression:
    """f_i(x) = |F_i x - b_i|^2 / (2 m) over the m = ``samples`` rows of worker i.

    Rows of F_i are Gaussian with a covariance whose eigenvalues run geometrically from 1 / ``condition`` to 1;
    b_i = F_i (x_0 + heterogeneity * xi_i) + noise * eps, with xi_i and eps standard normal. ``noise`` is on the
    labels; gradients are noisy where ``train.batch_size`` is below ``samples``.
    """

    dimension: int = 30
    samples: int = 50
    condition: float = 1.0
    heterogeneity: float = 1.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        check_positive(dimension=self.dimension, samples=self.samples)
        check_spread(self.condition, heterogeneity=self.heterogeneity, noise=self.noise)

    def check(self, batch_size: BatchSize, weight_decay: float) -> None:
        """A batch may not exceed a worker's samples."""
        del weight_decay
        if batch_size != "full" and batch_size > self.samples:
            raise ValueError(
                f"train.batch_size = {batch_size} exceeds problem.samples = {self.samples} of a worker; "
                'lower it, or use "full"'
            )

    def data_of(self, seed: int, worker: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(F_i, b_i): (samples, d) and (samples,)."""
        common = stream(seed, "solution").standard_normal(self.dimension)
        rng = stream(seed, "regression", worker)
        scale = (
            self.condition ** (-np.linspace(0, 1, self.dimension) / 2) if self.dimension > 1 else np.ones(1)
        )
        features = rng.standard_normal((self.samples, self.dimension)) * scale
        target = common + self.heterogeneity * rng.standard_normal(self.dimension)
        return features, features @ target + self.noise * rng.standard_normal(self.samples)

    def linear_terms(self, workers: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """H_i = F_i' F_i / m, (n, d, d), and r_i = F_i' b_i / m, (n, d), of all n workers, float64."""
        data = [self.data_of(seed, worker) for worker in range(workers)]
        m = self.samples
        return np.stack([f.T @ f / m for f, _ in data]), np.stack([f.T @ b / m for f, b in data])

    def largest_curvature(self, workers: int, seed: int) -> float:
        """The largest eigenvalue of any H_i."""
        return float(np.linalg.eigvalsh(self.linear_terms(workers, seed)[0]).max())

    def exact(self, batch_size: BatchSize) -> bool:
        """Full batches have no sampling noise (noisy labels only move the optimum)."""
        return batch_size == "full"

    def columns(self, workers: int, weight_decay: float) -> tuple[str, ...]:
        """See :class:`decentral.problems.capabilities.Measured`; with few samples the optimum is not unique."""
        unique = weight_decay > 0 or workers * self.samples >= self.dimension
        return ("epoch", "samples", "train_loss", *(OF_OPTIMUM if unique else ()))

    def epoch_samples(self, workers: int) -> int:
        """See :class:`decentral.problems.capabilities.Counted`."""
        return workers * self.samples

    def parameters(self) -> int:
        """See :class:`decentral.problems.capabilities.Sized`."""
        return self.dimension

    def least_bytes(self, workers: int, itemsize: int) -> float:
        """F_i and b_i of each, and for the optimum H_i too."""
        d, m = float(self.dimension), float(self.samples)
        return workers * (itemsize * m * (d + 1) + 8 * d * d)

    def prepare(self, workers: int, seed: int) -> None:
        """There is nothing to read, and there must be room for one worker."""
        del workers, seed
        refuse_models(self, 1, 4)

    def build(self, place: Place) -> RegressionObjective:
        """The objective of the hosted workers."""
        return RegressionObjective(self, place)


class RegressionObjective:
    """The regressions of the hosted workers: F (h, m, d), b (h, m)."""

    def __init__(self, settings: LinearRegression, place: Place) -> None:
        import torch

        from decentral.comm.layout import Layout

        self.settings, self.place = settings, place
        self.d = settings.dimension
        self.layout = Layout.whole(self.d)
        data = [settings.data_of(place.seed, worker) for worker in place.rows]
        self.F = torch.from_numpy(np.stack([f for f, _ in data])).to(place.device, place.dtype)
        self.b = torch.from_numpy(np.stack([b for _, b in data])).to(place.device, place.dtype)
        self.losses = self.b.new_zeros(len(data))
        self.buffers: dict[str, Tensor] = {}
        self.oracle = "closed form"
        self.notes: list[str] = []
        self.batches = None if place.batch_size == "full" else self._batches(place.batch_size)
        H, r = settings.linear_terms(place.workers, place.seed)
        regular = H.mean(0) + place.weight_decay * np.eye(self.d)
        solution, *_ = np.linalg.lstsq(regular, r.mean(0), rcond=None)
        self.optimum: Tensor | None = self.b.new_tensor(solution[None])
        if np.linalg.matrix_rank(regular) < self.d:
            self.optimum = None
            self.notes.append(
                "the optimum is not unique (too few samples, no weight decay): no bias is reported"
            )

    def _batches(self, batch_size: int) -> EpochBatches:
        sizes, rows = [self.settings.samples] * len(self.place.rows), list(self.place.rows)
        return EpochBatches(sizes, rows, batch_size, self.place.seed)

    def start(self) -> Tensor:
        """The origin."""
        origin: Tensor = self.b.new_zeros(self.d)
        return origin

    def gradient(self, x: Tensor, t: int) -> Iterator[tuple[slice, Tensor]]:
        """F_i' (F_i x_i - b_i) / m over all or the drawn samples."""
        import torch

        features, labels = self.F, self.b
        if self.batches is not None:
            chosen = torch.from_numpy(self.batches.at(t)).to(self.b.device)
            worker = torch.arange(len(chosen), device=self.b.device)[:, None]
            features, labels = features[worker, chosen], labels[worker, chosen]
        m = labels.shape[1]
        residual = (features @ x.unsqueeze(-1)).squeeze(-1) - labels
        self.losses = residual.square().sum(1) / (2 * m)
        yield slice(0, self.d), (features.mT @ residual.unsqueeze(-1)).squeeze(-1) / m

    def alone(self, row: int) -> RegressionObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one = copy.copy(self)
        one.place = one_worker(self.place, row)
        one.F, one.b, one.losses = self.F[row : row + 1], self.b[row : row + 1], self.losses[row : row + 1]
        if self.batches is not None:
            one.batches = self.batches.alone(row)
        return one

    def redrawn(self, batch_size: int, of_all: bool) -> RegressionObjective:
        """See :class:`decentral.problems.objective.Objective`; samples stay with their worker."""
        del of_all
        one = copy.copy(self)
        one.place = replace(self.place, batch_size=batch_size)
        one.batches = self._batches(batch_size)
        return one

    def renew_statistics(self, x: Tensor, batch_size: int) -> int:
        """There are none."""
        del x, batch_size
        return 0

    def record_cost_rounds(self) -> int:
        """A record costs about a round."""
        return 1

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """train_loss: f at the averaged model, over all samples of all workers."""
        del last
        residual = (self.F @ mean.squeeze(0) - self.b).double().cpu().numpy()
        hosted = (residual**2).sum(axis=1) / (2 * self.settings.samples)
        return {"train_loss": float(comm.observe(hosted).mean())}

    def samples(self, rounds: int) -> int:
        """Seen by all workers."""
        batch = self.place.batch_size
        return rounds * self.place.workers * (self.settings.samples if batch == "full" else batch)

    def epoch(self, rounds: int) -> float:
        """Passes over a worker's own samples."""
        return self.samples(rounds) / (self.place.workers * self.settings.samples)
