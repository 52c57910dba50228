"""The table of what diverges where is that of dense linear algebra."""

import numpy as np
import pytest
from command import decentral

import topologies
from decentral.compatibility import compatibility

N = 8
BETA = 0.9


def companions(W):
    """X'' from X' and X at a learning rate of zero, as matrices (2n, 2n), by method."""
    eye, zero = np.eye(N), np.zeros((N, N))
    lazy = (eye + W) / 2
    pairs = {
        "dsgd": (W, zero),
        "d2": (2 * W, -W),
        "exact-diffusion": (2 * lazy, -lazy),
        "extra": (eye + W, -lazy),
        "decentlam": (W + BETA * eye, -BETA * eye),
        "dmsgd": ((1 + BETA) * W, -BETA * W @ W),
    }
    return {name: np.block([[a, b], [eye, zero]]) for name, (a, b) in pairs.items()}


def growth(companion):
    apart = np.kron(np.eye(2), np.eye(N) - 1 / N)
    return np.abs(np.linalg.eigvals(apart @ companion @ apart)).max()


@pytest.mark.parametrize("topology", topologies.TOPOLOGIES)
def test_methods_are_refused_where_their_recursion_grows(table, topology):
    graph = topologies.TOPOLOGIES[topology](N)
    W = topologies.mixing_matrix(graph, "uniform" if graph.is_directed() else "metropolis").toarray()
    for name, companion in companions(W).items():
        grows = growth(companion)
        at_its_limit = name == "d2" and np.linalg.eigvals(W).real.min() <= -1 / 3 + 1e-9
        refused = table[name].get(topology)
        assert (refused is not None) == (grows > 1 + 1e-7 or at_its_limit), (name, grows)
        if refused is not None and not at_its_limit:
            assert refused == pytest.approx(grows, rel=1e-6)


@pytest.fixture(scope="module")
def table():
    return compatibility(N)


def test_it_is_listed():
    said = decentral("list", "compatibility")
    assert said.code == 0
    assert "decentlam" in said.out
    assert "exponential" in said.out
    assert decentral("list", "compatability").code == 2
