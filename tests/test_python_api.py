"""What the command line refuses is refused in Python too: shapes, rounds, mixing, settings. What can be imported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import decentral.algorithms as algorithms
import decentral.dataflow
import decentral.network
import decentral.stages
import topologies
from decentral.algorithms import ALGORITHMS, DSGD, DecentLaM, DmSGD, LocalSGD, PmSGD
from decentral.algorithms.momentum import Momentum
from decentral.comm import LocalComm
from decentral.comm.compression import COMPRESSORS
from decentral.comm.layout import Layout, Span
from decentral.comm.links import Links
from decentral.errors import UserError
from decentral.optimizers import OPTIMIZERS
from decentral.stages import Stage, cut_evenly, network_of
from decentral.stages.profile import profile
from decentral.stages.programs import BackProp, GPipe

RING = topologies.mixing_matrix(topologies.ring(4))
PUSH = topologies.mixing_matrix(topologies.star(4), "push")
EXPONENTIAL = topologies.mixing_matrix(topologies.exponential(8), "uniform")
NAN = float("nan")


def refusal(make):
    with pytest.raises(UserError) as refused:
        make()
    assert len(str(refused.value)) < 300
    return str(refused.value)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("d2", "relay-sgd")])
@pytest.mark.parametrize("shape", [(8, 3), (5, 3), (4, 2, 2), (4,), ()])
def test_models_of_another_shape_are_refused_by_init(name, shape):
    said = refusal(lambda: ALGORITHMS[name]().init(torch.zeros(shape), LocalComm(RING)))
    assert f"got x of shape {shape}; this communicator has 4 workers, so it must be (4, d)" in said


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_models_that_are_no_floating_point_numbers_are_refused(dtype):
    assert "models are floating-point" in refusal(
        lambda: DSGD().init(torch.zeros(4, 2, dtype=dtype), LocalComm(RING))
    )


@pytest.mark.parametrize("shape", [(8, 3), (5, 3), (1, 3), (4, 2, 2)])
def test_so_they_are_where_a_step_is_made_without_init(shape):
    x, comm = torch.zeros(shape), LocalComm(RING)
    for method, state in ((DSGD(), ()), (DSGD("awc"), ()), (PmSGD(), Momentum(x.clone()))):
        said = refusal(lambda m=method, s=state: m.step(x.clone(), s, torch.zeros(shape), comm.at(0), 0.1))
        assert f"x of shape {shape} cannot be mixed" in said
    assert comm.ledger.messages == 0


@pytest.mark.parametrize(
    ("method", "mixing"),
    [
        (DSGD(), topologies.one_peer_exponential(4)),
        (DmSGD(0.0), topologies.random_matching(4)),
        (LocalSGD(every=5), RING),
        (algorithms.GossipPGA(every=2), RING),
        (algorithms.SlowMo("dsgd", every=3), RING),
        (algorithms.PowerGossip(), RING),
    ],
)
def test_a_communicator_that_was_not_told_the_round_refuses_where_it_matters(method, mixing):
    comm, x = LocalComm(mixing), torch.randn(4, 2)
    state = method.init(x.clone(), comm)
    step = lambda told: method.step(x.clone(), state, torch.zeros(4, 2), told, 0.1)  # noqa: E731
    assert "was not told it; hand the method comm.at(t)" in refusal(lambda: step(comm))
    step(comm.at(0))
    step(comm.at(3))
    assert "was not told it" in refusal(lambda: step(comm))  # telling one does not tell the other


def test_where_it_does_not_matter_it_need_not_be_told():
    x, comm = torch.arange(8.0).view(4, 2), LocalComm(RING)
    after, _ = DSGD().step(x.clone(), (), torch.zeros(4, 2), comm, 0.1)
    assert torch.allclose(after, torch.tensor(RING.toarray(), dtype=torch.float32) @ x)


@pytest.mark.parametrize(
    ("name", "mixing", "said"),
    [
        ("dsgd", PUSH, "DSGD needs rows of W that sum to 1"),
        ("pmsgd", PUSH, "PmSGD needs rows"),
        ("push-sum", topologies.mixing_matrix(topologies.star(5), "uniform"), "PushSum needs columns of W"),
        ("choco", EXPONENTIAL, "CHOCO needs a symmetric W"),
        ("relay-sgd", RING, "RelaySGD needs a tree"),
        ("choco", topologies.one_peer_exponential(4), "CHOCO needs the same W in every round"),
        ("d2", RING, "D2 needs every eigenvalue of W above -0.3333"),
        ("decentlam", EXPONENTIAL, "DecentLaM diverges on this mixing, which is nonsymmetric"),
        ("decentlam", topologies.one_peer_exponential(8), "DecentLaM diverges on this mixing, which varies with time"),
        ("extra", (np.eye(8) + np.roll(np.eye(8), 1, 1)) / 2, "EXTRA diverges on this mixing"),
    ],
)  # fmt: skip
def test_what_a_method_needs_of_the_mixing_is_asked_once_and_may_be_waived(name, mixing, said):
    method, comm = ALGORITHMS[name](), LocalComm(mixing)
    x = torch.zeros(comm.n, 2)
    found = refusal(lambda: method.init(x, comm))
    assert said in found
    assert "check=False of the communicator waives this" in found
    assert "topology." not in found
    method.init(x, LocalComm(mixing, check=False))


def test_what_is_refused_does_diverge_and_what_is_not_does_not():
    x = torch.zeros(8, 1, dtype=torch.float64)
    x[0] = 1.0
    for method, mixing, grows in ((DecentLaM(0.9), EXPONENTIAL, True), (DecentLaM(0.5), EXPONENTIAL, False)):
        comm, y = LocalComm(mixing, check=False), x.clone()
        state = method.init(y, comm)
        for t in range(300):
            y, state = method.step(y, state, torch.zeros_like(y), comm.at(t), 0.1)
        assert bool((y - y.mean(0)).norm() > 100) is grows
        if not grows:
            method.init(x, LocalComm(mixing))


def test_check_false_takes_any_square_matrix():
    apart = np.eye(4)
    with pytest.raises(ValueError, match="not connected"):
        LocalComm(apart)
    x, _ = DSGD().step(torch.ones(4, 2), (), torch.zeros(4, 2), LocalComm(3 * apart, check=False), 0.1)
    assert torch.equal(x, torch.full((4, 2), 3.0))


def test_links_and_layout_are_arguments():
    layout = Layout((Span("a", 0, 4, (2, 2)), Span("b", 4, 6, (2,))))
    links = Links(COMPRESSORS["top-k"](fraction=0.5), layout, 0, range(4))
    ours, by_hand = LocalComm(RING, links=links), LocalComm(RING)
    by_hand.links, by_hand.layout = Links(COMPRESSORS["top-k"](fraction=0.5), layout, 0, range(4)), layout
    assert ours.layout is layout
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.at(0).mix(x.clone()), by_hand.at(0).mix(x.clone()))
    assert ours.ledger.bytes_sent.tolist() == by_hand.ledger.bytes_sent.tolist()
    assert "links are of the workers range(0, 2)" in refusal(
        lambda: LocalComm(RING, Links(COMPRESSORS["sign"](), layout, 0, range(2)))
    )
    power = algorithms.PowerGossip()
    assert "got x with 5 columns, and the layout has 6" in refusal(
        lambda: power.init(x[:, :5], LocalComm(RING, layout=layout))
    )
    state = power.init(x, LocalComm(RING, layout=layout))
    assert state.right.shape == (8, 2)  # of the one matrix, on eight directed edges


@pytest.mark.parametrize(
    "value", [NAN, float("inf"), -0.1, 1.0, True, False, "0.9", None, [0.9], torch.tensor(0.9)]
)
@pytest.mark.parametrize("make", [DmSGD, DecentLaM, algorithms.QuasiGlobal, LocalSGD, OPTIMIZERS["sgd"]])
def test_a_momentum_out_of_range_is_refused(make, value):
    with pytest.raises(ValueError, match=r"^momentum = "):
        make(momentum=value)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, 5.0, NAN, "5", None])
@pytest.mark.parametrize("name", ["local-sgd", "gossip-pga", "slowmo", "diloco"])
def test_so_is_every(name, value):
    with pytest.raises(ValueError, match=r"^every = "):
        ALGORITHMS[name](every=value)


def test_numpy_s_numbers_are_taken_as_python_s():
    assert repr(DmSGD(np.float64(0.5))) == repr(DmSGD(0.5))
    assert repr(LocalSGD(np.int64(7), np.float32(0.5))) == repr(LocalSGD(7, 0.5))
    assert PmSGD(nesterov=np.True_).nesterov is True
    for make in (
        lambda: algorithms.SlowMo(slow_lr=NAN), lambda: algorithms.DiLoCo(decay=NAN), lambda: PmSGD(nesterov=1),
        lambda: OPTIMIZERS["adam"](eps=NAN), lambda: algorithms.CHOCO(gamma=NAN), lambda: algorithms.MATCHA(seed=0.5),
        lambda: OPTIMIZERS["sgd"](0.9).build([nn.Parameter(torch.ones(2))], NAN, 0.0),
        lambda: OPTIMIZERS["adam"]().build([nn.Parameter(torch.ones(2))], 0.1, -1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"= "):
            make()


# ------------------------------------------------------------------------------------------------------- what is there


@pytest.mark.parametrize("package", [decentral.dataflow, decentral.stages, decentral.network])
def test_packages_hand_out_what_they_name(package):
    assert len(package.__all__) > 10
    for name in package.__all__:
        assert name.isupper() or getattr(package, name).__module__.startswith("decentral.")
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_they_load_nothing_before_it_is_used():
    code = "import sys, decentral.stages, decentral.dataflow, decentral.network; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_function_of_topologies_hides_the_module_that_it_is_in():
    assert callable(topologies.matcha)
    assert callable(topologies.matchings)
    from topologies import activation, edge_colouring

    assert activation.matcha is topologies.matcha
    assert edge_colouring.matchings is topologies.matchings


@pytest.mark.parametrize("program", [BackProp(), GPipe(2), GPipe(8)])
def test_a_stage_asks_once_a_step_for_its_batch_and_keeps_it_once(program):
    asked = []

    def stages(steps):
        def batches(t):
            asked.append(t)
            return torch.ones(16, 32), torch.zeros(16, dtype=torch.int64)

        net = network_of(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)))
        return [Stage(0, cut_evenly(1, 1), net, lambda p: torch.optim.SGD(p, 0.0), batches, steps)]

    found = profile(program, stages)
    # four profiles of four steps and one of eight: each step once
    assert sorted(asked) == sorted([*range(4)] * 4 + [*range(8)])
    # inputs and hidden activations of all samples, logits' softmax, and labels as integers
    parts = getattr(program, "micro_batches", 1)
    rest = found.activation_bytes[0] - 2 * 16 * 32 * 4
    assert 0 < rest <= 16 * 4 * 4 + 16 * 8 + 4 * parts
