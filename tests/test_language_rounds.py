"""Language models trained by rounds of workers: whose windows are whose, gradients, records, whole runs."""

import os
import re

import numpy as np
import pytest
import tomli_w
import torch
from command import but_wall_time, decentral, metrics
from ranks import decentral as in_ranks
from torch.nn import functional

from decentral.algorithms.pmsgd import PmSGD
from decentral.comm.local import LocalComm
from decentral.errors import UserError
from decentral.problems import LSTM, Transformer
from decentral.problems.data import load_text
from decentral.problems.data.text import Text
from decentral.problems.data.windows import deal_windows, windows_of
from decentral.problems.objective import Place
from decentral.problems.oracles import choose_oracle
from decentral.rounds.advance import advance

SMALL = {
    "lstm": LSTM(context=7, width=6, depth=2),
    "transformer": Transformer(context=7, width=8, depth=2, heads=2),
}


def place(workers=3, **changes):
    here = {
        "rows": range(workers), "seed": 5, "dtype": torch.float64, "device": torch.device("cpu"), "batch_size": 4,
        "weight_decay": 0.0, "oracle": "loop", "eval_samples": 50,
    }  # fmt: skip
    return Place(workers=workers, **(here | changes))


def text_of(train, validation):
    characters = "".join(sorted(set(train + validation)))
    tokens = [torch.tensor([characters.index(c) for c in part]) for part in (train, validation)]
    return Text("by hand", characters, *tokens, "")


def apart(h, d):
    """Models of workers that differ, (h, d)."""
    return 0.3 * torch.randn(h, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def joined(objective, x, t=0):
    """The whole gradient (h, d)."""
    g = torch.full_like(x, float("nan"))
    for columns, block in objective.gradient(x, t):
        g[:, columns] = block
    return g


def plain(problem, row):
    """The model as ordinary torch has it, its parameters from row (d,)."""
    model = problem.model(load_text(problem.text), 0).double()
    torch.nn.utils.vector_to_parameters(row.clone(), model.parameters())
    return model


def by_hand(logits, labels):
    """-log softmax at the labels, (B, T)."""
    return logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]


# ---------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("context", [1, 7, 50])
def test_windows_cover_the_text_and_no_character_is_predicted_twice(context):
    text = load_text()
    windows = windows_of(text, context)
    for x, y, part in (
        (windows.train_x, windows.train_y, text.train),
        (windows.test_x, windows.test_y, text.validation),
    ):
        count = (len(part) - 1) // context
        assert x.shape == y.shape == (count, context)
        assert x.dtype == y.dtype == torch.int64
        assert text.decode(x.flatten()) == text.decode(part)[: count * context]
        assert text.decode(y.flatten()) == text.decode(part)[1 : count * context + 1]
    assert (windows.classes, windows.name) == (13, "sums")


def test_training_and_test_windows_have_no_character_of_the_text_in_common():
    windows = windows_of(text_of("abcdefgh" * 5, "ABCDEFGH" * 5), 4)
    assert max(windows.train_x.min(), windows.train_y.min()) >= 8  # capitals come first
    assert max(windows.test_x.max(), windows.test_y.max()) < 8


@pytest.mark.parametrize("kind", ["iid", "contiguous"])
@pytest.mark.parametrize("workers", [1, 3, 8, 21])
def test_every_window_has_one_owner_and_all_own_as_many(kind, workers):
    windows = windows_of(text_of("0123456789" * 15, "01" * 10), 7)
    parts = deal_windows(windows, workers, kind, seed=2)
    assert len(parts) == workers
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(21))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)
    assert all(part.dtype == np.int64 for part in parts)


def test_contiguous_gives_stretches_of_the_text_in_order():
    windows = windows_of(text_of("a" * 40 + "b" * 40 + "c" * 40, "abcabc"), 5)
    parts = deal_windows(windows, 3, "contiguous", seed=0)
    assert np.array_equal(np.concatenate(parts), np.arange(23))
    seen = [set(windows.train_x[part].unique().tolist()) for part in parts]
    assert seen == [{0}, {1}, {2}]
    assert all(
        np.array_equal(a, b) for a, b in zip(parts, deal_windows(windows, 3, "contiguous", 1), strict=True)
    )


def test_iid_mixes_the_text_and_is_a_function_of_the_seed():
    windows = windows_of(text_of("a" * 400 + "b" * 400 + "c" * 400, "abcabc"), 5)
    one, again, other = (deal_windows(windows, 3, "iid", seed) for seed in (0, 0, 1))
    for part in one:
        shares = np.bincount(windows.train_x[part].flatten(), minlength=3) / windows.train_x[part].numel()
        assert shares.min() > 0.2
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


