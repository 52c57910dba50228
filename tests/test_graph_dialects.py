"""Graph files as editors, spreadsheets and other programs write them: the graph that is meant, or the line at fault."""

from __future__ import annotations

import io
import json

import networkx as nx
import pytest

import topologies

PATH, STAR = nx.path_graph(3), nx.star_graph(5)
XML = (
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key id="w" for="edge" attr.name="weight" '
    'attr.type="string"/><graph edgedefault="undirected"><node id="a"><port name="p"/></node><node id="b"/>'
    '<edge source="a" target="{}"><data key="w">{}</data></edge></graph></graphml>'
)
JSON = '{{"nodes": [{{"id": 0}}, {{"id": 1}}], "{}": [{{"source": 0, "target": {}, "weight": {}}}]}}'
GML = "graph [ {} node [ id 0 {} ] node [ id 1 {} ] edge [ source 0 target 1 ] ]"


def read(folder, name, content, **keys):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return topologies.read_graph(folder / name, **keys)


def same(a, b):
    return a.is_directed() == b.is_directed() and nx.is_isomorphic(a, b)


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("g.txt", "0 1\r\n1 2\r\n", PATH),
        ("g.txt", "0 1\r1 2\r", PATH),
        ("g.txt", "\ufeff0 1\n1 2\n", PATH),
        ("g.txt", "% a\n// b\n\n0\t1 # c\n1\t2\n", PATH),
        ("g.txt", "0;1\n1;2;0.5\n", PATH),
        ("g.txt", "a -- b\nb--c\n", PATH),
        ("g.txt", "from to\n0 1\n1 2\n", PATH),
        ("g.csv", "source,target,weight\na,b,0.5\nb,c,1\n", PATH),
        ("g.csv", ",Source,Target,Type\n0,a,b,Undirected\n1,b,c,Undirected\n", PATH),
        ("g.csv", 'New York,"a,b"\n"a,b",c\n', PATH),
        ("g.tsv", "New York\tBoston\nBoston\tc\n", PATH),
        ("g.edges", "6\n" + "".join(f"0 {i}\n{i} 0\n" for i in range(1, 6)), STAR),
        ("g.edges", "6 5\n" + "".join(f"1 {i}\n" for i in range(2, 7)), STAR),
        ("g.edges", "6 6 5\n" + "".join(f"1 {i}\n" for i in range(2, 7)), STAR),
        ("g.edges", "4 4\n0 1\n1 2\n2 3\n3 0\n", nx.cycle_graph(4)),
        ("g.edges", "2 3\n0 1\n", nx.Graph([(0, 1), (2, 3)])),
        ("g.adjlist", "0: 1 2\n1: 0\n2: 0\n", PATH),
        ("g.adjlist", "3\n1 2\n2 1 3\n3 2\n", PATH),
        ("g.json", JSON.format("links", 1, '"0.5"'), nx.path_graph(2)),
        ("g.gml", GML.format("", "", ""), nx.path_graph(2)),
        ("g.gml", GML.format("multigraph 1", 'label "é"', 'label "é"'), nx.path_graph(2)),
        ("g.graphml", XML.format("b", "0.5"), nx.path_graph(2)),
    ],
)
def test_a_dialect_is_the_graph_that_is_meant(tmp_path, name, content, right):
    assert same(read(tmp_path, name, content), right)


@pytest.mark.parametrize(
    "write", [nx.write_edgelist, nx.write_weighted_edgelist, nx.write_adjlist, nx.write_multiline_adjlist]
)
@pytest.mark.parametrize("directed", [False, True])
def test_what_networkx_writes_is_read_with_its_weights(tmp_path, write, directed):
    graph = nx.cycle_graph(5, nx.DiGraph if directed else nx.Graph)
    nx.set_edge_attributes(graph, 0.25, "weight")
    file = io.BytesIO()
    write(graph, file)
    name = "g.adjlist" if "adjlist" in write.__name__ else "g.txt"
    back = read(tmp_path, name, file.getvalue(), directed=directed)
    assert same(back, graph)
    if write is not nx.write_adjlist:
        assert {weight for *_, weight in back.edges(data="weight")} == {0.25}


