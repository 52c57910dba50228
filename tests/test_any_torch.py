"""Any torch optimizer by its path: each worker steps as a plain loop with one of its own, in every kind of run."""

import sys
import tomllib

import pytest
import torch
from command import decentral
from ranks import ROOT
from ranks import decentral as launch
from test_methods import gradients
from test_resume import die, dying, same_results  # noqa: F401
from test_rule_runs import KINDS, run, seen, write
from test_rules import DECAY, RING, SPANS, in_rounds, rates, start
from torch import nn

from decentral.algorithms import DSGD, DecentLaM
from decentral.comm import LocalComm
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.optimizers.forms import Forms, Row, taken_apart
from decentral.rounds import absence
from decentral.rounds.ruled import ruled

TORCH_S = {
    "Adafactor": {"eps": [1e-8, 1e-3]},
    "NAdam": {"decoupled_weight_decay": True},
    "RAdam": {},
    "RMSprop": {"momentum": 0.8, "centered": True},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "Adadelta": {},
    "Adamax": {"betas": [0.8, 0.95]},
    "ASGD": {"t0": 3.0},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "dampening": 0.5, "maximize": True},
    "AdamW": {"amsgrad": True, "foreach": True},
}
ALL = [
    *(("torch.optim:" + name, keys) for name, keys in TORCH_S.items()),
    ("users_optimizers:Rich", {"beta": 0.7}),
    ("users_optimizers:Counting", {}),
]
BY_NAME = pytest.mark.parametrize(("path", "keys"), ALL, ids=[path for path, _ in ALL])


def decay_of(path):
    return 0.0 if path.endswith("Rprop") else DECAY


class Plain:
    """A worker of a plain loop: parameters of its own, and the optimizer on them."""

    def __init__(self, path, keys, row):
        module, _, name = path.partition(":")
        kind = getattr(__import__(module, fromlist=[name]), name)
        keys = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
        decay = {} if path.endswith("Rprop") else {"weight_decay": DECAY}
        self.parameters = [nn.Parameter(view.clone()) for view in SPANS.views(row).values()]
        self.optimizer = kind(self.parameters, lr=rates(1)[0], **decay, **keys)

    def step(self, g, lr):
        for p, grad in zip(self.parameters, SPANS.views(g).values(), strict=True):
            p.grad = grad.clone()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    @property
    def row(self):
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def put(self, row):
        for p, view in zip(self.parameters, SPANS.views(row).values(), strict=True):
            p.data.copy_(view)


def looped(path, keys, x, g, comm):
    """x (h, d) after the plain loops of all workers, which mix after each step."""
    workers = [Plain(path, keys, row) for row in x]
    for lr, g_t in zip(rates(len(g)), g, strict=True):
        for worker, row in zip(workers, g_t, strict=True):
            worker.step(row, lr)
        for worker, row in zip(workers, comm.mix(torch.stack([w.row for w in workers])), strict=True):
            worker.put(row)
    return torch.stack([w.row for w in workers])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@BY_NAME
def test_workers_step_as_plain_loops_do(path, keys, dtype):
    g, x = gradients(4, 31, 14).to(dtype), start(4, 31, dtype)
    before = g.clone()
    found, _ = in_rounds(DSGD(), OPTIMIZERS[path](**keys), x, g, decay_of(path), layout=SPANS)
    assert torch.equal(found, looped(path, keys, x, g, LocalComm(RING)))
    assert torch.equal(g, before)


@BY_NAME
def test_a_method_that_does_more_with_a_gradient_is_given_the_step_over_lr(path, keys):
    g, x = gradients(4, 31, 6), start(4, 31)
    found, _ = in_rounds(DecentLaM(0.0), OPTIMIZERS[path](**keys), x, g, decay_of(path), layout=SPANS)
    # without momentum DecentLaM is W (x - lr d); d and lr d are rounded, twelve times in all, where |x| < 10
    torch.testing.assert_close(found, looped(path, keys, x, g, LocalComm(RING)), rtol=0, atol=1e-12)