# -------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("batch", [4, "full"])
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_that_of_the_plain_model_on_the_same_windows(name, batch):
    problem = SMALL[name]
    workers = 3 if batch == 4 else 600
    rows = range(3) if batch == 4 else range(598, 600)
    objective = problem.build(place(workers, rows=rows, batch_size=batch))
    text = load_text()
    x = apart(len(rows), objective.d)
    g = joined(objective, x.clone(), t=2)
    count = (len(text.train) - 1) // 7
    owned = np.array_split(np.arange(count), workers)
    for row, worker in enumerate(rows):
        chosen = owned[worker]
        if batch != "full":
            chosen = chosen[objective.batches.at(2)[row]]
        inputs = torch.stack([text.train[7 * i : 7 * i + 7] for i in chosen])
        labels = torch.stack([text.train[7 * i + 1 : 7 * i + 8] for i in chosen])
        model = plain(problem, x[row])
        loss = by_hand(model(inputs), labels).sum() / labels.numel()
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(g[row], expected, rtol=1e-10, atol=1e-12)
        assert objective.losses[row].item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_window_more_is_not_a_larger_share_of_another_worker():
    problem = SMALL["transformer"]
    text = load_text()
    count = (len(text.train) - 1) // 7
    border = count % 600  # workers from here on have one window less, so that the batched oracle must pad
    rows = range(border - 2, border + 2)
    both = [problem.build(place(600, rows=rows, batch_size="full", oracle=o)) for o in ("loop", "batched")]
    assert len({len(shard) for shard in both[0].shards}) == 2
    x = apart(4, both[0].d)
    one, other = (joined(objective, x.clone()) for objective in both)
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(both[1].losses, both[0].losses, rtol=1e-12, atol=0)


def test_batched_gradients_of_a_transformer_are_the_looped_ones():
    problem = SMALL["transformer"]
    looped, batched = (problem.build(place(5, oracle=oracle)) for oracle in ("loop", "batched"))
    assert (looped.oracle, batched.oracle) == ("loop", "batched")
    x = apart(5, looped.d)
    for t in range(3):
        one, other = joined(looped, x.clone(), t), joined(batched, x.clone(), t)
        assert one.abs().max() > 0.01
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(batched.losses, looped.losses, rtol=1e-12, atol=0)


def test_recurrent_layers_are_looped_whatever_is_wished():
    objective = SMALL["lstm"].build(place(5, oracle="batched"))
    assert objective.oracle == "loop"
    assert any("looped, not batched" in note for note in objective.notes)
    assert SMALL["lstm"].build(place(5, oracle="auto")).notes == []


def test_recurrent_layers_are_looped_on_every_device():
    module = SMALL["lstm"].model(load_text(), 0).to("meta")  # no CPU, and no GPU is needed
    objective = SMALL["lstm"].build(place(5))
    oracle, note = choose_oracle("auto", module, objective.layout, {}, range(5), 0)
    assert (oracle.name, note) == ("loop", None)


