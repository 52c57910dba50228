"""What cannot work is refused before work starts: one line, exit code 2, no traceback, nothing written."""

import gzip
import sys

import networkx as nx
import numpy as np
import pytest
import tomli_w
import torch
from command import decentral, experiment, metrics, read_csv, write
from scipy.optimize import brentq
from torch.nn.functional import cross_entropy

import topologies
from decentral.algorithms import DSGD, DecentLaM, DmSGD, PmSGD
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.problems.classification import LogisticRegression
from decentral.problems.optimum import logistic_optimum
from decentral.problems.quadratic import Quadratic
from decentral.rounds.trials.stability import (
    amplification,
    growth_of_schedule,
    growth_on_quadratics,
    refuse_unstable,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder to stand in, and no data root from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    return tmp_path


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(home, *args):
    """What the command said, in the one line of a refusal that left everything as it was."""
    before = files(home)
    said = decentral(*args)
    assert said.code == 2, said.err
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("decentral: ")
    assert "Traceback" not in said.err
    assert files(home) == before
    return said.err


def run(home, **changes):
    """The refusal of the small experiment with these changes."""
    return refused(home, "run", write(home / "x.toml", **changes), "--out", "out")


def the_set(home, *overrides):
    """The refusal of the small experiment with ``--set`` of these."""
    sets = [word for text in overrides for word in ("--set", text)]
    return refused(home, "run", write(home / "x.toml"), "--out", "out", *sets)


SET = {
    "unknown key": ("train.lrr=1", "unknown key train.lrr; did you mean 'lr'?"),
    "unknown section": ("trian.lr=1", "unknown key trian; did you mean 'train'?"),
    "unknown key of a method": (
        "algorithm.momentun=0.9",
        "unknown key algorithm.momentun of dsgd; valid: variant",
    ),
    "unknown key of a graph": (
        "topology.degree=3",
        "unknown key topology.degree of ring; it takes no further keys",
    ),
    "unknown key of a sweep": ("sweep.tran.lr=[1]", "unknown key sweep.tran; did you mean 'train'?"),
    "unknown key in a sweep": ("sweep.train.lrr=[1]", "unknown key train.lrr"),
    "unknown algorithm": ("algorithm.name=decentlm", "'decentlm' is not known; did you mean 'decentlam'?"),
    "unknown topology": ("topology.name=rings", "'rings' is not known; did you mean 'ring'?"),
    "unknown problem": ("problem.name=logistic-regresion", "did you mean 'logistic-regression'?"),
    "unknown schedule": ("schedule.name=cosin", "did you mean 'cosine'?"),
    "unknown weights": ("topology.weights=metro", "unknown weights 'metro'; use one of metropolis"),
    "weights of a schedule": ("topology={name='one-peer-exponential', weights='lazy'}", "weights of its own"),
    "text for a number": ("train.lr=abc", "train.lr = 'abc' should be a valid number"),
    "true for a number": ("train.lr=true", "train.lr = True should be a valid number"),
    "list for a number": ("train.lr=[0.1]", "train.lr = [0.1] should be a valid number"),
    "fraction for a count": ("train.rounds=1.5", "train.rounds = 1.5 should be a valid integer"),
    "number for a table": ("train=3", "train = 3 should be a table; write [train]"),
    "text for a table": ("topology=ring", "topology = 'ring' should be a table; write [topology]"),
    "text for a switch": ("algorithm.allow_unstable=yes", "'yes' should be true or false"),
    "number for a name": ("name=3", "name = 3 should be a text"),
    "path for a name": ("name=../x", "name = '../x' should be a text that can name a folder"),
    "no such dtype": ("train.dtype=float16", "'float16' should be 'float32' or 'float64'"),
    "no such device": ("train.device=tpu", "'tpu' should be 'cpu', 'cuda' or 'auto'"),
    "no such batch": ("train.batch_size=half", "'half' should be a valid integer or 'full'"),
    "no such variant": ("algorithm.variant=cta", "algorithm.variant = 'cta' should be 'atc' or 'awc'"),
    "no equals sign": ("train.lr", "--set 'train.lr' should be KEY=VALUE"),
    "no key": ("=3", "--set '=3' should be KEY=VALUE"),
    "key of a value": ("train.lr.x=3", "train.lr.x cannot be set: lr = 0.1 is no table"),
    "lr 0": ("train.lr=0", "train.lr = 0.0 must be positive"),
    "lr negative": ("train.lr=-0.1", "train.lr = -0.1 must be positive"),
    "lr nan": ("train.lr=nan", "train.lr = nan must be positive and finite"),
    "lr inf": ("train.lr=inf", "train.lr = inf must be positive and finite"),
    "lr too large to write": ("train.lr=1e999", "train.lr = inf must be positive and finite"),
    "lr of a sweep": ("sweep.train.lr=[0.1, 0]", "train.lr = 0.0 must be positive"),
    "batch 0": ("train.batch_size=0", "train.batch_size = 0 must be positive"),
    "batch negative": ("train.batch_size=-8", "train.batch_size = -8 must be positive"),
    "batch nan": ("train.batch_size=nan", "train.batch_size = nan should be a valid integer or 'full'"),
    "rounds 0": ("train.rounds=0", "train.rounds = 0 must be positive"),
    "records every 0 rounds": ("train.record_every=0", "train.record_every = 0 must be positive"),
    "checkpoints every 0 rounds": ("train.checkpoint_every=0", "train.checkpoint_every = 0 must be positive"),
    "negative decay": (
        "train.weight_decay=-1e-4",
        "train.weight_decay = -0.0001 must be finite and not negative",
    ),
    "infinite decay": ("train.weight_decay=inf", "train.weight_decay = inf must be finite"),
    "workers 0": ("topology.workers=0", "topology.workers = 0 should be an integer of at least 1"),
    "workers 2.0": ("topology.workers=2.0", "topology.workers = 2.0 should be an integer"),
    "no seeds": ("seeds=[]", "seeds = [] should be a list of different integers"),
    "one seed twice": ("seeds=[1, 2, 1]", "seeds = [1, 2, 1] should be a list of different integers"),
    "a seed that is no list": ("seeds=3", "seeds = 3 should be a list of different integers"),
    "a sweep of one value": ("sweep.train.lr=0.1", "sweep.train.lr = 0.1 should be a non-empty list"),
    "a sweep of nothing": ("sweep.train.lr=[]", "sweep.train.lr = [] should be a non-empty list"),
    "a sweep twice over one value": ("sweep.train.lr=[0.1, 0.1]", "holds a value twice"),
    "a warm-up of less than nothing": (
        "schedule.warmup_rounds=-1",
        "warmup_rounds = -1 must not be negative",
    ),
    "a size the graph cannot have": (
        "topology={name='hypercube', workers=6}",
        "power of two workers (n = 6)",
    ),
    "noise nan": ("problem.noise=nan", "noise = nan must not be negative"),
    "an empty model": ("problem.dimension=0", "dimension = 0 must be positive"),
    "a figure of nothing": ("figure=[{y='bias'}]", "did you mean 'bias_sq'?"),
}


@pytest.mark.parametrize("case", SET)
def test_a_wrong_key_or_value_is_refused_with_its_name_and_the_rule(home, case):
    override, complaint = SET[case]
    assert complaint in the_set(home, override)


@pytest.mark.parametrize("method", ["pmsgd", "dmsgd", "decentlam"])
@pytest.mark.parametrize("momentum", [1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_momentum_outside_0_to_1_is_refused(home, method, momentum):
    said = run(home, algorithm={"name": method, "momentum": momentum})
    assert f"momentum = {momentum} must be in [0, 1)" in said


def test_schedules_that_end_nowhere_are_refused(home):
    assert "factor = inf must be positive and finite" in the_set(home, "schedule={name='step', factor=inf}")
    assert "milestones = [0.5, 2.0]" in the_set(home, "schedule={name='step', milestones=[0.5, 2.0]}")
    assert "final = 1.5 must be in [0, 1]" in the_set(home, "schedule={name='cosine', final=1.5}")


def test_a_missing_or_broken_file_is_refused(home):
    assert "x.toml does not exist; give the path of an experiment file" in refused(home, "run", "x.toml")
    (home / "x.toml").write_text("[train\nlr = 1")
    assert "x.toml is not valid TOML" in refused(home, "run", "x.toml")
    (home / "x.toml").write_bytes(b"\xff\xfe\x00")
    assert "x.toml cannot be read" in refused(home, "run", "x.toml")
    (home / "x.toml").write_text("")
    assert "missing key problem.name; valid: basic-deduction, cnn" in refused(home, "run", "x.toml")
    assert "cannot be read" in refused(home, "run", home)


def test_missing_sections_and_keys_are_named(home):
    for section in ("problem", "topology", "algorithm"):
        table = experiment()
        del table[section]
        (home / "x.toml").write_text(tomli_w.dumps(table))
        assert f"missing key {section}.name; valid: " in refused(home, "run", "x.toml")
    (home / "x.toml").write_text(tomli_w.dumps(experiment() | {"train": {"rounds": 3}}))
    assert "missing key train.lr; add it to [train]" in refused(home, "run", "x.toml")


def test_mistakes_in_the_command_are_one_line_too(home):
    assert "No such command 'runn'. Did you mean 'run'?" in refused(home, "runn")
    assert "No such option '--sett'. Did you mean '--set'?" in refused(home, "run", "x.toml", "--sett", "a=1")
    assert "Missing argument 'FILE.toml'" in refused(home, "run")
    assert "'abc' is not a valid integer" in refused(home, "topology", "ring", "-n", "abc")
    assert "there is no list of 'algorithm'; did you mean 'algorithms'?" in refused(home, "list", "algorithm")


GRAPHS = {
    "two parts": ("0 1\n2 3\n", "the graph is not connected: workers 0 and 2 cannot both reach each other"),
    "an edge twice": ("0 1\n1 2\n1 0\n", "some edges are there twice"),
    "no edge list": ("0 1 2 3 4\n", "line 1 is '0 1 2 3 4'"),
    "empty": ("", "the graph has no nodes"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_file_that_is_no_connected_graph_is_refused(home, case):
    text, complaint = GRAPHS[case]
    (home / "g.edgelist").write_text(text)
    assert complaint in run(home, topology={"name": "file", "path": "g.edgelist"})


def test_a_one_way_graph_that_some_worker_cannot_leave_is_refused(home):
    (home / "g.edgelist").write_text("0 1\n1 2\n")
    topology = {"name": "file", "path": "g.edgelist", "directed": True, "weights": "uniform"}
    assert "not connected" in run(home, topology=topology)


def test_a_graph_file_that_is_not_there_is_refused(home):
    assert "g.graphml: no such file; expected GraphML" in run(
        home, topology={"name": "file", "path": "g.graphml"}
    )
    assert "missing key topology.path" in run(home, topology={"name": "file"})


RING = np.array([[0.5, 0.25, 0, 0.25], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0.25, 0, 0.25, 0.5]])
MATRICES = {
    "rows that sum to 1.2": (
        RING + 0.2 * np.eye(4),
        "row 0 of the mixing matrix sums to 1.2; every row must",
    ),
    "an edge too many": (RING + np.outer([1, 0, 0, 0], [-0.1, 0, 0.1, 0]), "the graph has no edge 2 -> 0"),
    "not a number": (np.where(np.eye(4) > 0, np.nan, RING), "holds a number that is not finite"),
    "three workers": (np.full((3, 3), 1 / 3), "the mixing matrix has 3 workers but the graph has 4"),
    "no square": (np.ones((4, 3)) / 3, "the mixing matrix is 4 x 3; it must be square"),
    "nobody speaks": (np.eye(4), "the graph is not connected"),
}


@pytest.mark.parametrize("unstable", [False, True])
@pytest.mark.parametrize("case", MATRICES)
def test_a_matrix_that_does_not_mix_is_refused(home, case, unstable):
    matrix, complaint = MATRICES[case]
    np.save(home / "w.npy", matrix)
    changes = {"topology": {"weights": "w.npy"}, "algorithm": {"allow_unstable": unstable}}
    assert complaint in run(home, **changes)


def test_a_matrix_that_drives_workers_apart_is_refused(home):
    np.save(home / "w.npy", 2 * np.eye(4) - RING)  # its rows sum to one
    assert "differences between workers grow by 2 a round" in run(home, topology={"weights": "w.npy"})


def test_a_matrix_file_that_is_not_there_or_cut_short_is_refused(home):
    assert "w.npy: no such file" in run(home, topology={"weights": "w.npy"})
    np.save(home / "w.npy", RING)
    (home / "w.npy").write_bytes((home / "w.npy").read_bytes()[:-8])
    assert "w.npy" in run(home, topology={"weights": "w.npy"})


def test_more_workers_than_samples_are_refused(home):
    said = run(home, problem={"name": "mlp"}, topology={"workers": 1438})
    assert "partition over 1438 workers needs from 1 to 1437" in said


def test_a_batch_larger_than_a_workers_samples_is_refused_where_it_would_repeat_them(home):
    said = run(home, problem={"name": "linear-regression", "samples": 5})
    assert "train.batch_size = 32 exceeds problem.samples = 5" in said


def test_a_missing_data_root_is_refused_with_where_to_get_the_files(home):
    assert "set DECENTRAL_DATA" in run(home, problem={"name": "mlp", "data": "mnist"})
    assert "nowhere is no folder" in run(home, problem={"name": "mlp", "data": "a9a", "data_root": "nowhere"})
    said = run(home, problem={"name": "resnet20", "data_root": str(home)})
    assert "no file data_batch_1.bin" in said
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in said


def test_truncated_data_files_are_refused(home):
    folder = home / "data" / "mnist"
    folder.mkdir(parents=True)
    whole = gzip.compress(b"\x00\x00\x08\x03" + np.array([2, 28, 28], ">u4").tobytes() + bytes(2 * 28 * 28))
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (folder / f"{name}.gz").write_bytes(whole[: len(whole) // 2])
    problem = {"name": "mlp", "data": "mnist", "data_root": "data"}
    assert "train-images-idx3-ubyte.gz: cannot read it to its end" in run(home, problem=problem)
    cut = gzip.decompress(whole)[:-1]
    (folder / "train-images-idx3-ubyte.gz").write_bytes(cut)  # found by its first bytes to be plain
    assert "expected 1584 bytes (uncompressed) for shape (2, 28, 28), found 1583" in run(
        home, problem=problem
    )


def test_a_model_that_is_not_there_is_refused(home):
    assert "problem.factory is missing" in run(home, problem={"name": "module"})
    assert "No module named 'no_such'" in run(home, problem={"name": "module", "factory": "no_such:make"})


@pytest.mark.parametrize("decay", [1e-320, 1e-11])
def test_an_optimum_that_cannot_be_found_is_refused_before_the_run(home, decay):
    problem = {"name": "logistic-regression", "optimum": True}
    assert f"train.weight_decay = {decay} is too small" in run(
        home, problem=problem, train={"weight_decay": decay}
    )


@pytest.mark.parametrize("decay", [1e-3, 1e-5, 1e-7])
def test_the_optimum_is_one_by_torch_s_gradient(decay):
    settings = LogisticRegression(data="digits", optimum=True)
    data, shards = settings.made(4, 0).dataset, settings.made(4, 0).shards
    x = logistic_optimum(data, shards, decay)[0].requires_grad_()
    inputs = data.train_x.double().flatten(1)
    weight, bias = x[: -data.classes].view(data.classes, -1), x[-data.classes :]
    losses = [cross_entropy(inputs[of] @ weight.T + bias, data.train_y[of]) for of in shards]
    (sum(losses) / len(shards) + decay / 2 * x @ x).backward()
    # strong convexity bounds the distance to the optimum by |gradient| / decay
    assert x.grad.norm() / decay < 1e-6 * x.detach().norm()


def test_an_optimum_that_is_not_unique_is_refused(home):
    said = run(home, problem={"name": "logistic-regression", "optimum": True})
    assert "problem.optimum = true needs train.weight_decay > 0" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none_is_refused_and_auto_takes_the_cpu(home, monkeypatch):
    assert 'train.device = "cuda" but this torch sees no GPU' in the_set(home, "train.device=cuda")
    from decentral.runs.place import device_of

    assert device_of("auto", 0) == torch.device("cpu")


def test_what_cannot_be_compiled_is_refused(home):
    changed = {"topology": {"name": "one-peer-exponential", "workers": 4}, "train": {"compile": True}}
    assert "train.compile = true needs one process and a graph that does not change" in run(home, **changed)


@pytest.mark.parametrize("name", ["local-sgd", "gossip-pga", "slowmo"])
def test_a_method_whose_rounds_differ_is_not_compiled(home, name):
    said = run(home, algorithm={"name": name}, train={"compile": True})
    assert "train.compile = true is for methods whose rounds are all alike" in said


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_is_taken_is_refused(home):
    file = write(home / "x.toml")
    assert decentral("run", file, "--out", "out").code == 0
    said = refused(home, "run", file, "--out", "out")
    assert "already holds this experiment (1 of 1 runs have ended); add --resume" in said
    for resume in ([], ["--resume"]):
        said = refused(home, "run", file, "--out", "out", "--set", "train.lr=0.2", *resume)
        assert "already holds another experiment" in said
    (home / "other").mkdir()
    (home / "other" / "notes.txt").touch()
    assert "holds other files and no experiment" in refused(home, "run", file, "--out", "other")
    assert "holds other files" in refused(home, "run", file, "--out", "other", "--resume")
    assert "notes.txt is a file" in refused(home, "run", file, "--out", "other/notes.txt")
    assert "notes.txt is a file" in refused(home, "run", file, "--out", "other/notes.txt/deeper")
    assert decentral("run", file, "--out", "other/deeper").code == 0


@pytest.mark.usefixtures("undrawn")
def test_the_folder_of_another_experiment_that_was_cut_short_is_refused(home, monkeypatch):
    monkeypatch.setattr("decentral.runs.run._one", lambda *_: sys.exit(9))
    (home / "out" / "runs" / "ring_seed-0_abc").mkdir(parents=True)
    (home / "out" / "experiment.toml").touch()
    assert "already holds another experiment (its run ring_seed-0_abc" in run(home)


DIRECTED = {"name": "exponential", "workers": 8}
ONE_PEER = {"name": "one-peer-exponential", "workers": 8}


@pytest.mark.parametrize(("topology", "growth"), [(DIRECTED, "1.237"), (ONE_PEER, "1.114")])
def test_decentlam_on_directed_or_changing_graphs_is_refused_with_the_reason(home, topology, growth):
    said = run(home, topology=topology, algorithm={"name": "decentlam"})
    assert f"differences between workers grow by {growth} a round" in said
    assert "nonsymmetric (directed)" in said or "varies with time" in said
    assert "--set algorithm.allow_unstable=true" in said


def judge(method, mixing):
    """Raises if the method is unstable on this mixing."""
    schedule = mixing if isinstance(mixing, topologies.Schedule) else topologies.constant(mixing)
    refuse_unstable(method, schedule, 0.1, None, 0, 0.0)


def test_decentlam_on_directed_or_changing_graphs_with_little_momentum_is_not_refused():
    judge(DecentLaM(0.5), topologies.mixing_matrix(topologies.exponential(8)))
    judge(DecentLaM(0.7), topologies.one_peer_exponential(8))
    judge(DecentLaM(0.9), topologies.one_peer_exponential(2))  # one round of two averages exactly


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("topology", [DIRECTED, ONE_PEER])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_divergence_that_was_allowed_is_detected_and_what_was_recorded_is_kept(home, topology, dtype):
    train = {"rounds": 2000, "record_every": 10, "dtype": dtype}
    file = write(home / "x.toml", topology=topology, algorithm={"name": "decentlam"}, train=train)
    said = decentral("run", file, "--out", "out", "--set", "algorithm.allow_unstable=true")
    assert said.code == 3
    (result,) = read_csv(home / "out" / "results.csv")
    assert result["status"] == "diverged"
    assert result["message"].startswith("round ")
    assert ", worker " in result["message"]
    assert result["message"] in said.err.replace("\n", " ")
    (rows,) = metrics(home / "out").values()
    rounds = [int(row["round"]) for row in rows]
    assert rounds == list(range(0, rounds[-1] + 1, 10))
    assert 20 < rounds[-1] < 2000
    assert rounds[-1] <= int(result["message"].split()[1].rstrip(",")) <= rounds[-1] + 10
    assert result["round"] == rows[-1]["round"]
    assert result["consensus_sq"] == rows[-1]["consensus_sq"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def growth(method, topology, step):
    """The largest growth apart from consensus on the modes of a static mixing."""
    values = topologies.eigenvalues(topologies.mixing_matrix(topology))
    return amplification(method, np.delete(values, abs(values - 1).argmin()), step).max()


def directed_ring(n):
    return nx.DiGraph((i, (i + 1) % n) for i in range(n))


def test_growths_are_those_of_the_fact_sheet():  # papers/decentralized.md 1.5: n = 8, beta = .9, lr a = 1e-3
    method = DecentLaM(0.9)
    assert round(growth(method, directed_ring(8), 1e-3), 3) == 1.365
    assert round(growth(method, topologies.exponential(8), 1e-3), 3) == 1.237
    assert abs(growth_of_schedule(method, topologies.one_peer_exponential(8)) - 1.113) < 1e-3
    for graph in (
        topologies.ring(8),
        topologies.symmetric_exponential(8),
        directed_ring(8),
        topologies.exponential(8),
    ):
        assert growth(DmSGD(0.9), graph, 1e-3) < 1
        assert growth(DmSGD(0.9, "doubly-averaged"), graph, 1e-3) < 1
    assert growth(method, topologies.ring(8), 1e-3) == pytest.approx(np.sqrt(0.9), rel=1e-9)
    assert growth_of_schedule(DmSGD(0.9), topologies.one_peer_exponential(8)) == pytest.approx(0.9, rel=1e-9)


def test_the_critical_momenta_of_decentlam_are_those_of_the_fact_sheet():  # to the .005 that it gives them to
    def critical(growth_at):
        return brentq(lambda beta: growth_at(DecentLaM(beta)) - 1, 0.05, 0.95)

    one_peer = topologies.one_peer_exponential(8)
    assert 0.25 < critical(lambda method: growth(method, directed_ring(8), 1e-3)) < 0.255
    assert 0.52 < critical(lambda method: growth(method, topologies.exponential(8), 1e-3)) < 0.525
    assert 0.705 < critical(lambda method: growth_of_schedule(method, one_peer)) < 0.71


def test_the_ellipse_of_stable_eigenvalues_is_that_of_the_fact_sheet():
    beta, rng = 0.6, np.random.default_rng(0)
    h = rng.uniform(-1.6, 1.2, 2000) + 1j * rng.uniform(-0.6, 0.6, 2000)
    size = ((h.real + beta) / (1 + beta)) ** 2 + (h.imag / (1 - beta)) ** 2
    clear = abs(size - 1) > 1e-6
    found = amplification(DecentLaM(beta), h, 0.0)  # at lr a = 0 the eigenvalue of W (I - lr A) is that of W
    assert np.array_equal(found[clear] < 1, size[clear] < 1)


@pytest.mark.parametrize(
    ("method", "eigenvalue", "limit"),
    [
        (DSGD(), 1.0, 2.0),
        (DSGD("awc"), -1 / 3, 2 / 3),  # 1 + lambda
        (PmSGD(0.9), 1.0, 3.8),  # 2 (1 + beta)
        (DecentLaM(0.9), 1.0, 3.8),
        (DmSGD(0.9), 1.0, 3.8),
        (DmSGD(0.9), 0.5, 5.7),  # (1 + lambda)(1 + beta) / lambda
        (DmSGD(0.9), -1 / 3, 0.4),  # (1 - lambda)(1 - beta) / |lambda|
    ],
)
def test_the_largest_stable_lr_times_curvature_is_that_of_the_fact_sheet(method, eigenvalue, limit):
    consensus = isinstance(method, PmSGD)
    assert amplification(method, eigenvalue, 0.999 * limit, consensus) < 1
    assert amplification(method, eigenvalue, 1.001 * limit, consensus) > 1


SHARED = {"curvature": "shared", "condition": 1.0}  # L = 1 in every direction, for every worker


@pytest.mark.usefixtures("undrawn")
def test_dmsgd_on_an_even_ring_is_refused_above_0_4_with_the_remedy(home):
    said = run(home, problem=SHARED, topology={"workers": 8}, algorithm={"name": "dmsgd"}, train={"lr": 0.41})
    assert "DmSGD diverges at lr * L = 0.41" in said
    assert "on the eigenvalue -0.3333 of W" in said
    assert "use topology.weights = lazy" in said
    for changes in ({"train.lr": 0.39}, {"topology.weights": "lazy"}, {"topology.workers": 7}):
        sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        assert decentral("run", "x.toml", "--out", f"out-{'-'.join(changes)}", *sets).code == 0


def test_the_whole_experiment_is_refused_where_one_of_its_last_runs_is_unstable(home):
    said = run(home, problem=SHARED, algorithm={"name": "pmsgd"}, sweep={"train": {"lr": [0.1, 0.2, 3.9]}})
    assert "PmSGD diverges at lr * L = 3.9" in said


def test_the_highest_lr_of_a_schedule_decides(home):
    changes = {"problem": SHARED, "algorithm": {"name": "pmsgd"}, "train": {"lr": 3.9, "rounds": 100}}
    assert "lr * L = 3.9" in run(home, schedule={"name": "cosine"}, **changes)
    changes["train"]["lr"] = 0.1
    rising = {"name": "step", "milestones": [0.9], "factor": 50.0}
    assert "lr * L = 5" in run(home, schedule=rising, **changes)


def test_weight_decay_counts_as_curvature(home):
    said = run(home, problem=SHARED, algorithm={"name": "pmsgd"}, train={"lr": 2.0, "weight_decay": 1.0})
    assert "PmSGD diverges at lr * L = 4" in said


def simulate(method, w, hessians, lr, rounds):
    """|x| after these rounds from a random start, over |x| at the start."""
    comm, H = LocalComm(w), torch.from_numpy(hessians)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(hessians.shape[:2]))
    before, state = x.norm().item(), method.init(x, comm)
    for t in range(rounds):
        x, state = method.step(x, state, (H @ x.unsqueeze(-1)).squeeze(-1), comm.at(t), lr)
    return x.norm().item() / before


@pytest.mark.usefixtures("undrawn")
def test_quadratics_that_are_stable_though_their_worst_mode_is_not_are_not_refused(home):
    method, problem, lr = DmSGD(0.9), Quadratic(dimension=3), 0.6
    w = topologies.mixing_matrix(topologies.ring(8))
    hessians = problem.linear_terms(8, 0)[0]
    assert amplification(method, -1 / 3, lr * problem.largest_curvature(8, 0)) > 1.01
    exact = growth_on_quadratics(method, w, hessians, lr)
    assert exact < 1
    assert simulate(method, w, hessians, lr, 2000) < 1e-3
    file = write(home / "x.toml", topology={"workers": 8}, algorithm={"name": "dmsgd"}, train={"lr": lr})
    assert decentral("run", file, "--out", "out").code == 0


@pytest.mark.parametrize("dimension", [3, 60])  # written out as a matrix; by Arnoldi
def test_growth_on_quadratics_is_that_of_a_simulation(dimension):
    method, lr = DmSGD(0.9), 0.9
    w = topologies.mixing_matrix(topologies.ring(8))
    hessians = Quadratic(dimension=dimension, curvature="shared").linear_terms(8, 0)[0]
    found = growth_on_quadratics(method, w, hessians, lr)
    early, late = (simulate(method, w, hessians, lr, rounds) for rounds in (400, 500))
    assert found > 1
    assert (late / early) ** (1 / 100) == pytest.approx(found, rel=1e-3)


def test_large_graphs_are_judged_too():
    for graph in (topologies.exponential(3000), topologies.exponential(1500)):  # circulant, by Fourier
        assert growth(DecentLaM(0.9), graph, 0.0) > 1.2
    assert growth_of_schedule(DecentLaM(0.9), topologies.one_peer_exponential(512)) > 1.1  # by Arnoldi
    assert growth_of_schedule(DmSGD(0.9), topologies.one_peer_exponential(512)) == pytest.approx(0.9)
    graph = directed_ring(1500)
    graph.add_edges_from((i, (7 * i + 3) % 1500) for i in range(0, 1500, 5) if (7 * i + 3 - i) % 1500)
    with pytest.raises(UserError, match="DecentLaM diverges on this mixing, which is nonsymmetric"):
        judge(DecentLaM(0.9), topologies.mixing_matrix(graph, "uniform"))
    judge(DmSGD(0.9), topologies.mixing_matrix(graph, "uniform"))
    judge(DecentLaM(0.9), topologies.mixing_matrix(topologies.torus(1600)))