def test_a_worker_that_is_away_has_the_optimizer_that_it_had():
    path, keys = "torch.optim:NAdam", {}
    g, x = gradients(3, 31, 8), start(3, 31)
    comm, rule = LocalComm(torch.eye(3).numpy(), check=False), OPTIMIZERS[path](**keys)
    comm.layout = SPANS
    method, _ = ruled(DSGD(), rule, DECAY)
    ours, workers = x.clone(), [Plain(path, keys, row) for row in x]
    state = method.init(ours, comm)
    for t, (lr, g_t) in enumerate(zip(rates(8), g, strict=True)):
        away = [1] if t in (0, 3, 4) else []
        still = absence.stand(away, ours, state, {})
        ours, state = method.step(ours, state, g_t, comm.at(t), lr)
        absence.put_back(still, ours, state, {})
        for k, worker in enumerate(workers):
            if k not in away:
                worker.step(g_t[k], lr)
    assert torch.equal(ours, torch.stack([w.row for w in workers]))


def test_built_it_is_torch_s_own():
    parameters = [nn.Parameter(torch.ones(2))]
    found = OPTIMIZERS["torch.optim:NAdam"](momentum_decay=0.1).build(parameters, 0.3, 0.2)
    assert type(found) is torch.optim.NAdam
    (group,) = found.param_groups
    assert (group["lr"], group["weight_decay"], group["momentum_decay"]) == (0.3, 0.2, 0.1)
    with pytest.raises(UserError, match=r"takes no weight decay; set train\.weight_decay = 0"):
        OPTIMIZERS["torch.optim:Rprop"]().build(parameters, 0.1, 0.5)
    assert "torch.optim:NAdam" not in list(OPTIMIZERS)


@pytest.mark.parametrize(
    "on_cpu", [True, False]
)  # where models are; what is on the host is numbers for a GPU
def test_bytes_are_read_as_they_were_written_whatever_lies_where(on_cpu):
    wide = torch.rand(2, dtype=torch.complex128)
    memories = [
        {"state": {0: {}}, "groups": [{}]},
        {"state": {0: {"k": 3, "on": True, "m": torch.rand(3, 2).T, "z": wide}}, "groups": []},
        {"state": {0: {"m": [torch.rand(4, dtype=torch.float64), None], "e": torch.zeros(0)}, "x": 0.1}, "groups": []},
    ]  # fmt: skip
    forms = Forms(on_cpu)
    for memory in memories:
        forms.learn(taken_apart(memory, [], "state"))
    tensors, numbers = forms.widths()
    assert (tensors == 16) is (not on_cpu)
    rows = torch.zeros(3, tensors, dtype=torch.uint8), torch.zeros(3, numbers, dtype=torch.uint8)
    row = Row(rows[0][1], rows[1][1])
    for memory in (*memories, *memories[::-1]):
        forms.write(row, memory)
        found: list = []
        expected: list = []
        assert taken_apart(forms.read(row), found, "state") == taken_apart(memory, expected, "state")
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        forms.write(row, forms.read(row))
    assert not any(part[k].any() for part in rows for k in (0, 2))


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_takes_it(home, kind):
    ours = run(write(home / "x.toml", kind, optimizer={"name": "adamw"}), home / "ours")
    file = write(home / "x.toml", kind, optimizer={"name": "torch.optim:AdamW", "betas": [0.9, 0.999]})
    assert run(file, home / "out") == ours
    (path,) = (home / "out" / "runs").glob("*/config.toml")
    table = tomllib.loads(path.read_text())["optimizer"]
    assert (table["name"], table["betas"], table["amsgrad"]) == ("torch.optim:AdamW", [0.9, 0.999], False)
    assert "weight_decay" not in table
    if kind == "rounds":
        assert run(path, home / "again") == ours


def test_a_run_goes_on_with_what_the_optimizer_remembered(home, dying):  # noqa: F811
    (home / "my_rule.py").write_text("from users_optimizers import Rich\nclass Mine(Rich): pass\n")
    more = {
        "train": {"checkpoint_every": 3},
        "sweep": {"optimizer.name": ["my_rule:Mine", "torch.optim:Adamax"]},
    }
    file = write(home / "x.toml", **more)
    assert decentral("run", file, "--out", home / "whole").code == 0
    die(dying, 3, file, "--out", home / "cut")
    said = decentral("run", file, "--out", home / "cut", "--resume")
    assert said.code == 0, said.err
    same_results(home / "whole", home / "cut")
    assert not any("over momentum" in path.read_text() for path in (home / "cut").rglob("environment.json"))


