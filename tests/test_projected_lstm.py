"""LSTMs with projection: cells against loops of the paper's equations, counts, words, refusals, runs on ranks."""

import re

import pytest
import tomli_w
import torch
from command import decentral
from torch import nn

from decentral.errors import UserError
from decentral.problems import FLSTM, GLSTM, LSTMP
from decentral.problems.data import load_text
from decentral.problems.data.words import UNKNOWN, by_words, of_file
from decentral.problems.models.initialise import initialise, parameter_count
from decentral.problems.models.projected_lstm import FactorisedLSTM, GroupLSTM

Q, N, P, BATCH, STEPS = 8, 12, 4, 3, 5


def looped(x, of_group, bias, projection, k):
    """h (B, T, p), step by step: group j's gates i, f, o, j of its slices of x and h, then c, m and the projection."""
    n, p = projection.shape[1], projection.shape[0]
    h, c, out = torch.zeros(len(x), p), torch.zeros(len(x), n), []
    for t in range(x.shape[1]):
        gates = [[], [], [], []]
        for g in range(k):
            joint = torch.cat([x[:, t].chunk(k, 1)[g], h.chunk(k, 1)[g]], 1)
            a = joint @ of_group[g].T + bias[g]
            for gate, part in zip(gates, a.chunk(4, 1), strict=True):
                gate.append(part)
        i, f, o, j = (torch.cat(gate, 1) for gate in gates)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(j)
        h = (torch.sigmoid(o) * torch.tanh(c)) @ projection.T
        out.append(h)
    return torch.stack(out, 1)


def by_the_paper(layer, x):
    if isinstance(layer, FactorisedLSTM):
        whole = layer.up @ torch.cat([layer.of_x, layer.of_h], 1)
        return looped(x, [whole], [layer.bias], layer.projection, 1)
    groups = list(layer.groups)
    of_group = [torch.cat([g.of_x, g.of_h], 1) for g in groups]
    projection = torch.cat([g.projection for g in groups], 1)
    return looped(x, of_group, [g.bias for g in groups], projection, len(groups))


LAYERS = {
    "dense": lambda: GroupLSTM(Q, N, P),
    "2 groups": lambda: GroupLSTM(Q, N, P, 2),
    "4 groups": lambda: GroupLSTM(Q, N, P, 4),
    "factorised": lambda: FactorisedLSTM(Q, N, P, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradient_are_those_of_the_paper_s_loop(name):
    layer = initialise(LAYERS[name], 0).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=draw))
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.randn(BATCH, STEPS, Q, generator=draw).requires_grad_()
        weights = torch.randn(BATCH, STEPS, P, generator=draw)
        ours, theirs = layer(x), by_the_paper(layer, x)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    wanted = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad((h * weights).sum(), wanted) for h in (ours, theirs)), strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_dense_layer_is_torch_s_with_a_forget_bias_of_1():
    ours, theirs = (
        initialise(lambda: GroupLSTM(Q, N, P), 0).double(),
        nn.LSTM(Q, N, proj_size=P, batch_first=True),
    )
    theirs = theirs.double()
    (cells,) = ours.groups
    with torch.no_grad():
        # torch's gates are i, f, j, o
        for to, source in (
            ("weight_ih_l0", cells.of_x),
            ("weight_hh_l0", cells.of_h),
            ("bias_ih_l0", cells.bias),
        ):
            i, f, o, j = source.chunk(4)
            getattr(theirs, to).copy_(torch.cat([i, f + (to == "bias_ih_l0"), j, o]))
        theirs.bias_hh_l0.zero_()
        theirs.weight_hr_l0.copy_(cells.projection)
    x = torch.randn(BATCH, STEPS, Q, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "published"),
    [
        (lambda: GroupLSTM(1024, 8192, 1024), 151_060_480),
        (lambda: FactorisedLSTM(1024, 8192, 1024, 512), 52_494_336),
        (lambda: GroupLSTM(1024, 8192, 1024, 2), 83_951_616),
        (lambda: GroupLSTM(1024, 8192, 1024, 4), 50_397_184),
        (lambda: GroupLSTM(1024, 8192, 1024, 8), 33_619_968),
    ],
)
def test_two_layers_have_as_many_parameters_as_the_paper_s(layer, published):
    assert parameter_count(lambda: nn.ModuleList([layer(), layer()])) == published


