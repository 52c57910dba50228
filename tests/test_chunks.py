"""Gradients of many workers in chunks: the same bits, bounded memory, and a choice that a run keeps."""

import math
import re

import pytest
import torch
from torch import nn

from benchmarks.gpu_cases import MLP, RING
from benchmarks.gpu_runs import merged, trained
from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.problems import chunks
from decentral.problems.losses import cross_entropy
from decentral.runs.experiment import expand
from decentral.runs.reading import resolved

MANY = merged(
    RING,
    MLP,
    {"topology": {"workers": 10}, "train": {"rounds": 3, "checkpoint_every": 2, "oracle": "batched"}},
)
OTHERS = {
    "batch norm": {"problem": {"name": "cnn", "width": 2}},
    "uneven": {"problem": {"partition": "dirichlet"}, "train": {"batch_size": "full"}},
}


def chunked(table, chunk):
    return merged(table, {"train": {"chunk": chunk}})


@pytest.mark.parametrize("case", OTHERS)
def test_chunks_have_the_bits_of_all_workers_at_once(case):
    table = merged(MANY, OTHERS[case])
    whole = trained(table, "cpu").rows
    for size in (4, 9, 64):  # 4, 3 and 3 workers; 5 and 5; all
        assert trained(chunked(table, size), "cpu").rows == whole, size


def test_no_vmap_has_more_workers_than_the_chunk(monkeypatch):
    seen = []
    real = torch.func.vmap

    def watched(of, **keys):
        batched = real(of, **keys)
        return lambda *args: seen.append(len(args[-1])) or batched(*args)

    monkeypatch.setattr("decentral.problems.oracles.vmap", watched)
    trained(chunked(merged(MANY, {"train": {"rounds": 1}}), 4), "cpu")
    assert seen == [3, 3, 4]


def network(depth=1):
    layers = [nn.Linear(4, 8), *(nn.Linear(8, 8) for _ in range(depth))]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(8, 3))


def test_what_autograd_keeps_of_a_pass_is_counted():
    # the batch, two layers' outputs of tanh (the next layer's input too), logits as log-probabilities and labels
    found = chunks.kept_bytes(network(), {}, torch.randn(16, 4), torch.randint(3, (16,)), cross_entropy)
    floats = 4 * 16 * (4 + 8 + 8 + 3)
    assert floats + 8 * 16 <= found <= floats + 8 * 16 + 64  # and the sum of the weights of classes


@pytest.mark.parametrize("workers", [4, 5, 11, 64, 1000])
@pytest.mark.parametrize("free", [0.0, 1e6, 3e6, 1e12])
def test_auto_takes_all_that_have_room_and_four_at_the_least(monkeypatch, workers, free):
    module = network(20)
    layout = Layout.of(module)
    inputs, labels = torch.randn(64, 4), torch.randint(3, (64,))
    rows = 4 * workers * layout.d
    monkeypatch.setattr(chunks, "free_bytes", lambda: free + 8 * rows)
    found = chunks.chunk_of("auto", module, layout, {}, inputs, labels, cross_entropy, workers)
    one = 2 * chunks.kept_bytes(module, {}, inputs, labels, cross_entropy) + 16 * layout.d
    assert found == workers or found * one <= 0.8 * free or found <= 7  # 4 to 7: what cannot be halved
    assert min(4, workers) <= found <= workers
    pieces = math.ceil(workers / found)
    assert workers < 8 or workers // pieces >= 4
    if free == 1e12:
        assert found == workers


def test_a_run_keeps_its_chunk_whatever_the_memory_is_when_it_goes_on(monkeypatch):
    monkeypatch.setattr(chunks, "free_bytes", lambda: 1.0)
    whole = trained(MANY, "cpu")
    assert whole.facts["chunk"] == 5
    assert whole.kept["chunk"] == 5
    monkeypatch.undo()
    again = trained(MANY, "cpu", whole.kept)
    assert again.facts["chunk"] == 5
    assert again.rows == whole.rows[-len(again.rows) :]
    assert "chunk" not in trained(MANY, "cpu").facts


def test_a_chunk_that_is_not_given_is_in_no_table_and_a_device_in_no_name():
    (plain,), (said,) = (expand({"name": "x", **table}).runs for table in (MANY, chunked(MANY, 5)))
    (auto,) = expand({"name": "x", **chunked(MANY, "auto")}).runs
    assert "chunk" not in resolved(plain.config)["train"]
    assert resolved(said.config)["train"]["chunk"] == 5
    assert auto.id == plain.id != said.id
    assert plain.config.train.device == "auto"
    (cpu,) = expand({"name": "x", **merged(MANY, {"train": {"device": "cpu"}})}).runs
    assert cpu.id == plain.id


REFUSED = {
    "none": ({"train": {"chunk": 0}}, "train.chunk = 0 must be positive and finite"),
    "looped": ({"train": {"chunk": 4, "oracle": "loop"}}, "remove one of the two"),
    "a word": ({"train": {"chunk": "all"}}, "train.chunk = 'all'"),
    "no network": (
        {"problem": {"name": "quadratic"}, "train": {"chunk": 4, "batch_size": 1}},
        "[problem] has none",
    ),
    "no steps": ({"algorithm": {"name": "ad-psgd"}, "train": {"chunk": 4}}, "workers are not in step"),
    "stages": (
        {"stages": {"count": 1}, "program": {"name": "backprop"}, "train": {"chunk": 4}},
        "with [stages]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_chunks_of_what_has_none_are_refused(case):
    changes, words = REFUSED[case]
    table = merged({"name": "x"}, MLP, {"train": {"rounds": 1}}, {} if "stages" in changes else RING, changes)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        expand(table)
    assert len(str(error.value)) < 300
