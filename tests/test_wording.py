"""Messages are one line under 300 characters that any terminal shows, whatever a user brings."""

import re

import numpy as np
import pytest

import topologies
from decentral.algorithms import DSGD, DmSGD, RelaySGD
from decentral.errors import UserError, nearest
from topologies.activation import matcha
from topologies.random_schedules import periodic_averaging
from topologies.wording import LONGEST_LINE, LONGEST_VALUE, one_line, shown


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["a" * 10**6, 10**6000, deep(5000), {"k" * 900: deep(90)}, [None] * 10**6, b"\xff" * 999],
    ids=["text", "integer", "nested", "table", "list", "bytes"],
)
def test_a_value_of_any_size_is_written_in_80_characters(value):
    assert 0 < len(shown(value)) <= LONGEST_VALUE


@pytest.mark.parametrize("value", [3.5, 12, True, None, "ring", [1, 2, 3], {"a": (1, 2.5)}])
def test_a_small_value_is_its_repr(value):
    assert shown(value) == repr(value)


def test_both_ends_of_a_long_value_stay():
    assert shown("begin" + "x" * 500 + "end").startswith("'begin")
    assert shown("begin" + "x" * 500 + "end").endswith("end'")


def test_a_line_cuts_the_longest_words_and_keeps_rule_and_remedy():
    line = str(UserError(f"problem.data = {'y' * 5000!r} is not known; use digits"))
    assert len(line) <= LONGEST_LINE
    assert line.startswith("problem.data = 'yyy")
    assert line.endswith("is not known; use digits")


def test_control_characters_are_escaped_and_lines_are_joined():
    assert one_line("a\nb\x00\x1b[31mc\u202ed\ud800") == r"a b\x00\x1b[31mc\u202ed\ud800"


def test_many_names_are_not_all_listed():
    names = [f"name-{i:03}" for i in range(500)]
    said = nearest("zzz", names)
    assert said.startswith("valid: name-000, name-001")
    assert said.endswith("more")
    assert len(said) < LONGEST_LINE
    assert int(said.split()[-2]) + said.count("name-") == len(names)


LONG = "x" * 10_000


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        (lambda: DSGD(variant=LONG), "'atc' or 'awc'"),
        (lambda: DmSGD(variant=LONG), "doubly-averaged"),
        (lambda: RelaySGD(form=LONG), "'model' or 'gradient'"),
        (lambda: matcha(4, graph=LONG), "use one of ring"),
        (lambda: matcha(4, budget=LONG), "use 0.5, say"),
        (lambda: periodic_averaging(np.eye(2), every=-(10**5000)), "use every = 1 or more"),
        (lambda: topologies.mixing_matrix(topologies.ring(4), LONG), "use one of metropolis"),
        (lambda: topologies.one_peer_exponential(LONG), "use 1 or more"),
    ],
)
def test_a_refusal_holds_80_characters_of_a_value_and_its_remedy(refused, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)) as caught:
        refused()
    assert max(map(len, re.findall("x+", str(caught.value)))) < LONGEST_VALUE