def test_a_problem_s_parameters_are_those_of_its_equations():
    n, p, v = 24, 12, 13
    ends = v * p + p * v + v  # embedding, logits
    assert LSTMP(cells=n, projection=p).parameters() == ends + 2 * (8 * n * p + 4 * n + n * p)
    assert FLSTM(cells=n, projection=p, rank=5).parameters() == ends + 2 * (
        2 * p * 5 + 20 * n + 4 * n + n * p
    )
    assert GLSTM(cells=n, projection=p, groups=4).parameters() == ends + 2 * (2 * n * p + 4 * n + n * p)


def test_groups_do_not_see_each_other_before_the_projection():
    layer = initialise(lambda: GroupLSTM(Q, N, P, 2), 0)
    x = torch.randn(1, 1, Q, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[..., Q // 2 :] += 1
    alone = [
        (layer(v)[0, 0] - layer.groups[1].projection @ cells(layer.groups[1], v[0, 0, Q // 2 :]))
        for v in (x, other)
    ]
    torch.testing.assert_close(*alone, rtol=0, atol=1e-6)
    assert (layer(x) - layer(other)).abs().min() > 1e-4


def cells(group, x):
    """m of one group's first step."""
    i, _, o, j = (group.of_x @ x + group.bias).chunk(4)
    return torch.sigmoid(o) * torch.tanh(torch.sigmoid(i) * torch.tanh(j))


# ------------------------------------------------------------------------------------------------------- words


def test_words_are_the_most_frequent_of_the_training_part_and_others_are_unknown(tmp_path):
    training = "the cat isn't the dog, the cat;\n" + "." * 58  # 90 of 100 characters
    (tmp_path / "a.txt").write_text(training + "a bird the")
    words = by_words(of_file(tmp_path / "a.txt"), 5)
    assert words.characters == (UNKNOWN, ".", "the", "cat", "isn't")
    expected = ["the", "cat", "isn't", "the", UNKNOWN, UNKNOWN, "the", "cat", UNKNOWN, UNKNOWN, *["."] * 58]
    assert words.decode(words.train) == " ".join(expected)
    assert words.decode(words.validation) == f"{UNKNOWN} {UNKNOWN} the"
    assert "5 words, 33.3% of the rest" in words.note
    assert words.unit == "words"


def test_a_text_by_words_is_cut_where_its_characters_are():
    by_character = load_text("sums")
    text = by_words(by_character, 50)
    words = re.findall(r"\w+|[+=]|\n", by_character.decode(by_character.validation))
    assert len(text.validation) == len(words)
    known = [w for w, i in zip(words, text.validation.tolist(), strict=True) if i]
    assert known == [text.characters[i] for i in text.validation.tolist() if i]
    assert text.vocabulary == 50
    assert text.characters[1:4] == ("+", "=", "\n")


# --------------------------------------------------------------------------------------------------- refusals


def table(**problem):
    return {
        "name": "text",
        "problem": {"name": "g-lstm", "context": 12, "cells": 8, "projection": 8, "depth": 2} | problem,
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "decentlam"},
        "train": {"lr": 0.3, "rounds": 4, "batch_size": 4, "record_every": 2, "eval_samples": 20, "dtype": "float64"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ({"groups": 3}, "groups = 3 must divide cells = 8, projection = 8 and inputs = 8; choose"),
        ({"groups": 0}, "groups = 0 must be at least 1"),
        ({"name": "f-lstm", "rank": 0}, "rank = 0 must be at least 1"),
        ({"name": "lstmp", "groups": 2}, "unknown key problem.groups of lstmp"),
        ({"dropout": 1.0}, "dropout = 1.0 must be from 0"),
        ({"vocabulary": 1}, "vocabulary = 1 must be at least 2"),
        ({"text": "tiny-shakespeare", "text_file": "x.txt"}, "give one of them"),
        ({"text_file": "x.txt"}, "there is no file"),
        ({"text_file": "bad.txt"}, "bad.txt: line 2 holds the byte 0xff"),
        ({"text_file": "empty.txt"}, "too few for a text"),
        ({"text_file": "signs.txt", "tokens": "words"}, "a part without words"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, problem, said):
    (tmp_path / "bad.txt").write_bytes(b"one line\nand \xff\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "signs.txt").write_bytes(b"word" + b" " * 50)
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table(data_root=str(tmp_path), **problem)))
    told = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert told.code == 2
    (line,) = re.sub(r"\n(?!$)", " ", told.err).strip().splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_data_root_is_refused(monkeypatch):
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    with pytest.raises(UserError, match="give data_root or set DECENTRAL_DATA"):
        LSTMP(text_file="x.txt").read()
