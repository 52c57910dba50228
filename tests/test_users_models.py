"""A user's model does in a run what it does in plain torch, or is refused in one line before anything is written."""

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import users_models
from command import but_wall_time, decentral, metrics, write
from test_resume import die, dying, same_results  # noqa: F401
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.problems import Module
from decentral.problems.data.batches import EpochBatches
from decentral.problems.models.conversion import converted
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.problems.models.observed import observed
from decentral.problems.models.worker_state import BufferRows, stacked_buffers, standing_for

pytestmark = pytest.mark.usefixtures("home")

TRAIN = {"lr": 0.1, "rounds": 4, "batch_size": 8, "record_every": 2, "dtype": "float64", "eval_samples": 50}


def change(model, **more):
    problem = {"name": "module", "factory": f"users_models:{model}", "data": "digits"}
    return {"problem": problem, **more, "train": TRAIN | more.get("train", {})}


def run(model, out="out", **more):
    """The rows of a run of that model, and what its environment.json says."""
    said = decentral("run", write(Path(f"{out}.toml"), **change(model, **more)), "--out", out)
    assert said.code == 0, said.err
    ((name, rows),) = metrics(Path(out)).items()
    return but_wall_time(rows), json.loads((Path(out) / "runs" / name / "environment.json").read_text())


def by_hand(model, workers=4):
    """Test loss of the averaged model after TRAIN on a ring by DSGD: a torch module a worker, torch's SGD, then W."""
    problem = Module(factory=f"users_models:{model}", data="digits")
    made = [problem.made(workers, 0) for _ in range(workers + 1)]
    data, shards = made[0].dataset, made[0].shards
    x, y = data.train_x.double(), data.train_y
    draws = EpochBatches([len(s) for s in shards], list(range(workers)), TRAIN["batch_size"], 0)
    *models, mean = [m.module.double().train() for m in made]
    steps = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1) for m in models]
    for t in range(TRAIN["rounds"]):
        for i, (m, step) in enumerate(zip(models, steps, strict=True)):
            some = torch.from_numpy(shards[i][draws.at(t)[i]])
            step.zero_grad()
            cross_entropy(m(x[some]), y[some]).backward()
            step.step()
        with torch.no_grad():
            for ps in zip(*(m.parameters() for m in models), strict=True):
                old = [p.clone() for p in ps]
                for i, p in enumerate(ps):
                    p.copy_((old[i] + old[i - 1] + old[(i + 1) % workers]) / 3)
    with torch.no_grad():
        for q, *ps in zip(mean.parameters(), *(m.parameters() for m in models), strict=True):
            q.copy_(sum(ps) / workers)
        for q, *bs in zip(mean.buffers(), *(m.buffers() for m in models), strict=True):
            if q.layout is torch.strided and 0 not in q.stride():
                q.copy_(sum(bs) / workers if q.is_floating_point() else bs[0])
        return float(cross_entropy(mean.eval()(data.test_x.double()), data.test_y))


ALIKE = {  # name -> the oracle that is right for four workers
    "plain": "batched", "warm": "loop", "centre": "loop", "twice": "batched", "adjacent": "loop", "tied": "loop",
    "words": "loop", "frozen": "batched", "doubled": "loop", "spectral": "loop", "spectral_old": "loop",
    "normed": "loop", "cumulative": "loop", "branch": "loop", "masked": "loop", "added": "loop", "square": "loop",
    "saved": "loop", "locked": "batched",
}  # fmt: skip


@pytest.mark.parametrize("model", ALIKE)
def test_a_users_model_trains_as_in_plain_torch(model):
    rows, environment = run(model)
    assert environment["oracle"] == ALIKE[model]
    assert float(rows[-1]["test_loss"]) == pytest.approx(by_hand(model), rel=1e-9)
    looped = [note for note in environment["notes"] if note.endswith("so gradients are looped, not batched")]
    assert len(looped) == (ALIKE[model] == "loop" and model != "words")  # that one's loop is faster anyway


def test_a_wish_for_what_vmap_cannot_do_is_a_note():
    rows, environment = run("masked", train={"oracle": "batched"})
    assert environment["oracle"] == "loop"
    assert "so gradients are looped" in environment["notes"][0]
    assert rows == run("masked", "other", train={"oracle": "loop"})[0]


def test_padding_does_not_enter_the_statistics_of_full_batches():
    _, environment = run("untracked", topology={"workers": 5}, train={"batch_size": "full", "rounds": 2})
    assert environment["oracle"] == "loop"  # 287 and 288 samples
    assert (
        run("plain", "other", topology={"workers": 5}, train={"batch_size": "full"})[1]["oracle"] == "batched"
    )


