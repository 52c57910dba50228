"""The deep autoencoder recommender: model, loss, re-feeding and measures against loops, and whole runs on ranks."""

import itertools
import math

import cut_short
import numpy as np
import pytest
import tomli_w
import torch
from command import but_wall_time, decentral, experiment, metrics, write

from decentral.algorithms import PmSGD
from decentral.comm import LocalComm
from decentral.problems import PROBLEMS
from decentral.problems.losses import masked_squares
from decentral.problems.models.autoencoder import ACTIVATIONS, autoencoder
from decentral.problems.models.initialise import parameter_count
from decentral.problems.objective import Place
from decentral.runs.experiment import expand
from decentral.runs.journal import Journal

SMALL = {"hidden": [6, 4]}
NAN = float("nan")


def problem(**more):
    return PROBLEMS["recommender"](**SMALL | more)


def place(workers=2, **changes):
    here = {
        "rows": range(workers), "seed": 5, "dtype": torch.float64, "device": torch.device("cpu"), "batch_size": 4,
        "weight_decay": 0.0, "oracle": "loop", "eval_samples": 10_000,
    }  # fmt: skip
    return Place(workers=workers, **(here | changes))


def apart(h, d):
    """Models of workers that differ, (h, d)."""
    return 0.3 * torch.randn(h, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def joined(objective, x, t=0):
    """The whole gradient (h, d)."""
    return torch.cat([g for _, g in objective.gradient(x, t)], dim=1).clone()


def plain(of, row):
    """The model as ordinary torch has it, its parameters from row (d,)."""
    model = of.model(of.read(), 0).double()
    torch.nn.utils.vector_to_parameters(row.clone(), model.parameters())
    return model


def mmse(outputs, ratings):
    """One rating after the other."""
    squares = [
        (outputs[u, i] - ratings[u, i]) ** 2
        for u in range(len(ratings))
        for i in range(ratings.shape[1])
        if not math.isnan(ratings[u, i])
    ]
    return sum(squares) / len(squares)


# -------------------------------------------------------------------------------------------------------- model

BY_HAND = {
    "selu": lambda z: (
        1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0)))
    ),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "lrelu": lambda z: np.where(z > 0, z, 0.01 * z),
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_network_is_the_papers_layer_by_layer(name, tied):
    act, last = BY_HAND[name], name != "tanh"
    torch.manual_seed(1)
    model = autoencoder(7, (5, 4, 3), name, last_activation=last, tied=tied).double()
    weights = [p.detach().numpy() for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    shapes = [(5, 7), (4, 5), (3, 4)]
    assert [w.shape for w in weights] == (shapes if tied else [*shapes, (4, 3), (5, 4), (7, 5)])
    assert [len(b) for b in biases] == [5, 4, 3, 4, 5, 7]
    for w in weights:  # Xavier-uniform
        bound = math.sqrt(6 / sum(w.shape))
        assert 0.5 * bound < np.abs(w).max() <= bound
    assert not any(b.any() for b in biases)
    draw = np.random.default_rng(3)
    with torch.no_grad():
        for b in biases:
            b.copy_(torch.from_numpy(draw.standard_normal(len(b))))
    x = y = draw.standard_normal((6, 7))
    for k, (w, b) in enumerate(
        zip([*weights, *(w.T for w in weights[::-1])] if tied else weights, biases, strict=True)
    ):
        y = y @ w.T + b.detach().numpy()
        y = act(y) if k < 5 or last else y
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), y, rtol=1e-10, atol=1e-12)


def test_only_units_of_the_code_are_dropped():
    torch.manual_seed(1)
    model = autoencoder(7, (6, 40, 50), dropout=0.8).double().train()
    seen = []
    for layer in [*model.layers, model.head]:
        layer.register_forward_hook(lambda part, x, y: seen.append(y.detach()))
    model(torch.from_numpy(np.random.default_rng(2).standard_normal((100, 7))))
    zeros = [float((y == 0).double().mean()) for y in seen]
    assert zeros[2] == pytest.approx(0.8, abs=0.03)
    assert zeros[:2] + zeros[3:] == [0, 0, 0, 0, 0]


