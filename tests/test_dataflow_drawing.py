"""The picture of a network: what it is laid out as, and that it is drawn from names alone."""

import pytest
from dataflow_networks import CASES, Graphs, Lists, Trees, built
from test_imports import closure, imports, reached

from decentral.commands.network_drawing import STEERING, draw, family, lay_out
from decentral.dataflow import groups, nodes
from decentral.dataflow.nodes import Cond, Node, Phi
from decentral.errors import UserError


def names_of(net):
    return net.graph(), {name: type(node).__name__ for name, node in net.nodes.items()}


def test_all_nodes_that_steer_are_known_as_such():
    found = {
        name
        for name, kind in (vars(nodes) | vars(groups)).items()
        if isinstance(kind, type) and issubclass(kind, Node)
    }
    assert found - {"Node"} == set(STEERING)
    assert [family(kind) for kind in ("Loss", "Phi", "Linear", "SomebodysTransform")] == [
        "end", "steering", "transform", "transform",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_messages_go_to_the_right_and_only_loops_go_back(kind):
    graph, kinds = names_of(built(kind())[0])
    columns, ways, loops = lay_out(graph, kinds)
    number = {one: i for i, column in enumerate(columns) for one in column}
    assert set(graph) <= set(number)
    assert sorted([*ways, *loops]) == sorted(graph.edges(keys=True))
    for (source, target, _), way in ways.items():
        assert (way[0], way[-1]) == (source, target)
        assert [number[one] for one in way] == list(range(number[source], number[target] + 1))
    assert loops == {Lists: [("next", "memory", 0)], Trees: [("pair", "values", 0)]}.get(kind, [])


def test_a_loop_closes_where_messages_come_in_and_not_at_a_phi_within():
    net, _ = built(Lists())
    outside, inside = net.add("again", Phi()), net.add("either", Phi())
    which = net.add("which", Cond(lambda state: 0), outside)
    for port in range(2):
        net.connect((which, port), inside, port)
    end = net.add("end?", Cond(lambda state: 0), inside)
    net.connect(end, outside, 1)
    graph, kinds = names_of(net)
    graph.add_edge("next", "again")
    assert set(lay_out(graph, kinds)[2]) == {("next", "memory", 0), ("end?", "again", 0)}


def test_a_diamond_has_its_branches_side_by_side():
    columns, ways, _ = lay_out(*names_of(built(Graphs())[0]))
    (column,) = (column for column in columns if "gate" in column)
    assert len(column) == 3  # the gate, and what passes it by: the other half, and the other copy
    assert len(ways["cut", "gated", 0]) == 3


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_it_is_drawn_with_and_without_workers(tmp_path, suffix):
    graph, kinds = names_of(built(Lists())[0])
    place = {name: i % 3 for i, name in enumerate(kinds)}
    sizes = []
    for number, where in enumerate((None, place)):
        path = tmp_path / "new" / f"{number}.{suffix}"
        draw(graph, kinds, path, where)
        sizes.append(path.stat().st_size)
    assert 1000 < sizes[0] < sizes[1]


def test_the_names_and_workers_are_in_it(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    graph, kinds = names_of(built(Trees())[0])
    draw(graph, kinds, tmp_path / "x.svg", dict.fromkeys(kinds, 0) | {"pair": 8})
    text = (tmp_path / "x.svg").read_text()
    for words in (*kinds, "worker 0", "worker 8", "Transform · 8", "Concat · 0", "steering"):
        assert f">{words}<" in text
    assert ">worker 1<" not in text


def test_a_name_that_is_no_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"use a name that ends in \.png"):
        draw(*names_of(built(Lists())[0]), tmp_path / "x.txt")


def test_it_imports_no_torch():
    for path in closure("decentral.commands.network_drawing"):
        assert not reached(imports(path), "torch"), path
