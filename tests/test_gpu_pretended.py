"""What runs on a CPU runs on a GPU, as far as it can be had without one: the same values, and no mixing of devices."""

import copy
import json

import pytest
import torch
from command import decentral, metrics, write
from pretended_gpu import pretended_gpu
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

import topologies
from benchmarks.gpu_cases import MLP, RING, cases
from benchmarks.gpu_runs import distance, merged, trained
from decentral.algorithms import ALGORITHMS
from decentral.comm import LocalComm
from decentral.problems.models.draws import Generators
from decentral.rounds.script.optimizer import Decentralized
from decentral.runs.rounds.checkpoint import KEYS

CASES = dict(cases())
SLOW = (
    "resnet",
    "stages groups",
    "basic-deduction",
    "matcha",
    "autowu",
    "block-admm",
    "problem rl",
    "keyword",
)


@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=pytest.mark.slow) if any(s in k for s in SLOW) else k for k in CASES]
)
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_a_gpu_trains_as_the_cpu_does(case):
    expected = trained(CASES[case], "cpu").rows
    with pretended_gpu() as gpu:
        found = trained(CASES[case], "cuda").rows
    assert gpu.moved["to cuda"] or case.startswith("nodes")
    assert distance(found, expected) == 0.0


MIXED = {
    "sum": lambda a, b: a + b,
    "in place": lambda a, b: b.add_(a),
    "into a number": lambda a, b: b.sum().add_(a[0]),
    "joined": lambda a, b: torch.cat([a, b]),
    "indices": lambda a, b: b[torch.arange(2, device="cuda")],
    "selected": lambda a, b: a.index_select(0, torch.arange(2)),
    "assigned": lambda a, b: a.lerp_(b, 0.5),
    "equal": lambda a, b: torch.equal(a, b),
    "stacked": lambda a, b: torch._foreach_add([a, a], [b, b]),
    "matrix": lambda a, b: a @ b,
    "random": lambda a, b: torch.randn(3, device="cuda", generator=torch.Generator()),
    "drawn": lambda a, b: a.bernoulli_(generator=torch.Generator()),
    "backward": lambda a, b: (a.requires_grad_() * a).backward(b),
    "batched": lambda a, b: vmap(lambda x, y: x * y)(a, b),
    "gradient": lambda a, b: vmap(grad_and_value(lambda x, y: x * y))(a, b),
    "made inside": lambda a, b: vmap(lambda x: x * torch.ones(3))(a),
}
CROSSED = {
    "numpy": lambda a: a.numpy(),
    "array": lambda a: a.__array__(),
    "a file": lambda a: torch.save(a, "/dev/null"),
}


@pytest.mark.parametrize("mix", MIXED)
def test_an_operation_of_two_devices_fails_on_the_pretended_gpu(mix):
    with pretended_gpu():
        a, b = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises(
            RuntimeError, match=r"Expected all tensors to be on the same device|for generator"
        ):
            MIXED[mix](a, b)


@pytest.mark.parametrize("way", CROSSED)
def test_a_tensor_that_crosses_unasked_fails_on_the_pretended_gpu(way):
    with pretended_gpu(), pytest.raises((TypeError, RuntimeError), match=r"Tensor.cpu\(\)|a file would hold"):
        CROSSED[way](torch.ones(3, device="cuda"))


def test_what_torch_allows_is_allowed_on_the_pretended_gpu():
    assert not torch.cuda.is_available()
    with pretended_gpu() as gpu:
        assert torch.cuda.is_available()
        a = torch.arange(3.0, device="cuda")
        here = [
            a * torch.tensor(2.0),
            a[torch.arange(2)],
            a.new_zeros(2),
            torch.zeros_like(a),
            a.double(),
            a[1:],
        ]
        here += [
            torch.tensor([1.0], device="cuda"),
            torch.ones(2).to(a),
            torch.ones(2).cuda(),
            a.numpy(force=True),
        ]
        assert all(x.is_cuda and x.device == a.device for x in here[:-1])
        there = [
            a.cpu(),
            a.to("cpu", torch.float64),
            torch.zeros(3).copy_(a),
            torch.empty_like(a, device="cpu"),
        ]
        assert not any(x.is_cuda for x in there)
        w = torch.ones(3, requires_grad=True)
        (w.cuda() * a).sum().backward()
        assert w.grad.tolist() == [0.0, 1.0, 2.0]
        assert not w.grad.is_cuda
        assert gpu.waits["aten::_local_scalar_dense"] == 0
        assert a.sum().item() == 3
        assert gpu.waits["aten::_local_scalar_dense"] == 1
    assert not torch.cuda.is_available()
    assert torch.zeros(1).device.type == "cpu"


