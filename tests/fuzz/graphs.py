"""Files of graphs, mixing matrices and clusters, small and right, to be spoilt; and the commands that read them."""

import functools
import gzip
import io
import json
import zipfile

import networkx as nx
import numpy as np
from scipy import sparse
from scipy.io import mmwrite

from .scrawl import spoilt, spoilt_bytes

RUN = """name = "small"
[problem]
name = "quadratic"
dimension = 3
[topology]
{topology}
[algorithm]
name = "dsgd"
[train]
lr = 0.1
rounds = 2
"""
_CLUSTERS = (
    'workers = 6\n[links]\nlatency_s = "50 us"\nbandwidth_bytes_s = "10 Gb/s"\n',
    'workers = 6\nports = "multi"\n[links]\nlatency_s = 1e-5\nbandwidth_bytes_s = 1e9\n[hosts]\nworkers = 3\n'
    'latency_s = "1 us"\nbandwidth_bytes_s = "200 Gb/s"\n',
)


@functools.cache
def graphs():
    """Name of a file -> its bytes: a graph of six in each format."""
    graph = nx.cycle_graph(6)
    weighted = nx.Graph((a, b, {"weight": 0.5}) for a, b in graph.edges)
    edges = b"".join(b"%d %d\n" % pair for pair in graph.edges)
    found = {
        "g.edges": edges,
        "g.txt": edges.replace(b"\n", b" 0.25\n"),
        "g.edgelist": b"# a comment\n" + edges,
    }
    for name, write in (
        ("g.graphml", nx.write_graphml),
        ("g.gml", nx.write_gml),
        ("g.adjlist", nx.write_adjlist),
    ):
        file = io.BytesIO()
        write(weighted, file)
        found[name] = file.getvalue()
    found["g.json"] = json.dumps(nx.node_link_data(weighted, edges="edges")).encode()
    return found


@functools.cache
def matrices():
    """Name of a file -> its bytes: W of a ring of six in each format."""
    w = np.eye(6) / 2 + (np.roll(np.eye(6), 1, 0) + np.roll(np.eye(6), -1, 0)) / 4
    found = {}
    for name, write in (
        ("w.npy", lambda file: np.save(file, w)),
        ("w.npz", lambda file: sparse.save_npz(file, sparse.csr_array(w), compressed=False)),
        ("w.mtx", lambda file: mmwrite(file, sparse.coo_array(w))),
        ("w.csv", lambda file: np.savetxt(file, w, delimiter=",")),
        ("w.txt", lambda file: np.savetxt(file, w)),
    ):
        file = io.BytesIO()
        write(file)
        found[name] = file.getvalue()
    return found


def command_and_files(random):
    """(arguments, files) of one case."""
    kind = random.choice(("graph", "graph", "matrix", "matrix", "cluster", "cluster"))
    if kind == "graph":
        name = random.choice(sorted(graphs()))
        files = {name: _wrong_suffix(name, spoilt(graphs()[name], random), random)}
        if random.random() < 0.7:
            return ["topology", f"./{name}", "--json"], files
        return _run(f'name = "file"\npath = "{name}"', files)
    if kind == "matrix":
        name = random.choice(sorted(matrices()))
        raw = matrices()[name]
        raw = _spoilt_zip(raw, random) if name == "w.npz" and random.random() < 0.6 else spoilt(raw, random)
        files = {name: _wrong_suffix(name, raw, random)}
        if random.random() < 0.6:
            return ["topology", "ring", "-n", "6", "--weights", f"./{name}", "--json"], files
        return _run(f'name = "ring"\nworkers = 6\nweights = "{name}"', files)
    if random.random() < 0.3:
        return _advise("c.graphml", graphs()["g.graphml"].replace(b"weight", b"latency_s"), random)
    return _advise("c.toml", random.choice(_CLUSTERS).encode(), random)


def _advise(name, raw, random):
    numbers = [random.choice(("1e6", "1e6", "1e6", "0", "-1", "inf", "nan", "1e308")) for _ in range(2)]
    return ["advise", name, "--model-bytes", numbers[0], "--compute-s", numbers[1], "--json"], {
        name: spoilt(raw, random)
    }


def _run(topology, files):
    return ["run", "x.toml", "--out", "out"], {"x.toml": RUN.format(topology=topology).encode(), **files}


def _wrong_suffix(name, raw, random):
    """Now and then the content of another format."""
    everything = {**graphs(), **matrices()}
    if random.random() < 0.05:
        return everything[random.choice(sorted(everything))]
    return gzip.compress(raw) if random.random() < 0.02 else raw


def _spoilt_zip(raw, random):
    """A zip whose members are spoilt, their sums right."""
    file, chosen = io.BytesIO(), None
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(file, "w") as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                content = (
                    spoilt_bytes(content, random) if random.random() < 0.6 else _other_array(content, random)
                )
            new.writestr(name, content)
    return file.getvalue()


def _other_array(content, random):
    """The member as an array with other numbers."""
    array = np.load(io.BytesIO(content), allow_pickle=True)
    if array.dtype.kind in "iuf" and array.size:
        array = array.copy()
        flat = array.reshape(-1)
        flat[random.randrange(flat.size)] = random.choice((-1, 0, 7, 100, 2**31 - 1))
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
