"""The MLP and the RNN over lists: their nodes add up what autograd finds, in whatever order messages come."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence

from decentral.dataflow.control import Controller, serve
from decentral.dataflow.models.lists import ListRNN
from decentral.dataflow.models.mlp import MLP
from decentral.dataflow.transforms import Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.errors import UserError
from decentral.problems.data import load
from decentral.problems.data.list_reduction import list_reduction
from decentral.runtime import VirtualClock

LISTS = list_reduction(400, 40)
PIXELS = load("digits")
# pixels of both signs: a ReLU too many, on the input, has to be seen
DIGITS = replace(PIXELS, train_x=PIXELS.train_x - 0.3, test_x=PIXELS.test_x - 0.3)
ALL = 1 << 30


def perceptron():
    return MLP(DIGITS, (24, 16), 50, seed=3, dtype=torch.float64)


def recurrent():
    return ListRNN(LISTS, 12, seed=3, dtype=torch.float64)


both_models = pytest.mark.parametrize("make_model", [perceptron, recurrent])


def some_keys(model):
    """20 to learn from, the last too, and 5 that are only evaluated, mixed."""
    keys = [*model.train[:10], *model.train[-10:], *model.validation[-5:]]
    random.Random(0).shuffle(keys)
    return keys


class Never(Updates):
    """Gradients are gathered, and stay."""

    def __init__(self, parameters):
        super().__init__(torch.optim.SGD(parameters, lr=1.0), every=ALL)

    def drained(self):
        pass


class Run:
    """Phases of keys go through a model's network. Every worker has copies of its own, as a rank has."""

    def __init__(
        self, model, phases, updates=Never, active=1, most=ALL, replicas=1, workers=1, place=None, **clock
    ):
        networks = [self.network(model, updates, replicas) for _ in range(workers)]
        names = list(networks[0].nodes)
        self.place = dict(zip(names, place(len(names)) if place else [0] * len(names), strict=True))
        hosts = [Worker(w, network, self.place, most) for w, network in enumerate(networks)]
        controller = Controller(hosts[0], active, workers, phases)
        programs = [controller.run(), *(serve(host) for host in hosts[1:])]
        VirtualClock(dict(enumerate(programs)), **{"cost": lambda *_: 1.0} | clock).run()
        self.held = [network.held() for network in networks]
        self.nodes = {name: networks[w].nodes[name] for name, w in self.place.items()}
        self.score = self.nodes["loss"].score
        self.most_under_way = controller.most_under_way

    @staticmethod
    def network(model, updates, replicas):
        modules = copy.deepcopy(model.modules)

        def make(name, kind=Transform, replica=0):
            module = copy.deepcopy(modules[name]) if replica else modules[name]
            return kind(module, updates(module.parameters()))

        return model.network(make, replicas)

    def modules(self, name):
        """Those of this name, of all replicas, from the workers that have them."""
        return [node.module for own, node in self.nodes.items() if own in (name, f"{name}.0", f"{name}.1")]


def check(run, model, keys):
    """Scores of the keys, and the sum of the gradients of those that are learnt from, are autograd's."""
    assert not any(run.held)
    learnt = [key for key in keys if key in model.train]
    model.modules.zero_grad()
    (model.evaluate(learnt)[0] * len(learnt)).backward()
    loss, right, rows = model.evaluate(keys)
    assert run.score.loss == pytest.approx(loss.item() * len(keys), rel=1e-12)
    assert (run.score.correct, run.score.rows, run.score.messages) == (right, rows, len(keys))
    for name, module in model.modules.items():
        copies = run.modules(name)
        for p, *same in zip(module.parameters(), *(one.parameters() for one in copies), strict=True):
            found = sum(q.grad for q in same if q.grad is not None)
            assert p.grad.abs().max() > 1e-6
            torch.testing.assert_close(found, p.grad, rtol=1e-10, atol=1e-10)


# what evaluate() computes, by other means


def test_lists_are_evaluated_as_by_torch_rnn():
    model = recurrent()
    keys = some_keys(model)
    data = [LISTS[key >= 400][key % 400] for key in keys]
    cell, embedding, head = (copy.deepcopy(model.modules[name]) for name in ("cell", "embedding", "head"))
    rnn = nn.RNN(12, 12, nonlinearity="relu", batch_first=True, dtype=torch.float64)
    for p, value in zip(
        rnn.parameters(),
        (*cell.weight.detach().split(12, 1), cell.bias.detach(), torch.zeros(12)),
        strict=True,
    ):
        p.data.copy_(value)
    padded = nn.utils.rnn.pad_sequence([embedding(one.tokens) for one in data], batch_first=True)
    lengths = [len(one.tokens) for one in data]
    _, last = rnn(pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False))
    logits, labels = head(last[0]), torch.tensor([one.label for one in data])
    cross_entropy(logits, labels).backward()
    loss, right, rows = model.evaluate(keys)
    loss.backward()
    assert loss.item() == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-12)
    assert (right, rows) == (int((logits.argmax(1) == labels).sum()), 25)
    found = model.modules["cell"].weight.grad
    torch.testing.assert_close(found, torch.cat([rnn.weight_ih_l0.grad, rnn.weight_hh_l0.grad], 1))
    torch.testing.assert_close(model.modules["embedding"].weight.grad, embedding.weight.grad)


