"""The table of what diverges where is that of dense linear algebra."""

import re
from pathlib import Path

import numpy as np
import pytest
from command import decentral

import topologies
from decentral.commands import compatibility as page
from decentral.commands.compatibility import WORKERS as N
from decentral.commands.compatibility import compatibility, markdown, print_compatibility

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.slow
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
            assert refused.growth == pytest.approx(grows, rel=1e-6)


@pytest.fixture(scope="module")
def table():
    return compatibility(N)


@pytest.mark.slow
def test_needs_are_told_apart_from_growth(table):
    trees = {"path", "star", "tree"}
    every = {*topologies.TOPOLOGIES, *topologies.SCHEDULES}
    assert every - set(table["relay-sgd"]) == trees
    assert {"exponential", *topologies.SCHEDULES} == set(table["choco"]) == set(table["matcha"])
    assert not table["push-sum"]
    assert not table["push-diging"]
    for name in ("relay-sgd", "choco", "matcha", "power-gossip"):
        assert all(refusal.needs and np.isnan(refusal.growth) for refusal in table[name].values())


def names(text):
    """The table without its numbers, whose last digits are the machine's."""
    return re.sub(r" \d+\.\d+(?=,| \|)", "", text)


@pytest.mark.slow
def test_the_page_is_the_table(table, monkeypatch, capsys):
    monkeypatch.setattr(page, "compatibility", lambda: table)
    assert names((ROOT / "docs" / "compatibility.md").read_text()) == names(markdown() + "\n")
    print_compatibility()
    said = capsys.readouterr().out
    assert "decentlam" in said
    assert "all but path, star, tree" in said


def test_a_list_that_is_not_there_is_refused():
    assert decentral("list", "compatability").code == 2
