"""PowerGossip: neighbours average low-rank parts of the difference between their matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from decentral.algorithms.admission import admit
from decentral.algorithms.descent import descend
from decentral.algorithms.traits import Traits
from topologies.settings import plain_settings
from topologies.streams import stream

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.comm.mixer import Mixer


class Factors(NamedTuple):
    """Of each edge that enters, side by side over the matrices: left (e', sum m r), right (e', sum n r)."""

    left: Tensor
    right: Tensor


class Matrix(NamedTuple):
    """Columns ``start`` to ``start + m n`` of a model as a matrix (m, n), and where its factors begin."""

    start: int
    m: int
    n: int
    left: int
    right: int


@dataclass(frozen=True)
class PowerGossip:
    """A gradient step; then each edge averages a rank-r part of its difference, found by power iteration.

        y = x - lr g;    D = Y_low - Y_high of an edge's ends, never formed
        even rounds:  p = D qh;     D ~ p qh';    ph = orth(p)        (each end sends Y qh)
        odd rounds:   q = D' ph;    D ~ ph q';    qh = orth(q)        (each end sends Y' ph)
        x_low = y_low - W_ij D~;    x_high = y_high + W_ij D~

    Both ends hold the same factors, bit for bit, so the mean is kept, and there is no step size to tune. The factors
    are those of the last round: power iteration goes on. Parameters of which ``rank`` factors would be no fewer numbers
    (vectors) are gossiped whole. ``seed``: of the first factors, and of those anew where a difference was zero.
    Cost: for each matrix m r or n r numbers, in turn, to each neighbour a round.
    Fixed point: that of DSGD where rank sends matrices whole. With less it does not rest where data differ, for
    gradients push workers apart in more directions than a round brings them together in: it stays about, further from
    the optimum.
    Unstable at lr L >= 2 for f_i of equal curvature, of which the mean alone decides.
    Reference: Vogels, Karimireddy, Jaggi, NeurIPS 2020, arXiv 2008.01425.
    """

    traits: ClassVar[Traits] = Traits(
        title="PowerGossip", needs=("static", "symmetric"), sends="edges", whole=True, linear=False
    )

    rank: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        plain_settings(self)
        if self.rank < 1:
            raise ValueError(f"rank = {self.rank} must be at least 1; 1 to 4 is usual")

    def init(self, x: Tensor, comm: Mixer) -> Factors:
        """Random right factors, the same at both ends of an edge."""
        admit(self, x, comm)
        matrices, _ = self._parts(x.shape[1], comm)
        lefts, rights = self.rank * sum(a.m for a in matrices), self.rank * sum(a.n for a in matrices)
        edges = comm.edges_in.tolist()
        factors = Factors(x.new_zeros((len(edges), lefts)), x.new_zeros((len(edges), rights)))
        for e, edge in enumerate(edges):
            for k, a in enumerate(matrices):
                q = factors.right[e, a.right : a.right + a.n * self.rank].view(self.rank, a.n)
                self._orthonormalise(q, edge, k, 0)
        return factors

    def step(
        self, x: Tensor, state: Factors, g: Tensor | None, comm: Mixer, lr: float
    ) -> tuple[Tensor, Factors]:
        """One round from x (h, d) with the gradients g (h, d) at x."""
        y = descend(x, g, lr)
        matrices, vectors = self._parts(y.shape[1], comm)
        forward, first, edges = comm.t % 2 == 0, comm.rows.start, comm.edges_in.tolist()
        sizes = [part.stop - part.start for part in vectors]
        sizes += [(a.m if forward else a.n) * self.rank for a in matrices]
        message = y.new_empty((len(edges), sum(sizes)))
        for e, (_, to) in enumerate(edges):
            parts = message[e].split_with_sizes(sizes)
            for part, columns in zip(parts, vectors, strict=False):
                part.copy_(y[to - first, columns])
            for part, a in zip(parts[len(vectors) :], matrices, strict=True):
                M, p, q = self._views(y[to - first], state, e, a)
                part.copy_((_product(q, M.T) if forward else _product(p, M)).view(-1))
        apart = message.sub(comm.exchange(message))  # own less the neighbour's
        for e, ((source, to), weight) in enumerate(zip(edges, comm.weights_in.tolist(), strict=True)):
            parts, sign = apart[e].split_with_sizes(sizes), 1 if to < source else -1
            for part, columns in zip(parts, vectors, strict=False):
                y[to - first, columns].sub_(part, alpha=weight)
            for k, (part, a) in enumerate(zip(parts[len(vectors) :], matrices, strict=True)):
                M, p, q = self._views(y[to - first], state, e, a)
                new = p if forward else q
                new.copy_(part.view_as(new)).mul_(sign)
                for u, v in zip(p, q, strict=True):
                    M.sub_(u[:, None] * v, alpha=sign * weight)
                self._orthonormalise(new, (source, to), k, comm.t + 1)
        return y, state

    def _parts(self, d: int, comm: Mixer) -> tuple[list[Matrix], list[slice]]:
        """The matrices of a model, and the columns that are gossiped whole."""
        matrices: list[Matrix] = []
        vectors, left, right = [], 0, 0
        for start, stop, shape in _shapes(d, comm):
            m = shape[0] if len(shape) > 1 else 1
            n = (stop - start) // m
            if self.rank >= min(m, n):
                vectors.append(slice(start, stop))
                continue
            matrices.append(Matrix(start, m, n, left, right))
            left, right = left + m * self.rank, right + n * self.rank
        return matrices, vectors

    def _views(self, row: Tensor, state: Factors, e: int, a: Matrix) -> tuple[Tensor, Tensor, Tensor]:
        """Of a model (d,): M (m, n); of edge e: p (r, m) and q (r, n)."""
        M = row[a.start : a.start + a.m * a.n].view(a.m, a.n)
        p = state.left[e, a.left : a.left + a.m * self.rank].view(self.rank, a.m)
        q = state.right[e, a.right : a.right + a.n * self.rank].view(self.rank, a.n)
        return M, p, q

    def _orthonormalise(self, rows: Tensor, edge: tuple[int, int], matrix: int, t: int) -> None:
        """Gram-Schmidt of rows (r, width), in place; a row with nothing left is drawn anew, alike at both ends."""
        for k, row in enumerate(rows):
            size = float(row.norm())
            for other in rows[:k]:
                row.sub_(other * _product(row, other))
            if not float(row.norm()) > 1e-6 * size:
                draw = stream(self.seed, "power-gossip", min(edge), max(edge), matrix, k, t)
                row.copy_(row.new_tensor(draw.standard_normal(len(row))))
                for other in rows[:k]:
                    row.sub_(other * _product(row, other))
            row.div_(row.norm())


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of copies: the last bits of a BLAS product depend on where in memory its operands lie."""
    return a.clone() @ b.clone()


def _shapes(d: int, comm: Mixer) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(start, stop, shape) of each parameter; one vector where the layers are not known."""
    if comm.layout is None:
        yield 0, d, (d,)
        return
    for span in comm.layout.spans:
        yield span.start, span.stop, span.shape or (1,)
