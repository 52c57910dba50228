"""A few of the kills of tests/kills.py; ``python tests/kills.py`` makes hundreds, of all kinds and on ranks."""

import random

import kills
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-peer", "faults", "stages"])
def test_a_run_that_was_killed_twice_ends_like_a_whole_one(tmp_path, name, monkeypatch):
    monkeypatch.setattr(kills, "SIGNALS", (kills.signal.SIGKILL, kills.signal.SIGTERM))
    _, _, wrong = kills.case(name, tmp_path, random.Random(name), 2)
    assert not wrong