DRAW = ("dropout", "always", "noise", "depth", "mixed")


@pytest.mark.parametrize("model", DRAW)
def test_what_a_model_draws_has_a_stream_of_its_own(model):
    found = []
    for number in (1, 2):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        found.append(run(model, f"out{number}")[0])
        assert (torch.rand(1), np.random.rand(), random.random()) == _drawn(number)  # they were left alone
    assert found[0] == found[1]
    assert found[0] != run("plain", "plain")[0]


def _drawn(number):
    generator = torch.Generator().manual_seed(number)
    return (
        torch.rand(1, generator=generator),
        np.random.RandomState(number).rand(),
        random.Random(number).random(),
    )


def test_a_function_draws_what_the_module_draws_and_seeds_and_workers_draw_apart():
    assert run("dropout")[0] == run("dropout_module", "module")[0]
    generators = Generators(["torch"])
    with generators.kept():
        seen = set()
        for seed, worker, t in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
            generators.seed(seed, "model", worker, t)
            seen.add(float(torch.rand(())))
    assert len(seen) == 4


def test_a_model_that_draws_only_later_draws_from_its_stream():
    rows, environment = run("later", train={"rounds": 8})
    assert "attribute '2.passes'" in environment["notes"][-1]
    torch.manual_seed(5)
    assert rows == run("later", "again", train={"rounds": 8})[0]


@pytest.mark.parametrize("model", ["mixed", "warm"])
def test_a_killed_run_goes_on_to_the_same_bits(model, dying, tmp_path):  # noqa: F811
    file = write(Path("x.toml"), **change(model, train={"checkpoint_every": 1, "record_every": 1}))
    assert decentral("run", file, "--out", "whole").code == 0
    die(dying, 3, file, "--out", "out")
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    same_results(tmp_path / "whole", tmp_path / "out")


def test_asynchronous_workers_draw_alike_each_time():
    algorithm = {"name": "ad-psgd"}
    rows, _ = run("mixed", algorithm=algorithm)
    np.random.seed(7)
    assert rows == run("mixed", "again", algorithm=algorithm)[0]


STAGES = {"stages": {"count": 2}, "program": {"name": "backprop"}}


def test_stages_draw_alike_each_time_and_the_first_as_rounds_do():
    rows, _ = run("mixed", **STAGES)
    np.random.seed(7)
    assert rows == run("mixed", "again", **STAGES)[0]
    rounds, _ = run("dropout", "rounds")
    stages, _ = run("dropout", "stages", stages={"count": 1}, program={"name": "backprop"})
    for one, other in zip(rounds[1:], stages[-2:], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-12)


@pytest.mark.parametrize("model", ["warm", "frozen", "cumulative"])
def test_stages_of_a_users_model_train_as_its_rounds(model):
    rounds, _ = run(model)
    stages, _ = run(model, "stages", stages={"count": 1}, program={"name": "backprop"})
    assert float(stages[-1]["test_loss"]) == pytest.approx(float(rounds[-1]["test_loss"]), rel=1e-12)