def test_minibatches_are_all_samples_once_and_evaluated_as_by_a_sequence_of_layers():
    model, data = perceptron(), DIGITS
    assert (model.train, model.validation) == (range(29), range(29, 37))
    rows = torch.cat([model.minibatches[key][2] for key in model.train])
    assert rows.tolist() != sorted(rows.tolist()) == list(range(1437))
    layers = [layer for linear in model.modules.values() for layer in (linear, nn.ReLU())][:-1]
    logits = nn.Sequential(nn.Flatten(), *layers)(data.test_x.double())
    of_rows = cross_entropy(logits, data.test_y, reduction="none").split(50)
    loss, right, count = model.evaluate(model.validation)
    assert loss.item() == pytest.approx(sum(part.mean().item() for part in of_rows) / 8, rel=1e-12)
    assert (right, count) == (int((logits.argmax(1) == data.test_y).sum()), 360)


# nodes against autograd

PLACES = {
    "in blocks": lambda n: [3 * i // n for i in range(n)],
    "in turn": lambda n: [i % 3 for i in range(n)],
    "anywhere": lambda n: [0, *random.Random(1).choices(range(3), k=n - 1)],
}


def clocks():
    """Costs and links: how long work takes decides in what order messages come."""
    uneven, lag = random.Random(1), random.Random(2)
    return [
        {"cost": lambda *_: 1.0},
        {"cost": lambda worker, kind: (3.0, 0.5, 8.0)[worker] if kind == "backward" else 1.0},
        {"cost": lambda *_: uneven.expovariate(1.0), "link": lambda *_: (0.01, lag.expovariate(0.3))},
    ]


@both_models
@pytest.mark.parametrize("most", [1, ALL])
@pytest.mark.parametrize("active", [1, 3, 64])
def test_gradients_and_scores_are_autograds_on_one_worker(make_model, active, most):
    model = make_model()
    keys = some_keys(model)
    run = Run(model, [keys[:7], keys[7:]], active=active, most=most)
    assert run.most_under_way == min(active, 18)
    check(run, model, keys)


@pytest.mark.slow
@both_models
@pytest.mark.parametrize("most", [1, ALL])
@pytest.mark.parametrize("active", [1, 3, 64])
@pytest.mark.parametrize("place", PLACES)
def test_gradients_and_scores_are_autograds_on_three_workers(make_model, active, most, place):
    model = make_model()
    keys = some_keys(model)
    for clock in clocks():
        run = Run(model, [keys], active=active, most=most, workers=3, place=PLACES[place], **clock)
        assert set(run.place.values()) == {0, 1, 2}
        check(run, model, keys)


@both_models
@pytest.mark.parametrize("workers", [1, 3])
def test_gradients_of_replicas_add_up_to_autograds(make_model, workers):
    model = make_model()
    keys = some_keys(model)
    name = "linear0" if make_model is perceptron else "cell"
    for clock in clocks():
        place = PLACES["in turn"] if workers == 3 else None
        run = Run(model, [keys], active=8, replicas=2, workers=workers, place=place, **clock)
        assert all(one.weight.grad.any() for one in run.modules(name))
        assert len(run.modules(name)) == 2
        check(run, model, keys)


# with updates


@pytest.mark.parametrize(("every", "ordered"), [(1, False), (4, True)])
def test_one_key_of_the_mlp_is_synchronous_sgd_bit_for_bit(every, ordered):
    model = perceptron()

    def updates(parameters):
        sgd = torch.optim.SGD(parameters, lr=0.2, momentum=0.9)
        return Updates(sgd, every=every, ordered=ordered)

    run = Run(model, [model.train], updates, most=1, workers=3, place=PLACES["in turn"])
    sgd = torch.optim.SGD(model.modules.parameters(), lr=0.2, momentum=0.9)
    for first in range(0, 29, every):
        keys = model.train[first : first + every]
        for key in keys:
            model.evaluate([key])[0].backward()
        for p in model.modules.parameters():
            p.grad.div_(len(keys))
        sgd.step()
        sgd.zero_grad()
    for name, module in model.modules.items():
        for p, q in zip(module.parameters(), run.modules(name)[0].parameters(), strict=True):
            assert torch.equal(p, q)


def test_one_key_of_the_lists_is_synchronous_sgd_where_updates_are_made_between_instances():
    model = recurrent()
    keys = model.train[:21]
    run = Run(model, [keys], lambda p: Updates(torch.optim.SGD(p, lr=0.2), every=3, unit="instances"))
    sgd = torch.optim.SGD(model.modules.parameters(), lr=0.2)
    for first in range(0, 21, 3):
        sgd.zero_grad()
        model.evaluate(keys[first : first + 3])[0].backward()
        sgd.step()
    for name, module in model.modules.items():
        for p, q in zip(module.parameters(), run.modules(name)[0].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("active", [1, 8])
def test_short_lists_are_learnt(active):
    model = ListRNN(list_reduction(300, 100, longest=2), 24, seed=0)
    before = model.evaluate(model.validation)[0].item()
    phases = [model.train] * 4
    run = Run(model, phases, lambda p: Updates(torch.optim.Adam(p, lr=1e-2), every=10), active=active)
    for name, module in model.modules.items():
        module.load_state_dict(run.modules(name)[0].state_dict())
    after, right, rows = model.evaluate(model.validation)
    assert before > 0.9 * math.log(10)
    assert after.item() < 0.7 * before
    assert right > 0.5 * rows


def test_sizes_below_one_are_refused():
    with pytest.raises(UserError, match="batch_size = 0"):
        MLP(DIGITS, (4,), 0, seed=0)
    with pytest.raises(UserError, match="width"):
        MLP(DIGITS, (0,), 10, seed=0)
    with pytest.raises(UserError, match="width = 0"):
        ListRNN(LISTS, 0, seed=0)
