"""Non-negative matrix factorisation: a batch of values as non-negative sums of a few non-negative parts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decentral.errors import UserError


class NonNegativeFactorisation:
    """z ~ M S with M (B, r) and S (r, d) non-negative: rows of S are parts, M says how much of each is in a sample.

        min over M, S >= 0:  |z - M S|^2

    by alternating non-negative least squares, one column of M or one row of S after the other (HALS), each exactly:

        M_j <- max(0, M_j + (z S_j' - M S S_j') / S_j S_j'),        and S likewise with the roles changed

    The objective never rises; z (B, d) may have any sign, later dimensions are flattened. The first start is NNDSVD
    (positive parts of singular vectors), without randomness. Cost of a sweep: about 4 B d r multiplications, of the
    start of a batch B d r and a singular value decomposition of S.
    Reference: Cichocki and Phan 2009 (HALS); Boutsidis and Gallopoulos 2008 (NNDSVD).
    """

    def __init__(self, factors: int) -> None:
        if factors < 1:
            raise ValueError(f"factors = {factors} must be at least 1")
        self.factors = factors
        self._coefficients: Tensor | None = None
        self._parts: Tensor | None = None

    @property
    def coefficients(self) -> Tensor:
        """M (B, r) of the last samples."""
        return _known(self._coefficients)

    @property
    def parts(self) -> Tensor:
        """S (r, d)."""
        return _known(self._parts)

    @property
    def reconstruction(self) -> Tensor:
        """M S (B, d)."""
        return self.coefficients @ self.parts

    def start(self, z: Tensor) -> None:
        """New samples z. The first time M and S begin at NNDSVD; later S is kept, its rows scaled to length 1.

        M then begins at max(0, z S^+), least squares cut at 0. Trap: from M = 0 a few sweeps leave all to the first
        parts, and what M falls short of goes into the lengths of S, which grow without bound from batch to batch.
        Raises UserError if r > min(B, d).
        """
        z = z.flatten(1)
        if self._parts is None:
            if self.factors > min(z.shape):
                raise UserError(
                    f"factors = {self.factors} is more than {len(z)} samples of {z.shape[1]} features allow; "
                    f"use at most {min(z.shape)}"
                )
            self._coefficients, self._parts = nndsvd(z, self.factors)
        else:
            self._parts = normalize(self._parts)
            self._coefficients = coefficients_of(z, self._parts, sweeps=0)

    def step(self, z: Tensor) -> None:
        """One sweep: all columns of M, then all rows of S."""
        z = z.flatten(1)
        self._coefficients = _sweep(self.coefficients.T, z @ self.parts.T, self.parts @ self.parts.T).T
        m = self._coefficients
        self._parts = _sweep(self.parts, z.T @ m, m.T @ m)

    def fit(self, z: Tensor, sweeps: int) -> Tensor:
        """``sweeps`` times :meth:`step`, from where M and S are; the reconstruction in the shape of z."""
        for _ in range(sweeps):
            self.step(z)
        return self.reconstruction.view_as(z)


def coefficients_of(z: Tensor, parts: Tensor, sweeps: int) -> Tensor:
    """M (B, r) for samples z and parts S that stay: max(0, z S^+), then ``sweeps`` times all columns of M."""
    z = z.flatten(1)
    m: Tensor = (z @ torch.linalg.pinv(parts)).clamp(min=0)
    products, gram = z @ parts.T, parts @ parts.T
    for _ in range(sweeps):
        m = _sweep(m.T, products, gram).T
    return m


def _sweep(rows: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Each row j of ``rows`` (r, n) to its exact minimiser, in order; products (n, r) = targets' products with the
    other factor, gram (r, r) = the other factor's own.
    """
    rows, none = rows.clone(), rows.new_zeros(())
    for j in range(len(rows)):
        change = (products[:, j] - gram[j] @ rows) / gram[j, j]
        # where the other factor's part is 0, this row has no effect
        rows[j] = (rows[j] + torch.where(gram[j, j] > 0, change, none)).clamp_(min=0)
    return rows


def nndsvd(z: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """M (B, r) and S (r, d) from the r largest singular triples of z, each cut to its heavier sign."""
    u, sigma, v = torch.linalg.svd(z, full_matrices=False)
    m, s = z.new_zeros(len(z), factors), z.new_zeros(factors, z.shape[1])
    for j in range(factors):
        sides = [((sign * u[:, j]).clamp(min=0), (sign * v[j]).clamp(min=0)) for sign in (1, -1)]
        a, b = max(sides, key=_product_of_lengths)
        if _product_of_lengths((a, b)) > 0:
            ratio = b.norm() / a.norm()
            m[:, j], s[j] = a * (sigma[j] * ratio).sqrt(), b * (sigma[j] / ratio).sqrt()
    return m, s


def _product_of_lengths(pair: tuple[Tensor, Tensor]) -> float:
    return float(pair[0].norm() * pair[1].norm())


def _known(value: Tensor | None) -> Tensor:
    if value is None:
        raise RuntimeError("the factorisation has seen no samples; call start(z) first")
    return value
