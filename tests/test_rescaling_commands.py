"""Rescaling from the command line: its keys, what is refused, stages that gossip, ranks."""

import tomllib

import pytest
import tomli_w
from command import decentral
from ranks import decentral as launch
from rescaled_runs import CNN, CUT, of_user, run, seen, table, write


def test_stages_that_gossip_rescale_as_rounds_do(home):
    rounds = run(write(home / "x.toml", algorithm={"name": "dmsgd"}), home / "rounds")
    found = run(write(home / "y.toml", algorithm={"name": "dmsgd"}, **CUT), home / "stages")
    for column in ("test_loss", "consensus_sq"):
        assert float(found[-1][column]) == pytest.approx(float(rounds[-1][column]), rel=1e-7)
    plain = run(
        write(home / "z.toml", algorithm={"name": "dmsgd"}, optimizer={"rescale_every": 20}), home / "plain"
    )
    assert float(plain[-1]["test_loss"]) != pytest.approx(float(rounds[-1]["test_loss"]), rel=1e-3)


def test_the_keys_are_in_the_table_of_a_run_that_has_them_and_of_no_other(home):
    tables = {}
    every = dict(CNN["optimizer"])
    for name, keys in (
        ("plain", ["rescale", "rescale_every"]),
        ("with", []),
        ("every step", ["rescale_every"]),
    ):
        changed = table() | {"optimizer": {key: value for key, value in every.items() if key not in keys}}
        (home / "x.toml").write_text(tomli_w.dumps(changed))
        run(home / "x.toml", home / name)
        (path,) = (home / name / "runs").glob("*/config.toml")
        tables[name] = tomllib.loads(path.read_text())["optimizer"]
    plain = {"name": "sgd", "momentum": 0.5, "nesterov": False}
    assert tables == {
        "plain": plain,
        "with": plain | {"rescale": "filter", "rescale_every": 2},
        "every step": plain | {"rescale": "filter"},
    }


MLP = {"problem": {"name": "mlp", "hidden": [8]}}
OF_REPLICAS = {"name": "sgd", "rescale": "layer", "rescale_every": -1}
BOSS = {"topology": None, "algorithm": None, "assistant": {"name": "logistic"}}
NODES = {"topology": None, "algorithm": None, "dataflow": {"workers": 2}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (MLP, "optimizer.rescale = 'filter' needs a weight whose output goes into a batch norm"),
        (of_user("nothing_before"), "needs a weight whose output goes into a batch norm"),
        ({"problem": {"name": "quadratic", "dimension": 3}}, "'filter' is for models with batch norm"),
        ({"optimizer": {"rescale": "channel"}}, "optimizer.rescale = 'channel' should be 'layer' or 'filter'"),
        ({"optimizer": {"rescale_every": 0}}, "optimizer.rescale_every = 0 must be a whole number of steps"),
        ({"optimizer": {"name": "sgd", "rescale_every": 3}}, 'nothing is rescaled; add optimizer.rescale = "layer"'),
        ({"optimizer": {"name": "nlcg", "rescale": "layer"}}, "NLCG has one for the whole model"),
        ({"optimizer": {"name": "seboost", "rescale": "layer"}}, "SEBOOST keeps earlier ones"),
        ({"optimizer": {"name": "seboost", "base": {"name": "sgd", "rescale": "layer"}}}, "leave rescale out"),
        ({"optimizer": {"name": "torch.optim:Adamax", "rescale": "layer"}}, "torch.optim:Adamax has one for the whole"),
        ({**BOSS, "problem": {"name": "resnet", "depth": 8, "data": "digits"}}, "a Boss leaves its own as they are"),
        ({"algorithm": {"name": "relay-sgd"}, "topology": {"name": "path", "workers": 3}}, "RelaySGD keeps earlier"),
        ({"train": {"compile": True}}, "or do without [optimizer]"),
        ({"algorithm": {"name": "ad-psgd"}, **MLP}, "needs a weight whose output goes into a batch norm"),
        ({"topology": None, "algorithm": None, **CUT, **MLP}, "needs a weight whose output goes into a batch norm"),
        ({"topology": None, "algorithm": None, **CUT, "program": {"name": "stale-pipeline", "correction": "nesterov"}},
         "use another correction"),
        ({**NODES, **MLP}, "networks of nodes have none"),
        ({"phases": {"replicas": {"rounds": 2, "batch_size": 8, "lr": 0.1, "optimizer": OF_REPLICAS}}},
         "phases.replicas.optimizer.rescale_every = -1 must be"),
    ],
)  # fmt: skip
def test_refusals(home, change, words):
    said = decentral("run", write(home / "x.toml", **change), "--out", "out")
    assert (said.code, words in said.err.replace("\n", " "), len(said.err) < 300) == (2, True, True), said.err
    assert not (home / "out").exists()


def test_any_torch_optimizer_by_its_path_is_rescaled(home):
    change = {
        "optimizer": {"name": "torch.optim:SGD", "momentum": 0.5, "rescale": "filter", "rescale_every": 2}
    }
    found = run(write(home / "x.toml", train={"weight_decay": 0.0}, **change), home / "path")
    ours = run(write(home / "y.toml", train={"weight_decay": 0.0}), home / "named")
    assert float(found[-1]["test_loss"]) == pytest.approx(float(ours[-1]["test_loss"]), rel=1e-9)
    (path,) = (home / "path" / "runs").glob("*/config.toml")
    options = tomllib.loads(path.read_text())["optimizer"]
    assert (options["rescale"], options["rescale_every"]) == ("filter", 2)


@pytest.mark.mpi
def test_two_ranks_have_the_bits_of_one(tmp_path):
    file = write(tmp_path / "x.toml", topology={"name": "ring", "workers": 4})
    for ranks in (1, 2):
        done = launch("run", file, "--out", tmp_path / f"on{ranks}", ranks=ranks)
        assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "on1") == seen(tmp_path / "on2")
