"""One thread, as a rank has: two on a busy machine can be a hundred times slower, and the last bits depend on them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, by sub-processes too
os.environ.setdefault(
    "CUDA_VISIBLE_DEVICES", ""
)  # bits and times are those of CPUs; a GPU is pretended, or `make gpu`

import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Runs in this process end without figures, which take most of their time."""
    monkeypatch.setattr("decentral.runs.run._show", lambda folder: None)


@pytest.fixture
def home(tmp_path, monkeypatch, undrawn):
    """An empty folder to stand in; runs end without figures."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