@pytest.mark.mpi
def test_two_ranks_have_the_bits_of_one_process(tmp_path):
    file = write(tmp_path / "x.toml", optimizer={"name": "users_optimizers:Rich"}, train={"oracle": "loop"})
    for ranks in (1, 2):
        done = launch(
            "run", file, "--out", tmp_path / f"on{ranks}", ranks=ranks, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"
        )
        assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "on1") == seen(tmp_path / "on2")


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"name": "no_such_module:X"}, "No module named 'no_such_module'; pip install the package that has it"),
        ({"name": "pytorch_optimizer:SOAP"}, "pip install 'decentral[optimizers]'"),
        ({"name": "torch.optim:Adafacto"}, "has no 'Adafacto'; did you mean 'Adafactor'?"),
        ({"name": "torch.optim:"}, "must be written 'module:Class', as in 'torch.optim:Adafactor'"),
        ({"name": "torch.nn:Linear"}, "is no subclass of torch.optim.Optimizer"),
        ({"name": "torch.optim:LBFGS"}, "needs a closure"),
        ({"name": "torch.optim:SparseAdam"}, "does not support dense gradients"),
        ({"name": "torch.optim:Muon"}, "Muon only supports 2D parameters"),
        ({"name": "torch.optim:Rprop"}, "takes no weight decay; set train.weight_decay = 0, not 0.01"),
        ({"name": "torch.optim:NAdam", "betaz": [0.9, 0.9]}, "unknown key optimizer.betaz of torch.optim:NAdam"),
        ({"name": "torch.optim:NAdam", "weight_decay": 0.1}, "unknown key optimizer.weight_decay"),
        ({"name": "torch.optim:NAdam", "eps": "small"}, "optimizer.eps = 'small' should be a valid number"),
        ({"name": "torch.optim:NAdam", "betas": [2.0, 0.9]}, "Invalid beta parameter at index 0: 2.0"),
        ({"name": "torch.optim:Adam", "capturable": True}, "a trial on parameters of shape (4, 3), (3,) raised"),
        ({"name": "torch.optim:Adam", "differentiable": True}, "a trial on parameters of shape (4, 3), (3,) raised"),
        ({"name": "users_optimizers:Hidden"}, "do not step as each does with one of its own"),
        ({"name": "users_optimizers:Based"}, "or the lr that it was constructed with"),
        ({"name": "users_optimizers:Drawing"}, "draws from torch's global generator"),
        ({"name": "users_optimizers:Keeping"}, "keeps a set in state[0]['past'], which cannot be saved"),
    ],
)  # fmt: skip
def test_refusals(home, monkeypatch, optimizer, words):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # as if it were not installed
    said = decentral("run", write(home / "x.toml", optimizer=optimizer), "--out", "out")
    text = said.err.removesuffix("\n")
    assert (said.code, words in text, len(text) < 300, "\n" in text) == (2, True, True, False), said.err
    assert not (home / "out").exists()


@pytest.mark.parametrize("kind", ["asynchronous", "stages", "gossip", "nodes"])
@pytest.mark.parametrize("name", ["Muon", "Rprop"])
def test_what_no_model_of_a_run_can_have_is_refused_before_it(home, kind, name):
    words = {"Muon": "Muon only supports 2D parameters", "Rprop": "takes no weight decay"}[name]
    said = decentral(
        "run", write(home / "x.toml", kind, optimizer={"name": f"torch.optim:{name}"}), "--out", "out"
    )
    assert (said.code, words in said.err, len(said.err) < 300) == (2, True, True), said.err
    assert not (home / "out").exists()


def test_what_begins_to_be_kept_later_than_any_trial_ends_the_run_with_its_name():
    rule, g, x = OPTIMIZERS["users_optimizers:Late"](), gradients(2, 31, 25), start(2, 31)
    with pytest.raises(UserError, match=r"Late': what it remembers has a part now.*'late'\] of shape \(3,\)"):
        in_rounds(DSGD(), rule, x, g, 0.0, mixing=torch.eye(2).numpy(), layout=SPANS)