def test_the_parameters_of_a_published_shape_are_counted_without_memory():
    n, widths = 17_768, [512, 512, 1024, 512, 512]
    counted = sum(a * b + b for a, b in itertools.pairwise([n, *widths, n]))
    assert parameter_count(lambda: autoencoder(n, (512, 512, 1024), dropout=0.8)) == counted
    assert PROBLEMS["recommender"]().parameters() == sum(
        a * b + b for a, b in itertools.pairwise([150, 64, 32, 64, 150])
    )


# --------------------------------------------------------------------------------------------------------- loss


def test_the_loss_is_over_the_ratings_of_the_batch_and_a_zero_is_one():
    draw = np.random.default_rng(6)
    y = torch.from_numpy(draw.standard_normal((5, 8))).requires_grad_()
    r = torch.from_numpy(draw.standard_normal((5, 8)))
    r[torch.from_numpy(draw.random((5, 8)) < 0.6)] = NAN
    r[1], r[2] = NAN, 0.0  # a user without ratings, and one who rated all with 0
    loss = masked_squares(y, r)
    loss.backward()
    rated = [(u, i) for u in range(5) for i in range(8) if not math.isnan(r[u, i])]
    assert loss.item() == pytest.approx(sum((y[k] - r[k]).item() ** 2 for k in rated) / len(rated), rel=1e-12)
    expected = torch.zeros(5, 8, dtype=torch.float64)
    for k in rated:
        expected[k] = 2 * (y[k] - r[k]).item() / len(rated)
    torch.testing.assert_close(y.grad, expected, rtol=1e-12, atol=0)
    assert masked_squares.terms(r) == len(rated)
    assert masked_squares(y, r, reduction="none").mean().item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("more", [{}, {"tied": True}, {"activation": "tanh", "last_activation": False}])
def test_both_oracles_give_the_gradients_of_the_plain_model(more):
    of = problem(**more)
    both = [of.build(place(4, oracle=oracle)) for oracle in ("loop", "batched")]
    x = apart(4, both[0].d)
    one, other = (joined(objective, x.clone(), 2) for objective in both)
    assert [objective.oracle for objective in both] == ["loop", "batched"]
    torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(both[1].losses, both[0].losses, rtol=1e-12, atol=0)
    rows = of.read()
    users = both[0].shards[3][both[0].batches.at(2)[3]]
    model = plain(of, x[3])
    loss = mmse(model(rows.train_x[users].double()), rows.train_y[users].double())
    loss.backward()
    assert both[0].losses[3].item() == pytest.approx(loss.item(), rel=1e-10)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(one[3], expected, rtol=1e-10, atol=1e-12)


def test_full_batches_are_looped_whatever_is_wished_and_are_all_ratings_of_a_worker():
    of = problem(partition="by-mean")
    objective = of.build(place(300, rows=range(299, 300), batch_size="full", oracle="batched"))
    assert objective.oracle == "loop"
    assert "looped" in objective.notes[0]
    x = apart(1, objective.d)
    joined(objective, x)
    rows, (users,) = of.read(), objective.shards
    expected = mmse(plain(of, x[0])(rows.train_x[users].double()).detach(), rows.train_y[users].double())
    assert objective.losses.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("refeed", [False, True])
def test_no_users_last_batch_is_lost(refeed):
    objective = problem(refeed=refeed).build(place(3, batch_size=50))  # 334, 333 and 333 users
    rounds, times = 20, 2 if refeed else 1
    seen = np.zeros(1000)
    inputs = []
    objective._oracle.module.register_forward_pre_hook(lambda part, given: inputs.append(given[0]))
    rows = {tuple(row.tolist()): k for k, row in enumerate(objective.train_x)}
    assert len(rows) == 1000
    for t in range(rounds * times):
        joined(objective, objective.start().expand(3, -1).clone(), t)
        if not refeed or t % 2 == 0:
            for batch in inputs:
                np.add.at(seen, [rows[tuple(row.tolist())] for row in batch], 1)
        inputs.clear()
    assert objective.samples(rounds * times) == rounds * 150
    assert objective.epoch(rounds * times) == rounds * 150 / 1000
    # 1,000 draws of a worker's 334 or 333 users are two epochs and a rest, or three: each user twice at the least
    assert set(seen) <= {2, 3, 4}
    assert seen.sum() == rounds * 150
    assert [(seen[s] == 3).sum() for s in objective.shards[1:]] == [332, 332]


