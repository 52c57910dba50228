"""The report on a topology: facts, table, figure, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

import topologies
from decentral.commands.topology import build, describe, draw, draw_graph, print_table, report
from decentral.errors import UserError
from decentral.report.graph_layout import positions


@pytest.mark.parametrize("name", topologies.TOPOLOGIES)
def test_the_facts_are_those_of_the_graph_and_its_matrix(name):
    facts = describe(name, 16)
    graph = topologies.TOPOLOGIES[name](16)
    w = topologies.mixing_matrix(graph).toarray()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert (facts["n"], facts["edges"], facts["period"]) == (16, graph.number_of_edges(), None)
    assert facts["gap"] == pytest.approx(1 - np.linalg.norm(w - 1 / 16, 2), abs=1e-13)
    sent = (w - np.diag(w.diagonal()) != 0).sum(axis=0)
    assert (facts["sent_mean"], facts["sent_max"]) == (sent.mean(), sent.max())
    assert facts["degree_mean"] == facts["sent_mean"]
    assert facts["exact"] == (name == "complete")


@pytest.mark.parametrize(("n", "exact"), [(8, True), (12, False)])
def test_a_schedule_is_described_by_its_period(n, exact):
    facts = describe("one-peer-exponential", n)
    assert (facts["period"], facts["exact"], facts["sent_mean"]) == ((n - 1).bit_length(), exact, 1)
    assert facts["edges"] == n * facts["period"]
    assert facts["rho"] == pytest.approx(0 if exact else 0.209129, abs=1e-6)


def test_weights_and_parameters_reach_the_matrix():
    assert describe("star", 8, "uniform")["doubly_stochastic"] is False
    assert describe("star", 8, "best-constant")["nonnegative"] is False
    assert describe("random-regular", 16, parameters={"degree": 6, "seed": 3})["degree_max"] == 6


def test_a_path_with_a_suffix_is_a_graph_file(tmp_path):
    topologies.write_graph(nx.petersen_graph(), tmp_path / "p.gml")
    facts = describe(str(tmp_path / "p.gml"), None)
    assert (facts["n"], facts["gap"]) == (10, pytest.approx(0.5))
    with pytest.raises(UserError, match=r"has 10 workers, not 12; leave out n or give 10"):
        describe(str(tmp_path / "p.gml"), 12)


@pytest.mark.parametrize("name", ["ring", "exponential", "random-regular", "one-peer-exponential"])
def test_the_table_fits_eighty_columns(name, capsys):
    print_table(describe(name, 16))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("gap" in line for line in lines)


def test_report_prints_json_and_draws(tmp_path, capsys):
    report("ring", 8, "metropolis", {}, True, tmp_path / "new" / "ring.svg")
    assert json.loads(capsys.readouterr().out)["gap"] == pytest.approx(0.195262, abs=1e-6)
    assert "<svg" in (tmp_path / "new" / "ring.svg").read_text()


@pytest.mark.parametrize("n", [1, 2, 16, 64])
@pytest.mark.parametrize("name", [*topologies.TOPOLOGIES, "one-peer-exponential"])
def test_every_node_of_every_topology_has_its_own_place(name, n):
    graph, _ = build(name, n)
    places = np.array([positions(graph)[i] for i in range(n)])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 10 * np.eye(n)
    assert np.isfinite(places).all()
    assert apart.min() > 1e-3 * np.ptp(places, axis=0).max(initial=1e-9)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("ring", 1),
        ("torus", 12),
        ("exponential", 5),
        ("one-peer-exponential", 6),
        ("grid", 1200),
        ("tree", 300),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_a_figure_is_drawn_in_the_format_of_its_suffix(tmp_path, name, n, suffix):
    draw(*build(name, n), tmp_path / f"g.{suffix}")
    start = (tmp_path / f"g.{suffix}").read_bytes()[:4]
    assert start == {"png": b"\x89PNG", "pdf": b"%PDF"}[suffix]


def test_a_graph_too_large_to_draw_is_replaced_by_a_note():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    draw_graph(ax, topologies.ring(1000))
    assert "1000 workers" in ax.texts[0].get_text()
    assert not ax.collections


def test_a_schedule_is_drawn_as_the_edges_of_its_period():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    draw_graph(ax, topologies.one_peer_exponential(5))
    assert len(ax.patches) == 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: describe("rign", 8), "unknown topology 'rign'; did you mean 'ring'?"),
        (lambda: describe("ring", None), "ring needs the number of workers; give n, as in -n 16"),
        (lambda: describe("ring", 8, "metropols"), "unknown weights 'metropols'; did you mean 'metropolis'?"),
        (lambda: describe("hypercube", 6), "hypercube needs a power of two workers (n = 6); use 4 or 8"),
        (lambda: describe("ring", 8, parameters={"seed": 1}), "ring has no parameter 'seed'; it has none"),
        (
            lambda: describe("random-regular", 8, parameters={"degre": 3}),
            "random-regular has no parameter 'degre'; did you mean 'degree'?",
        ),
        (
            lambda: describe("random-regular", 8, parameters={"degree": "four"}),
            "random-regular cannot take degree = 'four'; give numbers",
        ),
        (lambda: describe("one-peer-exponential", 8, "lazy"), "one-peer-exponential has its own weights"),
        (lambda: describe("absent.gml", None), "absent.gml: no such file; expected GML"),
        (lambda: draw(*build("ring", 4), "ring.bmp"), "use a name that ends in .png, .svg or .pdf"),
    ],
)
def test_a_mistake_of_the_user_is_one_line_with_a_remedy(call, message):
    with pytest.raises(UserError) as refusal:
        call()
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_neither_topologies_nor_the_report_imports_torch():
    code = "import sys, topologies, decentral.commands.topology; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
