"""What a mixing may be given as, and the schedule that it is."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import topologies

Mixing: TypeAlias = topologies.Schedule | sparse.csr_array | NDArray[np.float64]
"""A mixing matrix (n, n), scipy's or numpy's, row i receives; or a Schedule of such."""


def as_schedule(mixing: Mixing, check: bool = True) -> topologies.Schedule:
    """A Schedule as it is; any scipy or numpy matrix as the schedule that never changes, checked unless waived."""
    if isinstance(mixing, topologies.Schedule):
        return mixing
    w = sparse.csr_array(mixing, dtype=np.float64)
    if not check:
        return topologies.Schedule(n=w.shape[0], period=1, rule=lambda _: w)
    topologies.check_mixing_matrix(w, sums="either")
    return topologies.constant(w)