# --------------------------------------------------------------------------------------------------- re-feeding


def test_one_worker_is_the_papers_loop_of_two_steps_a_batch():
    of = problem(refeed=True)
    objective, comm, method = of.build(place(1)), LocalComm(np.ones((1, 1))), PmSGD(momentum=0.9)
    x = objective.start()[None].clone()
    state = method.init(x, comm)
    model, rows = plain(of, x[0]), of.read()
    sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for k in range(3):
        users = objective.shards[0][objective.batches.at(k)[0]]
        inputs, labels = rows.train_x[users].double(), rows.train_y[users].double()
        for t in (2 * k, 2 * k + 1):
            sgd.zero_grad()
            outputs = model(inputs)
            loss = mmse(outputs, labels)
            loss.backward()
            sgd.step()
            inputs = labels = outputs.detach()
            x, state = method.step(x, state, joined(objective, x, t), comm.at(t), 0.02)
            assert objective.losses.item() == pytest.approx(loss.item(), rel=1e-9)
            expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
            torch.testing.assert_close(x[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [4, "full"])
def test_each_worker_is_fed_what_its_own_first_pass_gave_with_the_same_units_dropped(batch):
    workers = 2 if batch == 4 else 400
    objective = problem(refeed=True, dropout=0.5).build(place(workers, rows=range(2), batch_size=batch))
    passes = []
    objective._oracle.module.register_forward_hook(
        lambda part, given, y: passes.append((given[0].clone(), y.detach().clone()))
    )
    x = apart(2, objective.d)
    joined(objective, x.clone(), 6)
    first = passes[:]
    passes.clear()
    joined(objective, x.clone() + 0.1, 7)
    again = passes[2:]  # behind those that make the outputs anew
    for worker in range(2):
        torch.testing.assert_close(again[worker][0], first[worker][1], rtol=0, atol=0)
        expected = (again[worker][1] - first[worker][1]).square().mean()  # over all n entries
        assert objective.losses[worker].item() == pytest.approx(expected.item(), rel=1e-12)


# ---------------------------------------------------------------------------------------------------- measures


def test_rmse_is_over_all_ratings_and_the_training_loss_over_workers():
    of = problem(partition="by-mean", dropout=0.5)
    objective, comm = of.build(place(3)), LocalComm(np.full((3, 3), 1 / 3))
    x, rows = apart(3, objective.d), of.read()
    mean = x.mean(0, keepdim=True)
    found = objective.evaluate(mean, x, comm, True)

    def errors(row, inputs, ratings):
        outputs = plain(of, row).eval()(inputs.double()).detach()
        return [
            (outputs[u, i] - ratings[u, i]).item() ** 2 for u, i in np.argwhere(~np.isnan(ratings.numpy()))
        ]

    of_mean = errors(mean[0], rows.test_x, rows.test_y)
    assert len(of_mean) == int((~rows.test_y.isnan()).sum()) == 3008
    assert found["test_rmse"] == pytest.approx(np.sqrt(np.mean(of_mean)), rel=1e-9)
    assert found["test_loss"] == pytest.approx(np.mean(of_mean), rel=1e-9)
    own = [np.sqrt(np.mean(errors(row, rows.test_x, rows.test_y))) for row in x]
    assert found["test_rmse_worker_mean"] == pytest.approx(np.mean(own), rel=1e-9)
    assert found["test_rmse_worker_max"] == pytest.approx(max(own), rel=1e-9)
    train = [np.mean(errors(mean[0], rows.train_x[s], rows.train_y[s])) for s in objective.shards]
    assert found["train_loss"] == pytest.approx(np.mean(train), rel=1e-9)
    assert found["test_rmse_floor"] == rows.floor
    assert set(found) == set(of.columns(3, 0.0)) - {"epoch", "samples"}
    some = of.build(place(3, eval_samples=40))
    few, all_ = (some.evaluate(mean, x, comm, last) for last in (False, True))
    assert few["test_rmse"] != all_["test_rmse"] == found["test_rmse"]


# --------------------------------------------------------------------------------------------------------- runs

TRAIN = {"lr": 0.05, "rounds": 12, "batch_size": 8, "dtype": "float64", "record_every": 4, "eval_samples": 60}
RANKS = {
    "workers": {
        "problem": {"name": "recommender", "partition": "by-mean", **SMALL},
        "topology": {"name": "ring", "workers": 4},
        "train": TRAIN | {"checkpoint_every": 4, "oracle": "loop"},
        "sweep": {
            "case": [
                {"algorithm": {"name": "pmsgd"}, "problem": {"refeed": True, "dropout": 0.3, "tied": False}},
                {"algorithm": {"name": "dmsgd"}, "problem": {"refeed": False, "dropout": 0.3, "tied": True}},
                {
                    "algorithm": {"name": "decentlam"}, "optimizer": {"name": "lamb"},
                    "problem": {"refeed": True, "dropout": 0.0, "tied": False},
                },
            ]
        },
    },
    "stages": {
        "problem": {"name": "recommender", **SMALL},
        "stages": {"count": 2},
        "program": {"name": "local", "blocks": "greedy"},
        "topology": {"name": "complete", "workers": 2},
        "algorithm": {"name": "decentlam"},
        "train": TRAIN,
    },
}  # fmt: skip


OF_WORLD = ("mpi_bytes_sent", "simulated_s")


@pytest.mark.mpi
@pytest.mark.slow
def test_one_two_and_four_ranks_have_the_same_bits_and_bytes_and_go_on_from_each_other(tmp_path):
    cut_short.run_all(tmp_path, RANKS)
    for name, count in (("workers", 3), ("stages", 1)):
        found = {
            world: {
                run: [{k: v for k, v in row.items() if k not in OF_WORLD} for row in but_wall_time(rows)]
                for run, rows in metrics(tmp_path / world / name).items()
            }
            for world in ("1", "2", "4", "cut")
        }  # fmt: skip
        assert len(found["1"]) == count
        assert found["1"] == found["2"] == found["4"] == found["cut"]
    untied = sum(a * b + b for a, b in itertools.pairwise([150, 6, 4, 6, 150]))
    tied = untied - 6 * 4 - 150 * 6
    for rows in metrics(tmp_path / "1" / "workers").values():
        sent = float(rows[-1]["bytes_sent_mean"]) / (12 * 8)  # numbers a round, of a re-fed one too
        assert sent in (2 * 3 / 4 * untied, 2 * tied, 2 * untied)
        assert float(rows[-1]["samples"]) in (12 * 8 * 4, 6 * 8 * 4)
        assert 0.49 < float(rows[-1]["test_rmse_floor"]) < 0.5 < float(rows[-1]["test_rmse"])


def run(folder, **changed):
    said = decentral("run", write(folder / "x.toml", **changed), "--out", folder / "out", "--resume")
    assert said.code == 0, said.err
    return {name: but_wall_time(rows) for name, rows in metrics(folder / "out").items()}


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_between_the_two_rounds_of_a_batch(tmp_path, monkeypatch):
    changed = RANKS["workers"] | {"train": TRAIN | {"checkpoint_every": 3, "rounds": 7}}
    changed["sweep"] = {"case": changed["sweep"]["case"][:1]}
    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole", **changed)
    keep = Journal.keep

    def dies(journal, state):
        keep(journal, state)
        if state["t"] == 3:
            raise RuntimeError("died")

    monkeypatch.setattr(Journal, "keep", dies)
    write(tmp_path / "x.toml", **changed)
    with pytest.raises(RuntimeError, match="died"):
        decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    monkeypatch.setattr(Journal, "keep", keep)
    assert run(tmp_path, **changed) == whole


@pytest.mark.usefixtures("undrawn")
def test_workers_without_rounds_and_rules_train_it_and_count_a_batch_once(tmp_path):
    changed = RANKS["workers"] | {"sweep": {"algorithm": {"name": ["ad-psgd", "dsgd"]}}}
    changed["problem"] = changed["problem"] | {"refeed": True}
    changed["train"] = {**TRAIN, "lr": 0.1, "rounds": 80, "record_every": 80, "oracle": "loop"}
    for rows in run(tmp_path, **changed).values():
        first, last = rows[0], rows[-1]
        assert float(last["train_loss"]) < 0.9 * float(first["train_loss"])
        assert float(last["samples"]) == pytest.approx(80 * 8 * 4 / 2, rel=0.05)


# ------------------------------------------------------------------------------------------------------- stages


@pytest.mark.usefixtures("undrawn")
def test_micro_batches_weigh_as_many_ratings_as_they_have(tmp_path):
    changed = {
        "problem": {"name": "recommender", "hidden": [6, 5, 4], "dropout": 0.0},
        "stages": {"count": 3},
        "train": TRAIN | {"lr": 0.1, "batch_size": 10},
        "sweep": {"program": [{"name": "backprop"}, *({"name": n, "micro_batches": 3} for n in ("gpipe", "1f1b"))]},
    }  # fmt: skip
    (tmp_path / "x.toml").write_text(tomli_w.dumps({"name": "stages", **changed}))
    said = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    whole, *parts = [rows[-1] for rows in metrics(tmp_path / "out").values()]
    for part in parts:
        for column in ("train_loss", "test_rmse", "batch_loss", "gradient_cosine"):
            assert float(part[column]) == pytest.approx(float(whole[column]), rel=1e-9), column
        assert float(part["gradient_cosine"]) == pytest.approx(1, abs=1e-9)


STAGES = {"stages": {"count": 2}, "program": {"name": "backprop"}}
ROUNDS = {"topology": {"name": "ring", "workers": 2}, "algorithm": {"name": "pmsgd"}}
REFUSED = {
    "re-feeding": ({"refeed": True}, STAGES, "problem.refeed = true feeds the whole network's outputs in again"),
    "a tie over a cut": ({"tied": True}, STAGES, "is tied to a parameter of stage 0"),
    "a loss of classes": (
        {}, STAGES | {"program": {"name": "local", "head": "linear+predsim"}}, "local loss 'predsim' is of classes",
    ),
    "noise": ({"refeed": True}, ROUNDS | {"noise_scale": {}}, "[noise_scale] measures gradients of samples"),
    "examples": ({}, ROUNDS | {"adversarial": {"eps": 0.1}}, "those of problem.name = 'recommender' are not"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_it_is_refused(tmp_path, case):
    more, sections, said = REFUSED[case]
    table = {"name": "x", "problem": {"name": "recommender", **SMALL, **more}, "train": TRAIN}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table | sections))
    found = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert found.code == 2
    assert said in " ".join(found.err.split())
    assert not (tmp_path / "out").exists()


def test_an_epoch_of_re_feeding_has_twice_the_rounds():
    for refeed, rounds in ((False, 1000 / 32), (True, 2 * 1000 / 32)):
        table = {k: v for k, v in experiment(**RANKS["workers"]).items() if k != "sweep"}
        table["problem"] = table["problem"] | {"refeed": refeed}
        config = expand(table | {"algorithm": {"name": "dsgd"}}).runs[0].config
        assert config.facts().epoch_rounds == rounds
        objective = config.problem.build(place(4, batch_size=8))
        assert objective.epoch(62) == pytest.approx(62 / rounds)
