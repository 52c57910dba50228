"""Imports flow one way, and files stay small: read from the sources, whatever runs."""

import ast
import re
import sys
import tomllib
from pathlib import Path

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


MPI_FILES = ["decentral.comm.mpi", "decentral.stages.mpi"]


def test_mpi4py_is_imported_in_two_files():
    assert [module(path) for path in SOURCES if reached(imports(path), "mpi4py")] == MPI_FILES


def test_the_files_that_import_mpi_are_reached_only_when_they_are_asked_for():
    for path in SOURCES:
        for file in MPI_FILES:
            assert not reached(imports(path, late=False), file), path


@pytest.mark.parametrize("path", within("decentral.algorithms"), ids=ids)
def test_algorithms_are_arithmetic_and_can_be_listed_without_torch(path):
    assert not reached(imports(path, late=False), "torch")
    assert not reached(imports(path), "numpy")
    assert reached(imports(path), "decentral") == reached(imports(path), "decentral.algorithms")


FORBIDDEN = {
    "decentral.comm": ("decentral.algorithms", "decentral.problems", "decentral.run", "decentral.config"),
    "decentral.network": (
        "decentral.comm", "decentral.algorithms", "decentral.problems", "decentral.stages", "decentral.run",
        "decentral.training", "decentral.config",
    ),
    "decentral.problems": (
        "decentral.run", "decentral.training", "decentral.cli", "decentral.experiment", "decentral.config",
        "decentral.algorithms", "decentral.recorder", "decentral.rounds",
    ),
    "decentral.rounds": ("decentral.problems", "decentral.config", "decentral.run", "decentral.training"),
    "decentral.config": ("decentral.run", "decentral.training", "decentral.experiment"),
    "decentral.training": ("decentral.run", "decentral.experiment", "decentral.cli"),
    "decentral.results": ("decentral.run", "decentral.training", "decentral.config"),
    "decentral.stages": ("decentral.programs", "decentral.run", "decentral.experiment", "decentral.config"),
    "decentral.programs": ("decentral.run", "decentral.training", "decentral.config", "decentral.experiment"),
    "decentral.compression": (
        "decentral.comm", "decentral.algorithms", "decentral.problems", "decentral.training", "decentral.config",
    ),
    "decentral.asynchronous": ("decentral.run", "decentral.experiment", "decentral.cli", "decentral.config"),
    "decentral.stage_config": ("decentral.run", "decentral.training", "decentral.experiment"),
}  # fmt: skip


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_flow_one_way(package):
    paths = within(package)
    assert paths
    for path in paths:
        for other in FORBIDDEN[package]:
            assert not reached(imports(path), other), f"{module(path)} imports {other}"


# what answers at once, or draws from files only: neither it nor what it imports on its way in imports torch
WITHOUT_TORCH = (
    "decentral.cli", "decentral.catalogue", "decentral.config", "decentral.experiment", "decentral.problems",
    "decentral.results", "decentral.figures", "decentral.plots", "decentral.report", "decentral.compare",
    "decentral.topology_report", "decentral.algorithms", "decentral.tables", "decentral.errors", "decentral.network",
    "decentral.asynchronous",
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


@pytest.mark.parametrize(
    "name",
    [
        "results",
        "figures",
        "plots",
        "timeline",
        "parts",
        "staleness_figure",
        "stage_table",
        "node_table",
        "report",
        "compare",
    ],
)
def test_drawing_reads_only_files(name):
    (path,) = within(f"decentral.{name}")
    assert not reached(imports(path), "torch")
    for other in ("comm", "algorithms", "problems", "training", "run"):
        assert not reached(imports(path), f"decentral.{other}")


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