def test_batched_gradients_of_the_pretended_gpu_are_the_gpus():
    module = nn.Linear(3, 2)

    def loss(p, x, y):
        assert x.is_cuda
        return cross_entropy(functional_call(module, p, (x,)), y)

    with pretended_gpu():
        module.cuda()
        stacked = {name: torch.stack([p.detach()] * 5) for name, p in module.named_parameters()}
        x, y = torch.randn(5, 4, 3, device="cuda"), torch.randint(2, (5, 4), device="cuda")
        g, losses = vmap(grad_and_value(loss))(stacked, x, y)
        assert losses.is_cuda
        assert all(part.is_cuda for part in g.values())


def test_the_generator_of_a_gpu_is_seeded_put_back_and_apart_from_the_cpus():
    with pretended_gpu():
        generators = Generators(["torch"], torch.device("cuda", 0))
        before = torch.cuda.get_rng_state(), torch.get_rng_state()
        with generators.kept():
            generators.seed(1, "model", 2)
            drawn = torch.rand(3, device="cuda").cpu()
            here = torch.rand(3)
            assert not torch.equal(drawn, torch.rand(3, device="cuda").cpu())
            assert torch.equal(drawn, here)  # both begin the stream, and neither moves the other
        assert torch.equal(before[0], torch.cuda.get_rng_state())
        assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("first", ["cuda", "cpu"])
@pytest.mark.parametrize("then", ["cuda", "cpu"])
def test_a_checkpoint_goes_on_on_either_device(first, then):
    faults = {"loss": 0.2, "late": 0.3}
    table = merged(
        RING, MLP, {"algorithm": {"name": "dmsgd"}, "optimizer": {"name": "adam"}, "faults": faults},
        {"train": {"rounds": 4, "checkpoint_every": 2, "record_every": 1}},
    )  # fmt: skip
    with pretended_gpu():
        whole = trained(table, first)
        assert set(KEYS[:-2]) | {"chunk", "device"} <= set(whole.kept)
        assert whole.kept["device"] == first
        again = trained(table, then, whole.kept)
    assert again.rows == whole.rows[-2:]
    assert any("begun on" in note for note in again.notes) is (first != then)


@pytest.mark.filterwarnings("ignore:momentum over momentum")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_drop_in_steps_a_model_on_a_gpu(name):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def rounds(net):
        comm = LocalComm(topologies.constant([[1.0]]))
        inner = torch.optim.Adam(net.parameters(), lr=0.1)
        optimizer = Decentralized(inner, ALGORITHMS[name](), comm, model=net)
        device = next(net.parameters()).device
        for t in range(3):
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(t)).to(device)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
            if t == 1:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return [part.detach().cpu().tolist() for part in net.state_dict().values()]

    expected = rounds(model())
    with pretended_gpu():
        assert rounds(model().cuda()) == expected


def test_a_run_takes_the_gpu_that_is_there_and_says_so(home):
    table = {"train": {"rounds": 2}}
    path = write(home / "x.toml", **table)
    plain = decentral("run", path, "--out", "cpu")
    with pretended_gpu():
        taken = decentral("run", path, "--out", "gpu")
        told = decentral("run", path, "--out", "told", "--set", "train.device=cpu")
    assert (plain.code, taken.code, told.code) == (0, 0, 0), taken.err
    assert "on cuda:0, a pretended GPU\n" in taken.err
    assert 'on the CPU, beside a GPU (train.device = "cpu")\n' in told.err
    assert " on " not in plain.err
    found = {}
    for out in ("cpu", "gpu", "told"):
        (folder,) = (home / out / "runs").iterdir()
        facts = json.loads((folder / "environment.json").read_text())
        found[out] = folder.name, facts["device"], facts.get("gpu")
    name = found["cpu"][0]
    assert found == {
        "cpu": (name, "cpu", None), "gpu": (name, "cuda:0", "a pretended GPU"), "told": (name, "cpu", None),
    }  # fmt: skip
    rows = [
        [{k: v for k, v in row.items() if k != "wall_s"} for row in metrics(home / out)[name]]
        for out in found
    ]
    assert rows[0] == rows[1] == rows[2]