def test_weights_that_were_moved_in_between_are_found_again():
    # cuDNN copies an LSTM's weights to memory of its own after they have been exchanged for others
    problem = SMALL["lstm"]
    objective = problem.build(place(1))
    x = apart(1, objective.d)
    joined(objective, x)
    module = objective.evaluation.module
    for layer in module.layers[1:]:
        for parameter in layer.parameters():
            parameter.data = parameter.data.clone()
    x.mul_(0.5)
    fresh = problem.build(place(1))
    torch.testing.assert_close(joined(objective, x), joined(fresh, x.clone()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_remain_integers_in_every_dtype(dtype):
    objective = SMALL["lstm"].build(place(dtype=dtype))
    for tokens in (objective.train_x, objective.train_y, objective.evaluation.test_x):
        assert tokens.dtype == torch.int64
    assert objective.losses.dtype == objective.start().dtype == dtype
    assert joined(objective, objective.start().expand(3, -1).clone()).dtype == dtype


@pytest.mark.parametrize("name", SMALL)
def test_the_layout_of_layers_covers_the_model_and_names_recurrent_and_dense_ones(name):
    objective = SMALL[name].build(place())
    assert objective.layout.d == objective.d
    kinds = {span.name: span.kind for span in objective.layout.spans}
    assert {kind for parameter, kind in kinds.items() if ".lstm." in parameter} <= {"recurrent"}
    assert kinds["head.weight" if name == "lstm" else "head.1.weight"] == "dense"
    assert kinds["layers.0.weight" if name == "lstm" else "layers.0.token.weight"] == "other"
    assert ("recurrent" in kinds.values()) is (name == "lstm")


@pytest.mark.parametrize("name", SMALL)
def test_pmsgd_of_one_worker_is_torch_s_sgd_on_the_same_windows(name):
    problem, lr, momentum, decay = SMALL[name], 0.3, 0.9, 0.01
    objective = problem.build(place(1))
    comm = LocalComm(np.ones((1, 1)))
    method = PmSGD(momentum=momentum)
    x = objective.start().expand(1, -1).clone()
    state = method.init(x, comm)
    model = plain(problem, objective.start())
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    losses = []
    for t in range(5):
        chosen = objective.batches.at(t)[0]
        x, state = advance(method, x, state, objective.gradient(x, t), comm, t, lr, decay)
        windows = [load_text().train[7 * i : 7 * i + 8] for i in chosen]
        inputs, labels = (torch.stack([w[a : a + 7] for w in windows]) for a in (0, 1))
        sgd.zero_grad()
        loss = functional.cross_entropy(model(inputs).reshape(-1, 13), labels.reshape(-1))
        loss.backward()
        sgd.step()
        losses.append(loss.item())
        expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(x[0], expected, rtol=1e-10, atol=1e-10)
    assert losses[-1] != losses[0]


# -------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_records_are_cross_entropies_and_shares_of_characters_worked_by_hand(name, last):
    problem = LSTM(context=23, width=6) if name == "lstm" else Transformer(context=23, width=8, heads=2)
    objective = problem.build(place(2, eval_samples=10_000))
    comm = LocalComm(np.full((2, 2), 0.5))
    x = apart(2, objective.d)
    found = objective.evaluate(x.mean(0, keepdim=True), x, comm, last)
    text = load_text()

    def seen(part, row):
        count = (len(part) - 1) // 23
        inputs, labels = part[: count * 23].view(-1, 23), part[1 : count * 23 + 1].view(-1, 23)
        with torch.no_grad():
            logits = plain(problem, row)(inputs)
        right = (logits.argmax(-1) == labels).double().mean().item()
        return by_hand(logits, labels).mean(1), right

    mean = x.mean(0)
    windows = seen(text.train, mean)[0]
    halves = [
        windows[part].mean() for part in np.array_split(np.arange(len(windows)), 2)
    ]  # f is the mean of f_i
    test, right = seen(text.validation, mean)
    assert found["train_loss"] == pytest.approx(sum(halves).item() / 2, rel=1e-10)
    assert found["test_loss"] == pytest.approx(test.mean().item(), rel=1e-10)
    assert found["test_accuracy"] == pytest.approx(right, abs=1e-12)
    each = [seen(text.validation, row)[1] for row in x]
    assert found["test_accuracy_worker_mean"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["test_accuracy_worker_min"] == pytest.approx(min(each), abs=1e-12)
    assert 0 < right < 1
    assert each[0] != each[1]


def test_a_record_looks_at_some_windows_and_the_last_one_at_all_test_windows():
    problem = SMALL["lstm"]
    objective = problem.build(place(2, eval_samples=10))
    comm = LocalComm(np.full((2, 2), 0.5))
    x = apart(2, objective.d)
    some, all_ = (objective.evaluate(x.mean(0, keepdim=True), x, comm, last) for last in (False, True))
    assert some["train_loss"] == all_["train_loss"]
    assert some["test_loss"] != all_["test_loss"]
    assert (some["test_accuracy"] * 10 * 7) % 1 == pytest.approx(0, abs=1e-9)


# ----------------------------------------------------------------------------------------------------- runs


def table(**problem):
    return {
        "name": "text",
        "problem": {"name": "lstm", "text": "sums", "context": 12, "width": 16, "depth": 1} | problem,
        "topology": {"name": "ring", "workers": 4},
        "algorithm": {"name": "dmsgd"},
        "train": {
            "lr": 0.3, "rounds": 60, "batch_size": 16, "record_every": 20, "eval_samples": 100, "dtype": "float64",
        },
    }  # fmt: skip


def refused(folder, **changed):
    (folder / "x.toml").write_text(tomli_w.dumps(changed))
    said = decentral("run", folder / "x.toml", "--out", folder / "out")
    assert said.code == 2
    assert not (folder / "out").exists()
    (line,) = re.sub(r"\n(?!$)", " ", said.err).strip().splitlines()
    return line


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["iid", "contiguous"])
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_run_learns_more_than_how_frequent_characters_are(tmp_path, name, partition):
    own = {} if name == "lstm" else {"heads": 2}
    changed = table(name=name, partition=partition, **own)
    changed["train"]["dtype"] = "float32"
    (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
    said = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    ((_, rows),) = metrics(tmp_path / "out").items()
    first, last = rows[0], rows[-1]
    assert float(first["train_loss"]) == pytest.approx(np.log(13), abs=0.2)
    share = torch.bincount(load_text().train) / len(load_text().train)
    entropy = -(share * share.log()).sum().item()
    for key in ("train_loss", "test_loss"):
        assert float(last[key]) < entropy - 0.2 < float(first[key]), key
    assert float(last["test_accuracy"]) > float(first["test_accuracy"]) + 0.05
    windows = (len(load_text().train) - 1) // 12
    assert float(last["epoch"]) == pytest.approx(60 * 16 * 4 / windows)


@pytest.mark.usefixtures("undrawn")
def test_another_partition_is_another_run(tmp_path):
    found = []
    for partition in ("iid", "contiguous"):
        changed = table(partition=partition)
        changed["train"] |= {"rounds": 2, "record_every": 1}
        (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
        assert decentral("run", tmp_path / "x.toml", "--out", tmp_path / partition).code == 0
        found.append(metrics(tmp_path / partition))
    assert found[0].keys().isdisjoint(found[1])
    (one,), (other,) = (list(runs.values()) for runs in found)
    assert one[-1]["train_loss"] != other[-1]["train_loss"]


@pytest.mark.mpi
def test_two_ranks_have_the_bits_of_one(tmp_path):
    changed = table()
    changed["train"] |= {"rounds": 8, "record_every": 2, "oracle": "loop"}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
    found = []
    for ranks in (1, 2):
        done = in_ranks("run", tmp_path / "x.toml", "--out", tmp_path / f"{ranks}", ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
        runs = metrics(tmp_path / f"{ranks}")
        found.append({
            run: [{k: v for k, v in row.items() if k != "mpi_bytes_sent"} for row in but_wall_time(rows)]
            for run, rows in runs.items()
        })  # fmt: skip
    assert found[0] == found[1]
    assert len(next(iter(found[0].values()))) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DECENTRAL_DATA"), reason="DECENTRAL_DATA is not set")
def test_tiny_shakespeare_is_dealt_and_learned(tmp_path):
    text = load_text("tiny-shakespeare")
    windows = windows_of(text, 64)
    assert windows.train_x.shape == (15_685, 64)  # (1,003,854 - 1) // 64
    assert windows.test_x.shape == (1_742, 64)
    assert windows.classes == 65
    changed = table(text="tiny-shakespeare", context=64)
    changed["train"] |= {"rounds": 40, "dtype": "float32"}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
    said = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    ((_, rows),) = metrics(tmp_path / "out").items()
    assert float(rows[0]["train_loss"]) == pytest.approx(np.log(65), abs=0.2)
    assert float(rows[-1]["test_loss"]) < float(rows[0]["test_loss"]) - 0.4


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ({"partition": "dirichlet"}, "problem.partition = 'dirichlet' should be 'iid' or 'contiguous'"),
        ({"partition": "shards"}, "problem.partition = 'shards' should be 'iid' or 'contiguous'"),
        ({"alpha": 0.1}, "unknown key problem.alpha of lstm"),
        ({"text": "sum"}, "problem.text = 'sum' should be 'sums' or 'tiny-shakespeare'"),
        ({"context": 0}, "context = 0 must be positive"),
        ({"context": 20_000}, "too few for context = 20000"),
        ({"context": 5_000}, "has 16 windows of 5000 characters, too few for 20 workers"),
        ({"width": 0}, "width = 0 must be at least 1"),
        ({"name": "transformer", "heads": 3}, "heads = 3 must divide width = 16"),
        ({"text": "tiny-shakespeare", "data_root": "nowhere"}, "data root nowhere is no folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, problem, said):
    changed = table(**problem)
    changed["topology"]["workers"] = 20
    assert said in refused(tmp_path, **changed)


def test_a_missing_data_root_is_refused_with_where_to_get_the_text(tmp_path, monkeypatch):
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    line = refused(tmp_path, **table(text="tiny-shakespeare"))
    assert "set DECENTRAL_DATA" in line
    assert "https://github.com/karpathy/char-rnn" in line


def test_an_unknown_partition_is_refused_by_name():
    with pytest.raises(UserError, match="unknown partition 'contigous'; did you mean 'contiguous'"):
        deal_windows(windows_of(load_text(), 7), 2, "contigous", 0)


def test_the_list_of_problems_shows_the_keys():
    said = re.sub(r"\s+", " ", decentral("list", "problems").out)
    assert said.count("partition=contiguous") == 5
    for name in ("transformer", "lstm", "lstmp", "f-lstm", "g-lstm"):
        assert name in said