@pytest.mark.parametrize("graph", [nx.cycle_graph(5), nx.cycle_graph(4, nx.DiGraph)])
def test_each_json_document_of_networkx_is_read(tmp_path, graph):
    for data in (
        nx.node_link_data(graph, edges="links"),
        nx.node_link_data(graph, edges="edges"),
        nx.adjacency_data(graph),
        nx.cytoscape_data(graph),
    ):
        assert same(read(tmp_path, "g.json", json.dumps(data)), graph)


def test_an_arrow_is_a_direction_where_the_list_has_directions(tmp_path):
    for text in ("0 -> 1\n1 -> 2\n", "0->1\n1->2;\n", "1 <- 0\n1 -> 2\n"):
        assert set(read(tmp_path, "g.txt", text, directed=True).edges) == {(0, 1), (1, 2)}
    back = read(tmp_path, "g.txt", "0 <-> 1 0.5\n1 -> 2 1\n", directed=True)
    assert set(back.edges(data="weight")) == {(0, 1, 0.5), (1, 0, 0.5), (1, 2, 1)}


def test_a_node_without_edges_is_written_so_that_it_is_no_count(tmp_path):
    graph = nx.Graph([(0, 1), (1, 2)])
    graph.add_node(3)
    topologies.write_graph(graph, tmp_path / "g.edgelist")
    assert same(topologies.read_graph(tmp_path / "g.edgelist"), graph)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.txt", "0 1\n".encode("utf-16"), "its encoding is UTF-16; save it as UTF-8"),
        ("g.txt", "0 1\n1 é\n".encode("latin-1"), "line 2 holds the byte 0xe9, which is no UTF-8"),
        ("g.txt", "0 1\n1 2".encode("utf-16-le"), "line 1 holds NUL bytes"),
        ("g.txt", "0 1\n0 -> 2\n", "line 2 is '0 -> 2': line 1 has no arrow; write all edges alike"),
        ("g.txt", "0 -> 1\n", "line 1 is '0 -> 1': -> is a direction; set directed = true"),
        ("g.txt", "Ort1 Ort2\n0 1\n1 2\n", "is it an edge, or a header? Begin a header with #"),
        (
            "g.edges",
            "3 2\n2 1\n1 0\n",
            "line 1 is '3 2': is it an edge, or does it count 3 nodes and 2 edges?",
        ),
        ("g.edges", "4\n0 1\n1 2\n", "does it count 4 nodes, where 3 follow?"),
        ("g.txt", "0 1\n1 2 nan\n", "line 2 is '1 2 nan': the weight is no number"),
        ("g.txt", "0 1 1e999\n", "line 1: the weight is '1e999', which is not finite"),
        ("g.txt", "0;1;0,5\n", "line 1 is '0;1;0,5': its separators are mixed"),
        ("g.txt", "0 1 1\n1 0 2\n", "differs between its directions; list it once, or set directed = true"),
        ("g.txt", "0 1 {[}\n", "what is in braces is no dictionary"),
        ("g.csv", "source,target,type\n0,1,Directed\n", "line 2 is '0,1,Directed': its type is Directed"),
        ("g.csv", ",0,1\n0,0,1\n", "line 1 is ',0,1': a field is empty"),
        ("g.adjlist", "4\n1 3\n0 2\n1 3\n0 2\n", "line 4 is '1 3': line 2 begins with the same node"),
        ("g.adjlist", "0 2\n1 {}\n", "1 neighbours of 0 are missing"),
        ("g.json", "[]", "it holds a list, not an object with 'nodes'"),
        ("g.json", "[" * 100_000, "it is nested too deeply"),
        ("g.json", JSON.format("edges", 5, 1), "edges[0] names the node 5, which 'nodes' lacks"),
        ("g.json", JSON.format("edges", 1, "NaN"), "edges[0]: the weight is nan, which is not finite"),
        ("g.json", JSON.format("edges", 1, "9" * 5000), "an integer of more than 4,300 digits"),
        ("g.gml", "graph " + "[ a " * 20_000, "it is nested too deeply"),
        ("g.graphml", XML.format("c", "1"), "edge 0 names the node 'c', which the file lacks"),
        ("g.graphml", XML.format("b", "heavy"), "edge 0: the weight is 'heavy', which is no number"),
        ("g.txt", "\n".join(map(str, range(100_001))), "it has more than 100,000 nodes"),
        ("g.txt", "9" * 5000 + " 1\n", "the longest name has 1,000 characters"),
    ],
)
def test_what_is_no_graph_is_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        read(tmp_path, name, content)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)
