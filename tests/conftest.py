"""One thread, as a rank has: two on a busy machine can be a hundred times slower, and the last bits depend on them."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, by sub-processes too
os.environ.setdefault(
    "CUDA_VISIBLE_DEVICES", ""
)  # bits and times are those of CPUs; a GPU is pretended, or `make gpu`

import pytest


def pytest_ignore_collect(collection_path, config):
    """``-m alone`` imports the files that have such tests; the others take longer to import than these to run."""
    if config.option.markexpr == "alone" and collection_path.suffix == ".py":
        return "mark.alone" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection():
    """The collector walks through all that is there again and again, and finds nothing that could go."""
    gc.disable()


def pytest_collection_finish():
    """What was imported stays, and need not be looked at while tests run either."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def undrawn(monkeypatch):
    """Runs in this process end without figures, which take most of their time."""
    monkeypatch.setattr("decentral.runs.run._show", lambda folder: None)


@pytest.fixture
def home(tmp_path, monkeypatch, undrawn):
    """An empty folder to stand in; runs end without figures."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
