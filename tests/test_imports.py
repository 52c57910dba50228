"""Imports flow one way, and files stay small: read from the sources, whatever runs."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "decentral").rglob("*.py"), *(ROOT / "topologies").rglob("*.py")])
LONGEST = 400
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


def module(path):
    """``decentral.comm.mpi`` of its file; a package is its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, late=True):
    """Modules that a source imports, but for type checkers only; ``late``: also when a function is called."""
    found = set()

    def visit(node, inside):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, inside)
            return
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if late or not inside:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "all_loaded":  # of places, as texts
                texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
                found.update(text.partition(":")[0] for text in texts if ":" in text)
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute here"
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def within(package):
    """The sources of ``decentral.comm``, say, or of one module."""
    return [path for path in SOURCES if module(path) == package or module(path).startswith(f"{package}.")]


def reached(names, package):
    """Those of the names that are the package or in it."""
    return {name for name in names if name == package or name.startswith(f"{package}.")}


def ids(path):
    return module(path)


def test_the_reader_of_imports_sees_what_it_must(tmp_path):
    (tmp_path / "x.py").write_text(
        "import a.b\nfrom c import d\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import typed\nelse:\n    import real\n"
        "def f():\n    import late\nclass K:\n    import held\n"
    )
    assert imports(tmp_path / "x.py") == {
        "a.b", "c", "c.d", "typing", "typing.TYPE_CHECKING", "real", "late", "held",
    }  # fmt: skip
    assert imports(tmp_path / "x.py") - imports(tmp_path / "x.py", late=False) == {"late"}


@pytest.mark.parametrize("path", within("topologies"), ids=ids)
def test_topologies_needs_networkx_numpy_scipy_and_nothing_else(path):
    allowed = {"topologies", "networkx", "numpy", "scipy"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in imports(path)} <= allowed


MPI_FILES = ["decentral.comm.mpi", "decentral.comm.mpi_world", "decentral.runtime.mpi"]


def test_mpi4py_is_imported_in_one_file():
    files = [module(path) for path in SOURCES if reached(imports(path), "mpi4py")]
    assert files == ["decentral.comm.mpi"]


def test_the_files_that_need_mpi_are_reached_only_when_they_are_asked_for():
    for path in SOURCES:
        for file in MPI_FILES:
            if module(path) not in MPI_FILES:
                assert not reached(imports(path, late=False), file), path


@pytest.mark.parametrize("path", within("decentral.algorithms"), ids=ids)
def test_algorithms_are_arithmetic_and_can_be_listed_without_torch(path):
    assert not reached(imports(path, late=False), "torch")
    assert not reached(imports(path), "numpy")
    assert reached(imports(path), "decentral") == reached(imports(path), "decentral.algorithms")


LEVELS = (
    ("topologies",),
    ("errors",),
    ("tables", "blocks", "allocator", "disk", "kernels"),
    ("network", "report", "comm"),
    ("algorithms", "optimizers"),
    ("runtime", "problems"),
    ("rounds", "stages", "dataflow", "quantised"),
    ("runs",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Who may import whom, late and for types too: what stands in a line may import from the lines above it."""
FACE = "decentral"
"""The package itself: a script's door, which opens rooms when they are asked for."""


def room(name):
    """``comm`` of ``decentral.comm.mpi``; ``topologies`` and the package itself are their own."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == FACE and rest else first


def edges():
    """(importer, imported) between our own modules, late and type-only imports and modules named in texts too."""
    known = {module(path): path for path in SOURCES}
    for importer, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                found = {name if name in known else node.module for name in full}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = {node.value.partition(":")[0]} - {FACE, "topologies"}  # "decentral.comm:WORLDS"
            else:
                continue
            yield from ((importer, name) for name in found if name in known and name != importer)


def circles(pairs):
    graph = nx.DiGraph(pairs)
    return [sorted(some) for some in nx.strongly_connected_components(graph) if len(some) > 1]


def test_imports_point_one_way():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    rooms = {room(module(path)) for path in SOURCES} - {FACE}
    assert rooms == set(level), "a room without a place in LEVELS"
    against = {
        (a.removeprefix("decentral."), b.removeprefix("decentral."))
        for a, b in edges()
        if room(a) != room(b) and room(a) != FACE and (room(b) == FACE or level[room(b)] >= level[room(a)])
    }
    assert not against


def test_no_folder_and_no_file_imports_in_a_circle():
    assert not circles((room(a), room(b)) for a, b in edges() if room(a) != room(b))
    assert not circles(edges())


KINDS = ("rounds", "asynchronous", "assisted", "stages", "dataflow")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_run_knows_no_other(kind):
    sources = within(f"decentral.runs.{kind}")
    others = [one for one in KINDS if one != kind]
    assert len(sources) > 2
    for path in sources:
        assert not any(reached(imports(path), f"decentral.runs.{other}") for other in others), path


def test_the_house_is_small_and_every_room_says_what_it_is():
    doors = [path for path in (ROOT / "decentral").iterdir() if path.suffix == ".py"]
    folders = {path.parent for path in SOURCES} - {ROOT / "topologies", ROOT / "decentral"}
    first = {path.relative_to(ROOT / "decentral").parts[0] for path in folders}
    assert len(doors) <= 9, sorted(path.name for path in doors)
    assert len(first) <= 13, first
    for folder in folders:
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        assert len(ast.get_docstring(ast.parse(text)) or "") > 40, folder


# what answers at once, or draws from files only: neither it nor what it imports on its way in imports torch
WITHOUT_TORCH = (
    "decentral.cli", "decentral.commands.catalogue", "decentral.commands.topology", "decentral.runs.experiment",
    "decentral.runs.rounds.config", "decentral.problems", "decentral.problems.data",
    "decentral.algorithms", "decentral.algorithms.asynchronous",
    "decentral.tables", "decentral.errors", "decentral.network",
    *(module(path) for path in within("decentral.report")),
)  # fmt: skip


def closure(name):
    """All modules of ours that importing ``name`` imports, itself included."""
    known = {module(path): path for path in SOURCES}
    todo, done = [name], set()
    while todo:
        one = todo.pop()
        if one in known and one not in done:
            done.add(one)
            todo += [*imports(known[one], late=False), one.rpartition(".")[0]]  # and its package
    return {known[one] for one in done}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_answers_at_once_imports_no_torch(name):
    assert any(module(path) == name for path in SOURCES)
    for path in closure(name):
        assert not reached(imports(path, late=False), "torch"), f"{name} reaches torch through {module(path)}"


@pytest.mark.parametrize("path", within("decentral.report"), ids=ids)
def test_drawing_reads_only_files(path):
    assert not reached(imports(path), "torch")


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_a_file_is_short_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert not set(path.stem.lower().split("_")) & NAMELESS
    assert ast.get_docstring(ast.parse(text))


def test_nothing_else_is_called_a_helper():
    for path in [*ROOT.glob("tests/**/*"), *ROOT.glob("benchmarks/**/*"), *ROOT.glob("decentral/**/*")]:
        assert path.stem.lower() not in NAMELESS, path


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = ROOT / "CITATION.cff"
    if citation.exists():
        assert (
            re.search(r"^version: (.+)$", citation.read_text(encoding="utf-8"), re.M)[1] == project["version"]
        )
    changelog = ROOT / "CHANGELOG.md"
    if changelog.exists():
        assert project["version"] in changelog.read_text(encoding="utf-8")
