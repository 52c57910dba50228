"""Workers that share gradients are one worker with all their samples, behind every rule: in one process, on ranks."""

import re

import pytest
import tomli_w
import torch
from command import metrics
from ranks import decentral as launch
from test_metrics import HERE

from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.place import place_of
from decentral.runs.rounds.training import Training

WORKERS, BATCH, ROUNDS = 3, 8, 6
RULES = {
    "sgd": {"momentum": 0.9},
    "lars": {"trust": 0.02},
    "lamb": {},
    "lambc": {"upper": 0.05},
    "novograd": {},
    "nlcg": {"update": "polak-ribiere", "period": 2, "threshold": 0.1},
    "rsg": {"beta": 0.9},
}
MEASURED = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def table(workers, batch, **more):
    return {
        "name": "shared",
        "seeds": [4],
        "problem": {"name": "mlp", "hidden": [8]},
        "topology": {"name": "complete", "workers": workers},
        "algorithm": {"name": "pmsgd", "momentum": 0.0},
        "schedule": {"name": "cosine"},
        "train": {
            "lr": 0.1, "rounds": ROUNDS, "batch_size": batch, "dtype": "float64", "weight_decay": 0.01,
            "record_every": 6, "eval_samples": 10_000,
        },
        **more,
    }  # fmt: skip


def trained(name, workers, batch, folder=None):
    """The run; of one worker, with the samples that all workers draw, or own."""
    rule = {"name": name, **RULES[name]}
    (one,), (many,) = (expand(table(n, batch, optimizer=rule)).runs for n in (workers, WORKERS))
    training = Training(one.config, HERE, Journal(folder))
    if workers == 1 and batch != "full":
        drawn = many.config.problem.build(place_of(many.config, range(WORKERS), torch.device("cpu")))
        training.objective._batch = lambda t: [part.flatten(0, 1)[None] for part in drawn._batch(t)]
    assert training.run().status == "finished"
    return training


@pytest.mark.parametrize("batch", [BATCH, "full"])  # all samples: 1437, as many to each worker
@pytest.mark.parametrize("name", RULES)
def test_in_one_process(name, batch):
    one, many = (trained(name, workers, batch) for workers in (1, WORKERS))
    torch.testing.assert_close(many.x, one.x.expand(WORKERS, -1), rtol=0, atol=1e-12)
    assert torch.equal(many.x, many.x[:1].expand(WORKERS, -1))
    assert float((one.x - one.objective.start()).abs().max()) > 1e-3


@pytest.mark.mpi
def test_on_ranks(tmp_path):
    swept = [{"name": name, **keys} for name, keys in RULES.items()]
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table(WORKERS, BATCH, sweep={"optimizer": swept})))
    done = launch("run", tmp_path / "x.toml", "--out", tmp_path / "out", ranks=WORKERS, drawn=False)
    assert done.returncode == 0, done.stderr
    found = metrics(tmp_path / "out")
    assert len(found) == len(RULES)
    ends = []
    for name in RULES:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        trained(name, 1, BATCH, folder)
        (rows,) = (rows for run, rows in found.items() if re.split("[-_]", run)[0] == name)
        for row, expected in zip(rows, folder.rows(), strict=True):
            for column in MEASURED:
                assert float(row[column]) == pytest.approx(float(expected[column]), rel=1e-12), column
        ends.append(rows[-1]["train_loss"])
    assert len({*ends}) == len(RULES)