@pytest.mark.mpi
def test_ranks_draw_as_one_process_does(tmp_path):
    shutil.copy(users_models.__file__, tmp_path)
    here = {name: run("mixed", name, topology={"workers": 2}, **kind)[0] for name, kind in KINDS.items()}
    said = ranks.run_ranks(2, "-c", ALL, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for name, rows in here.items():
        ((_, others),) = metrics(tmp_path / f"{name}-2").items()
        for one, other in zip(rows, others, strict=True):
            assert [one[key] for key in SAME] == [other[key] for key in SAME]


KINDS = {"rounds": {}, "stages": STAGES}
SAME = ("train_loss", "test_loss", "test_accuracy_worker_mean", "consensus_sq")
ALL = """
from pathlib import Path
import decentral.runs.run as command
command._show = lambda folder: None
for name in ("rounds", "stages"):
    assert command.run(Path(name + ".toml"), (), Path(name + "-2"), False) == 0
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("scaled", "keeps state outside its buffers"),
        ("own", "has a generator of its own"),
        ("unseeded", "two evaluation passes"),
        ("appears", r"buffer '2\.kept' appears, goes, or changes"),
        ("grows", r"buffer '2\.kept' appears, goes, or changes"),
        ("melts", r"buffer '2\.kept' appears, goes, or changes"),
        ("rotated", "'phase' is torch.complex64"),
        ("spread", "'spread' is expanded"),
        ("overlapping", "'a' and 'b' share memory"),
        ("viewed", r"buffer 'rows' shares memory with parameter '1\.weight'"),
        ("lazy", r"'more\.weight' has no shape yet"),
        ("still", "nothing to train"),
        ("pair", r"gave tuple; it must give \(8, 10\)"),
        ("infinite", "not finite"),
        ("forgetful", "gives other results"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_written(model, message):
    refused(message, model)


@pytest.mark.parametrize(
    ("model", "message", "more"),
    [
        ("norm", "Expected more than 1 value.*raise train.batch_size", {"train": {"batch_size": 1}}),
        ("constant", "same dtype", {"train": {"dtype": "float32"}}),
        ("tied", "cannot be cut", STAGES),
        ("doubled", "has hooks", STAGES),
        ("locked", "cannot be copied", STAGES),
    ],
)
def test_so_is_what_cannot_be_right_in_this_run(model, message, more):
    refused(message, model, **more)


def refused(message, model, **more):
    said = decentral("run", write(Path("x.toml"), **change(model, **more)), "--out", "out")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    assert len(said.err) < 300
    assert re.search(message, said.err), said.err
    assert not Path("out").exists()


def test_a_parameter_of_two_stages_is_refused_and_of_one_is_not():
    from decentral.errors import UserError
    from decentral.stages.cut import check_ties
    from decentral.stages.layers import Network

    a, b, head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    b.weight = a.weight
    check_ties(Network((a, b), head), [range(2)])
    with pytest.raises(
        UserError, match="'weight' of layer 1 is tied to a parameter of stage 0, and would be of stage 1"
    ):
        check_ties(Network((a, b), head), [range(1), range(1, 2)])


def test_a_pass_tells_what_it_draws_from_and_what_it_leaves():
    x = torch.ones(3, 16)
    for function, draws in (
        (lambda m, x: functional_noise(x), {"torch"}),
        (lambda m, x: x * random.random(), {"random"}),
        (lambda m, x: x * np.random.rand() + torch.rand(1), {"torch", "numpy"}),
        (lambda m, x: x, set()),
    ):
        layer = nn.Sequential(nn.Linear(16, 2), users_models.Of(function))
        with Generators(GENERATORS).kept():
            assert observed(layer, lambda m: m(x).sum()).draws == draws
    kept = nn.Sequential(nn.Linear(16, 16), users_models.Warm())
    found = observed(kept, lambda m: m(x).sum())
    assert (int(found.before["1.seen"]), int(found.buffers["1.seen"]), found.misshapen) == (0, 1, [])
    torch.testing.assert_close(
        found.gradients["0.bias"], torch.full((16,), 3 / 4)
    )  # seen = 1 of 4, 3 samples
    assert kept[0].bias.grad is None


def functional_noise(x):
    return x + torch.randn_like(x)


def test_buffers_go_to_the_workers_row_whether_written_or_assigned():
    module = nn.Sequential(users_models.Warm(), nn.BatchNorm1d(16)).train()
    rows = stacked_buffers(module, 3)
    of_rows = BufferRows(module, rows)
    x = torch.randn(5, 16)
    for row in (2, 0, 2):
        of_rows.lend(row)
        module(x)
        of_rows.take_back()
    assert rows["0.seen"].tolist() == [1, 0, 2]
    assert rows["1.num_batches_tracked"].tolist() == [1, 0, 2]
    torch.testing.assert_close(rows["1.running_mean"][0], 0.1 * x.mean(0) / 4)


def test_a_module_stands_for_a_worker_and_is_as_before_afterwards():
    module = users_models.Tied().eval()
    x, before = torch.randn(2, 64), {name: p.clone() for name, p in module.named_parameters()}
    others = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    fresh = users_models.Tied().eval()
    fresh.load_state_dict(others | {"b.weight": others["a.weight"]})
    with torch.no_grad(), standing_for(module, others, {}):
        torch.testing.assert_close(module(x), fresh(x))  # a list's alias of a parameter stands for it too
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize(
    ("dtype", "complex_"), [(torch.float64, torch.complex128), (torch.float32, torch.complex64)]
)
def test_conversion_keeps_integers_and_imaginary_parts(dtype, complex_):
    module = nn.Linear(2, 2).half()
    module.register_buffer("count", torch.tensor(2**40 + 1))
    module.register_buffer("on", torch.tensor([True, False]))
    module.register_buffer("phase", torch.tensor([1 + 2j]))
    converted(module, torch.device("cpu"), dtype)
    assert (module.weight.dtype, module.phase.dtype, module.phase.item()) == (dtype, complex_, 1 + 2j)
    assert (module.count.item(), module.on.tolist()) == (2**40 + 1, [True, False])
