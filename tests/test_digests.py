"""Ranks whose data, models or code differ are told apart before a run begins, and the line says in what."""

import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from decentral.comm.meeting import meet
from decentral.errors import AgreedError
from decentral.problems.capabilities import Made
from decentral.problems.data import load
from decentral.runs.agreement import AgreedExit, together
from decentral.runs.digests import Digests, refuse_different


class Ranks:
    """Rank ``rank`` of as many as ``others`` (rank -> its leaves) and itself, which agree in turn."""

    def __init__(self, rank, answers):
        self.rank, self.ranks, self.answers = rank, 2, iter(answers)

    def agree(self, value):
        other = next(self.answers)
        return [value, other] if self.rank == 0 else [other, value]

    def from_root(self, make):
        return make() if self.rank == 0 else next(self.answers)


def leaves(value):
    digests = Digests()
    digests.add("r", value)
    return digests.leaves


def difference(mine, theirs):
    """What rank 0 says; it and rank 1 run one after the other, each with what the other has said."""
    first, second = leaves(mine), leaves(theirs)
    said = []

    class Second(Ranks):
        def agree(self, value):
            said.append(value)
            return [None, value] if len(said) > 1 else [0, value]

    with pytest.raises(AgreedExit):
        refuse_different(Second(1, [first]), second)
    with pytest.raises(AgreedError) as error:
        refuse_different(Ranks(0, said), first)
    return str(error.value)


def made(dtype=torch.float32, seed=0, samples=None, width=3):
    torch.manual_seed(seed)
    data = load("digits")
    data = data if samples is None else type(data)(**{**data.__dict__, "train_x": data.train_x[:samples]})
    return Made(nn.Sequential(nn.Flatten(), nn.Linear(4, width, dtype=dtype)), data, [np.arange(3)])


def test_what_is_alike_passes():
    refuse_different(Ranks(0, [zlib.crc32(repr(leaves(made())).encode())]), leaves(made()))


@pytest.mark.parametrize(
    ("other", "name", "words"),
    [
        (made(torch.float64), "module.1.weight", "float64 of shape (3, 4)"),
        (made(seed=1), "module.1.weight", "float32 of shape (3, 4)"),
        (made(width=2), "module.1.weight", "float32 of shape (2, 4)"),
        (made(samples=1436), "dataset.train_x", "float32 of shape (1436, 1, 8, 8)"),
        (made()._replace(shards=[np.arange(2)]), "shards.0", "int64 of shape (2,)"),
        (made()._replace(module=nn.Flatten()), "module.1.weight", "rank 1 has nothing"),
    ],
)
def test_a_difference_is_named(other, name, words):
    said = difference(made(), other)
    assert said.startswith(f"ranks differ in {name}, run r: rank 0 has ")
    assert words in said
    assert len(said) < 300


def test_the_users_code_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    kinds = []
    for text in ("x + 1", "x + 2"):
        (tmp_path / "of_users.py").write_text(
            f"from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return {text}\n"
        )
        sys.modules.pop("of_users", None)
        __import__("of_users")
        kinds.append(leaves(sys.modules["of_users"].Net()))
    assert list(kinds[0]) == ["code.of_users, run r"]
    assert kinds[0] != kinds[1]


def world(rank, *answers):
    found = Ranks(rank, answers)
    return SimpleNamespace(rank=rank, ranks=2, agree=found.agree, from_root=found.from_root)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (OverflowError("too large"), "OverflowError: too large", 1),
        (SystemExit(0), "called sys.exit(0)", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "out of memory", 2),
    ],
)
def test_whatever_ends_one_rank_while_ranks_agree_is_said_by_rank_0(error, said, code):
    heard = []

    class One(Ranks):
        def agree(self, value):
            heard.append(value)
            return [None, value]

    def fails():
        raise error

    with pytest.raises(AgreedExit) as end:
        together(One(1, []), fails)
    assert end.value.code == code
    with pytest.raises(AgreedError, match="rank 1: ") as last:
        together(Ranks(0, heard), lambda: 1)
    assert said in str(last.value)
    assert last.value.code == code


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": "list"}, "rank 1 was started with 'list'"),
        ({"versions": (("decentral", "0.0"),)}, "rank 1 has decentral 0.0"),
    ],
)
def test_ranks_that_run_something_else_are_refused_when_they_meet(change, said):
    with pytest.raises(AgreedError) as error:
        meet(0, lambda mine: [mine, mine._replace(**change)], "run x.toml")
    assert said in str(error.value)


def test_other_source_files_are_refused_and_the_same_ones_elsewhere_are_not():
    answers = []

    def elsewhere(mine):
        answers.append(mine)
        return [mine, mine._replace(source="/elsewhere", host="b")] if len(answers) == 1 else [mine, other]

    other = "0" * 16
    with pytest.raises(AgreedError, match=r"rank 1 has other source files of decentral.*/elsewhere"):
        meet(0, elsewhere, "")
    other = answers[1]
    answers.clear()
    assert meet(0, elsewhere, "").local_rank == 0


def test_numbers_on_a_host_are_counted_where_the_launcher_does_not_tell_them():
    assert meet(1, lambda mine: [mine._replace(local_rank=None), mine], "").local_rank == 1

    def on_two_hosts(mine):
        return (
            [mine] * 2 if isinstance(mine, str) else [mine._replace(system=("b", 0), local_rank=None), mine]
        )

    assert meet(1, on_two_hosts, "").local_rank == 0
