"""An experiment file is bounded before it is read: its size, its depth, its numbers; so is --set."""

import pytest
from command import QUADRATIC, decentral, write

from decentral.errors import UserError
from decentral.tables import DEEPEST, LARGEST_FILE, LONGEST_TEXT, check_values, parse_toml, read_toml

BROKEN = {
    "brackets": (b"a = " + b"[" * 50_000, "deep inside one another"),
    "braces": (b"a = " + b"{a=" * 5_000, "deep inside one another"),
    "dots": (b"a." * 50_000 + b"a = 1", "deep inside one another"),
    "dots and spaces": (b"[" + b"a . " * 50_000 + b"a]", "deep inside one another"),
    "5,000 digits": (b"a = 1" + b"0" * 5_000, "beyond the 64 bits"),
    "65 bits": (b"a = 18446744073709551616", "beyond the 64 bits"),
    "hexadecimal": (b"a = 0x" + b"f" * 5_000, "beyond the 64 bits"),
    "a date": (b"a = 2024-02-29", "is a date or a time"),
    "a time": (b"a = 07:32:00", "is a date or a time"),
    "UTF-16": ("a = 1".encode("utf-16"), "cannot be read"),
    "NUL": (b"\x00" * 50, "is not valid TOML"),
    "a long text": (b'a = "' + b"x" * (LONGEST_TEXT + 1) + b'"', "is a text of 10,001 characters"),
    "a long key": (b"x" * 100 + b" = 1", "can be no key"),
    "a large file": (b"#" * (LARGEST_FILE + 1), "more than 2 MB"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_no_one_means_is_refused_in_a_line(home, case):
    raw, words = BROKEN[case]
    (home / "x.toml").write_bytes(raw)
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert len(said.err) < 300
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=" + "[" * 5_000, "deep inside"),
        ("train.rounds=1" + "0" * 5_000, "64 bits"),
        ("train.lr=2024-01-01", "is a date"),
        (".".join("a" * 500) + "=1", "deep inside"),
        ("train..lr=1", "should be KEY=VALUE"),
    ],
)
def test_an_override_is_bounded_as_the_file_is(home, override, words):
    said = decentral("run", write(home / "x.toml"), "--set", override, "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert len(said.err) < 300


def test_what_is_at_the_bounds_is_read(tmp_path):
    deep = "[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)
    text = f'a = {deep}\nb = {2**63 - 1}\nc = {-(2**63)}\nd = "{"x" * LONGEST_TEXT}"\n'
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as some editors write it
    assert read_toml(path, "a file")["b"] == 2**63 - 1
    with pytest.raises(UserError, match="deep inside"):
        parse_toml(f"a = [{deep}]", "x")
    with pytest.raises(UserError, match=f"b = {2**63} is an integer"):
        check_values({"b": 2**63}, "x")


def test_a_file_that_is_none_is_said_to_be_none(tmp_path):
    for path, words in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=words):
            read_toml(path, "an experiment file")
    with pytest.raises(UserError, match=r"cannot be read|does not exist"):
        read_toml(tmp_path / ("x" * 5_000), "an experiment file")


@pytest.mark.parametrize("value", [float("nan"), 1e31, -1e300])
@pytest.mark.parametrize("key", ["problem.noise", "train.weight_decay", "schedule.period"])
def test_numbers_that_are_none_are_none_anywhere(home, key, value):
    section, _, name = key.partition(".")
    table = {**QUADRATIC.get(section, {"name": "cosine"}), name: value}
    said = decentral("run", write(home / "x.toml", **{section: table}))
    assert said.code == 2
    assert name in said.err


@pytest.mark.parametrize("name", [[1], {"a": 1}, 3])
@pytest.mark.parametrize("section", ["problem", "algorithm", "topology"])
@pytest.mark.parametrize("kind", [{}, {"dataflow": {}}])
def test_a_name_that_is_no_text_is_no_name(home, section, name, kind):
    said = decentral("run", write(home / "x.toml", **{section: {"name": name}}, **kind))
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
