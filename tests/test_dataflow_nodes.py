"""Nodes of a network by themselves: what is refused, when parameters change, what is packed and cut."""

import math

import pytest
import torch
from dataflow_networks import CASES, IN, Chain, built, linear, play, scattered
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from decentral.dataflow.control import Controller
from decentral.dataflow.edges import InvariantError
from decentral.dataflow.ends import Input, Loss
from decentral.dataflow.graph import Network
from decentral.dataflow.groups import Group, Replicate, Ungroup
from decentral.dataflow.nodes import Bcast, Concat, Cond, Node, Phi, Split, StateUpdate
from decentral.dataflow.payloads import cut, cut_like, joined
from decentral.dataflow.transforms import Embedding, Linear, Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker, pack, parts_of, unpack
from decentral.errors import UserError
from decentral.runtime import VirtualClock

DOUBLE = torch.float64


class Sink(Node):
    """Keeps what comes; answers when it is told to."""

    outputs = 0

    def __init__(self):
        super().__init__()
        self.got = {}

    def forward(self, port, messages):
        self.got.update(messages)

    def backward(self, out, messages):
        raise NotImplementedError


def fed(node, *messages, inputs=1):
    """A network that sends the messages (port, state, payload) of instance 0 through the node into sinks."""
    net = Network()
    source = net.add("in", Input(lambda key: messages, inputs))
    net.add("node", node, *((source, port) for port in range(inputs)))
    for out in range(node.outputs):
        net.add(f"sink {out}", Sink(), (node, out))
    net.check()
    return net


def refused(node, *messages, inputs=1):
    with pytest.raises(InvariantError) as error:
        fed(node, *messages, inputs=inputs).nodes["in"].inject([0])
    return str(error.value)


X = torch.ones(2, 3)


class AnswersTwice(Sink):
    def forward(self, port, messages):
        self.ins[0].backward(messages)
        self.ins[0].backward(messages)


class AnswersAnother(Sink):
    def forward(self, port, messages):
        self.ins[0].backward([((7, 7), None)])


def test_every_message_is_answered_once_and_under_its_own_state():
    for node, state in ((AnswersTwice(), "(0,)"), (AnswersAnother(), "(7, 7)")):
        assert refused(node, (0, (0,), X)) == (
            f"the edge from in to node was answered with a state it does not wait for, among {state}"
        )
    twice = ((0, (0, 1), X), (0, (0, 1), X))
    assert (
        "the edge from in to node carries a second message of a state before the first is answered"
        in refused(Sink(), *twice)
    )
    both = ((0, (0,), X), (1, (0,), X))
    assert "the edge from node to sink 0 carries a second" in refused(Phi(), *both, inputs=2)


def test_what_a_node_cannot_map_back_is_refused_where_it_happens():
    wrong = StateUpdate(lambda s: (s[0], s[1] + 1), lambda s: (s[0], s[1] - 2))
    assert refused(wrong, (0, (0, 5), X)) == (
        "node maps state (0, 5) to (0, 6), and that back to (0, 4); give the inverse"
    )
    joins = Concat(2, lambda s: s[:1])
    twice = ((0, (0, 1), X), (0, (0, 2), X))
    assert refused(joins, *twice, inputs=2) == "node got a second message for its input 0 of state (0,)"
    assert refused(Replicate(lambda s: [(0, 3), (0, 3)]), (0, (0,), X)) == (
        "node emits state (0, 3) twice; give every edge a state of its own"
    )
    to_same = Replicate(lambda s: [(0, 3)])
    assert "node emits state (0, 3) twice" in refused(to_same, (0, (0, 1), X), (0, (0, 2), X))
    assert refused(Ungroup(lambda s: [(0, 1)]), (0, (0,), X)) == (
        "node has 2 rows for 1 members of state (0,)"
    )


class Keeps(Sink):
    """Answers at once, but does not forget."""

    def forward(self, port, messages):
        super().forward(port, messages)
        self.ins[0].backward(messages)

    def held(self):
        return len(self.got)


def drive(net, keys, active=8):
    net.check()
    worker = Worker(0, net, dict.fromkeys(net.nodes, 0))
    VirtualClock({0: Controller(worker, active, 1, [keys]).run()}, lambda stage, kind: 1.0).run()
    return net


def test_a_drain_finds_what_was_not_forgotten():
    with pytest.raises(InvariantError, match=r"worker 0 still holds messages: \{'node': 1\}"):
        drive(fed(Keeps(), (0, (0,), X)), [0])


def test_a_network_is_refused_for_ports_and_loops_by_name():
    net = Network()
    source = net.add("in", Input(lambda key: []))
    copy = net.add("copy", Bcast(), source)
    with pytest.raises(UserError, match="output 0 of node 'copy' is open; connect it"):
        net.check()
    with pytest.raises(UserError, match="the network already has a node 'copy'"):
        net.add("copy", Bcast())
    with pytest.raises(UserError, match="node 'copy' has 2 outputs; there is no output 2"):
        net.add("late", Sink(), (copy, 2))
    with pytest.raises(UserError, match="node 'late' has 1 inputs; there is no input 1"):
        net.connect(copy, net.nodes["late"], 1)
    with pytest.raises(UserError, match="there is no output -1"):
        net.connect((copy, -1), net.nodes["late"])
    net.connect(copy, net.nodes["late"])
    with pytest.raises(UserError, match="output 0 of node 'copy' is already connected; use a Bcast or a Phi"):
        net.add("later", Sink(), copy)
    with pytest.raises(UserError, match="input 0 of node 'late' is already connected"):
        net.connect((copy, 1), net.nodes["late"])
    with pytest.raises(UserError, match="node 'stranger' has 0 outputs"):
        net.add("last", Sink(), stranger())
    join = net.add("join", Concat(), (copy, 1))
    turn = net.add("turn", Bcast(), join)
    net.connect((turn, 0), net.nodes["later"])
    net.connect((turn, 1), join, 1)
    del net.nodes["last"]
    with pytest.raises(UserError, match="the nodes join -> turn -> join are a loop without a Phi"):
        net.check()


def stranger():
    node = Phi()
    node.name = "stranger"
    return node


def test_networks_as_built_are_accepted():
    for kind in CASES:
        net, _ = built(kind())
        assert net.graph().number_of_edges() == len(net.edges)
        assert net.graph().number_of_nodes() == len(net.nodes)


# updates, against sums by hand


def parameter(lr=1.0, **options):
    p = nn.Parameter(torch.zeros(2, dtype=DOUBLE))
    return p, Updates(torch.optim.SGD([p], lr), **options)


def came(p, updates, values, *states):
    g = torch.tensor(values, dtype=DOUBLE)
    p.grad = g if p.grad is None else p.grad + g
    updates.gradients_of(states)


def test_updates_are_made_after_so_many_messages_with_their_mean_or_sum():
    for reduce, divided in (("mean", 4.0), ("sum", 1.0)):
        p, updates = parameter(0.5, every=3, reduce=reduce)
        came(p, updates, [1.0, 0.0], (0,))
        came(p, updates, [2.0, 4.0], (1,))
        assert (updates.count, updates.gathered, p.tolist()) == (0, 2, [0.0, 0.0])
        came(p, updates, [3.0, 0.0], (2,), (3,))  # a batch of two: four messages, all of them in the update
        assert p.tolist() == [-0.5 * 6.0 / divided, -0.5 * 4.0 / divided]
        assert (updates.count, updates.gathered, p.grad) == (1, 0, None)
        updates.instance_done()
        updates.drained()
        assert updates.count == 1
        came(p, updates, [0.0, 8.0], (4,))
        updates.drained()
        assert p[1].item() == -0.5 * 4.0 / divided - 0.5 * 8.0  # the mean of one


def test_instances_are_counted_however_many_messages_they_bring():
    p, updates = parameter(every=2, unit="instances")
    for key in range(2):
        for visit in range(5):
            came(p, updates, [1.0, 0.0], (key, visit))
        assert updates.count == 0
        updates.instance_done()
    assert (updates.count, p.tolist()) == (1, [-5.0, 0.0])


def test_gradients_are_clipped_to_the_norm_of_the_update():
    p, updates = parameter(every=2, clip=1.0)
    came(p, updates, [6.0, 0.0], (0,))
    came(p, updates, [0.0, 8.0], (1,))  # mean (3, 4), norm 5
    assert p.tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)
    came(p, updates, [0.3, 0.4], (0,), (1,))  # mean (0.15, 0.2): short enough
    assert p.tolist() == pytest.approx([-0.75, -1.0], rel=1e-5)


def test_the_learning_rate_is_annealed_from_staleness_to_one():
    p, updates = parameter(0.8, anneal=2)
    updates.staleness.update({3: 2, 5: 2})  # mean 4
    taken = []
    for k in range(3):
        before = p[0].item()
        came(p, updates, [1.0, 0.0], (k,))
        taken.append(before - p[0].item())
    assert taken == pytest.approx([0.8 / 4, 0.8 / math.sqrt(4), 0.8])


def test_gradients_are_summed_by_state_where_that_is_asked_for():
    parts = {(2,): 1e16, (0,): 1.0, (1,): -1e16}
    for order in ([(2,), (1,), (0,)], [(0,), (2,), (1,)]):
        p, updates = parameter(every=3, reduce="sum", ordered=True)
        for state in order:
            came(p, updates, [parts[state], 0.0], state)
        assert -p[0].item() == (1.0 - 1e16) + 1e16 == 0.0
    p, updates = parameter(every=3, reduce="sum")
    for state in [(2,), (1,), (0,)]:
        came(p, updates, [parts[state], 0.0], state)
    assert -p[0].item() == 1.0


def test_every_parameter_group_keeps_its_own_learning_rate():
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    updates = Updates(torch.optim.SGD([{"params": [p], "lr": 0.25}, {"params": [q], "lr": 0.5}]))
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    updates.gradients_of([(0,)])
    assert (p.item(), q.item()) == (-0.25, -0.5)


def test_stashed_weights_are_those_of_the_forward_pass():
    """Two messages under way while a third updates: their gradients are autograd's at the weights that they saw."""
    x = [torch.randn(2, IN, dtype=DOUBLE) for _ in range(3)]
    dy = [torch.randn(2, 4, dtype=DOUBLE) for _ in range(3)]
    for stash in (True, False):
        layer = nn.Sequential(linear(IN, 4, 0), nn.Tanh())
        updates = Updates(torch.optim.SGD(layer.parameters(), 0.5))
        node = Transform(layer, updates, stash=stash)
        net = fed(node, *((0, (0, i), x[i]) for i in range(3)))
        answers = {}
        net.nodes["in"].backward = lambda out, messages, to=answers: to.update(messages)
        net.nodes["in"].inject([0])
        start = [p.detach().clone() for p in layer.parameters()]
        node.run_forward(2)
        for i in (0, 2, 1):  # the last one sees the update of the first
            if i == 2:
                node.run_forward(1)
            before = [p.detach().clone() for p in layer.parameters()]
            net.nodes["sink 0"].ins[0].backward([((0, i), dy[i])])
            node.run_backward(1)
            fresh = nn.Sequential(linear(IN, 4, 0), nn.Tanh())
            with torch.no_grad():
                for p, value in zip(fresh.parameters(), start if stash and i < 2 else before, strict=True):
                    p.copy_(value)
            own = x[i].clone().requires_grad_()
            fresh(own).backward(dy[i])
            assert torch.allclose(answers[0, i], own.grad, atol=1e-14)
            for p, old, other in zip(layer.parameters(), before, fresh.parameters(), strict=True):
                assert torch.allclose(p, old - 0.5 * other.grad, atol=1e-14)
        assert updates.staleness == {0: 2, 2: 1}
        assert node.held() == 0


# transforms and payloads


class Shift(nn.Module):
    """x + p, for messages of one row: autograd hands out one and the same tensor for both."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, IN, dtype=DOUBLE))

    def forward(self, x):
        return x + self.shift


def test_payloads_stay_as_they_are_and_gradients_are_nobody_elses():
    x = [torch.randn(1, IN, dtype=DOUBLE) for _ in range(3)]
    start, shift, end = linear(IN, IN, 0), Shift(), linear(IN, 3, 1)
    net = Network()
    node = net.add("in", Input(lambda key: [(0, (key,), x[key])]))
    for name, module in (("start", start), ("shift", shift), ("end", end)):
        node = net.add(name, Transform(module), node)
    net.add("loss", Loss(lambda state: torch.tensor([state[0]])), node)
    values = [t.clone() for t in x]
    drive(net, range(3), active=3)
    found = [p.grad.clone() for m in (start, shift, end) for p in m.parameters()]
    for m in (start, shift, end):
        m.zero_grad()
    for key in range(3):
        nn.functional.cross_entropy(end(shift(start(x[key]))), torch.tensor([key])).backward()
    for g, p in zip(found, [p for m in (start, shift, end) for p in m.parameters()], strict=True):
        assert torch.allclose(g, p.grad, atol=1e-14)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(x, values, strict=True))


def test_rows_of_a_table_have_the_gradient_of_autograd():
    table = nn.Embedding(6, 3, dtype=DOUBLE)
    ids = [torch.tensor([1, 1, 4]), torch.tensor([5])]
    net = Network()
    node = net.add("rows", Embedding(table), net.add("in", Input(lambda key: [(0, (key,), ids[key])])))
    net.add("loss", Loss(lambda state: torch.zeros(len(ids[state[0]]), dtype=torch.long)), node)
    drive(net, range(2))
    found = table.weight.grad.clone()
    table.zero_grad()
    for i in ids:
        nn.functional.cross_entropy(table(i), torch.zeros(len(i), dtype=torch.long)).backward()
    assert torch.allclose(found, table.weight.grad, atol=1e-14)


def halves(node=None, loss_after=None):
    """The two halves of a line go side by side through the node; gradients of the layer after it, and expected ones."""
    rows = [2, 3, 1]
    x = [torch.randn(n, 4, dtype=DOUBLE) for n in rows]
    first, last = linear(2, 2, 0), linear(4, 4, 1)
    net = Network()
    source = net.add("in", Input(lambda k: [(0, (k,), x[k][:, :2]), (1, (k,), x[k][:, 2:])], 2))
    out = net.add("both", Concat(), net.add("first", Transform(first), source), (source, 1))
    if isinstance(node, Split):
        net.add("node", node, out)
        out = net.add("again", Concat(), (node, 0), (node, 1))
    elif isinstance(node, Ungroup):
        out = net.add("again", Group(lambda s: s[:1], lambda s: rows[s[0]]), net.add("node", node, out))
    elif node:
        out = net.add("node", node, out)
    if not loss_after:
        out = net.add("last", Transform(last), out)
    net.add("loss", Loss(lambda s: torch.zeros(rows[s[0]], dtype=torch.long)), out)
    drive(net, range(3))
    found = first.weight.grad.clone()
    first.zero_grad()
    for each in x:
        y = torch.cat([first(each[:, :2]), each[:, 2:]], 1)
        y = y if loss_after else last(y)
        nn.functional.cross_entropy(y, torch.zeros(len(each), dtype=torch.long)).backward()
    assert torch.allclose(found, first.weight.grad, atol=1e-14)


@pytest.mark.parametrize(
    "node",
    [
        None,
        Split([1, 3]),
        Ungroup(lambda s: [(s[0], i) for i in range((2, 3, 1)[s[0]])]),
        Group(lambda s: s, lambda s: 1),
    ],
    ids=["transform", "split", "ungroup", "group"],
)
def test_what_comes_side_by_side_may_go_to_any_node(node):
    halves(node)


def test_what_is_side_by_side_may_be_put_beside_more():
    parts = [torch.randn(2, width, dtype=DOUBLE) for width in (1, 2, 3)]
    for first in (True, False):
        net = Network()
        sent = [(i, (0,), part) for i, part in enumerate(parts)]
        source = net.add("in", Input(lambda key, sent=sent: sent, 3))
        pair = net.add("pair", Concat(), (source, 1), (source, 2))
        both = net.add("both", Concat(), *((pair, source) if first else (source, pair)))
        net.add("node", Transform(nn.Identity()), both)
        net.add("sink", Sink(), net.nodes["node"])
        net.check()
        answers = {}
        source.backward = lambda out, messages, to=answers: to.update({out: messages[0][1]})
        source.inject([0])
        net.nodes["node"].run_forward(1)
        (whole,) = net.nodes["sink"].got.values()
        assert torch.equal(whole, torch.cat([*parts[1:], parts[0]] if first else parts, 1))
        net.nodes["sink"].ins[0].backward([((0,), 2 * whole)])
        net.nodes["node"].run_backward(1)
        assert all(torch.equal(answers[i], 2 * part) for i, part in enumerate(parts))


def test_what_comes_side_by_side_may_go_to_a_loss():
    halves(loss_after=True)


def test_a_phi_may_join_what_is_side_by_side_and_what_is_whole():
    x = [torch.randn(2, 4, dtype=DOUBLE) for _ in range(4)]

    def emit(key):
        whole = [(0, (key,), x[key])]
        return whole if key % 2 else [(1, (key,), x[key][:, :2]), (2, (key,), x[key][:, 2:])]

    net = Network()
    source = net.add("in", Input(emit, 3))
    phi = net.add("phi", Phi(), source, net.add("both", Concat(), (source, 1), (source, 2)))
    last = linear(4, 3, 0)
    net.add("loss", Loss(lambda s: torch.zeros(2, dtype=torch.long)), net.add("last", Transform(last), phi))
    drive(net, range(4))
    found = last.weight.grad.clone()
    last.zero_grad()
    for each in x:
        nn.functional.cross_entropy(last(each), torch.zeros(2, dtype=torch.long)).backward()
    assert torch.allclose(found, last.weight.grad, atol=1e-14)


def test_a_transform_of_integers_without_parameters_answers():
    class OneHot(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(x, 4).to(DOUBLE)

    net = Network()
    source = net.add("in", Input(lambda k: [(0, (k,), torch.tensor([1, 2]))]))
    node = net.add("last", Transform(linear(4, 3, 0)), net.add("one-hot", Transform(OneHot()), source))
    net.add("loss", Loss(lambda s: torch.tensor([0, 1])), node)
    drive(net, range(2))


@pytest.mark.parametrize("kind", [Linear, Embedding])
def test_frozen_parameters_gather_no_gradient(kind):
    module = linear(4, 3, 0) if kind is Linear else nn.Embedding(4, 3, dtype=DOUBLE)
    module.weight.requires_grad_(False)
    x = torch.ones(2, 4, dtype=DOUBLE) if kind is Linear else torch.tensor([1, 2])
    net = Network()
    node = net.add("node", kind(module), net.add("in", Input(lambda k: [(0, (k,), x)])))
    net.add("loss", Loss(lambda s: torch.tensor([0, 1])), node)
    drive(net, range(2))
    assert module.weight.grad is None


def test_a_message_that_goes_nowhere_is_answered_at_once():
    net = fed(Replicate(lambda s: []), (0, (0, 1), X), (0, (0, 2), X))
    drive(net, [0, 1][:1])
    assert net.held() == {}


def test_a_group_of_no_rows_is_answered_at_once():
    net = fed(Ungroup(lambda s: []), (0, (0,), X[:0]))
    net.nodes["in"].inject([0])
    assert net.held() == {}


def test_what_crosses_between_workers_counts_as_held():
    copies = [built(Chain())[0] for _ in range(2)]
    place = scattered(copies[0].nodes, 2, 2) | {"a": 1}
    Worker(0, copies[0], place)
    copies[0].nodes["in"].inject([0])
    assert copies[0].held() == {"in": 1, "the edge from in to a": 1}


def test_a_port_that_does_not_exist_is_refused():
    net = fed(Cond(lambda s: -1), (0, (0,), X))
    with pytest.raises(InvariantError, match="node"):
        net.nodes["in"].inject([0])


# payloads together and apart


@st.composite
def batches(draw, least=1):
    """Messages of one edge, alike in form: none, one tensor or some side by side, of features or integers."""
    parts = draw(st.integers(0, 3))
    widths = [draw(st.integers(1, 3)) for _ in range(parts)]
    count, length = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    states = draw(
        st.lists(st.tuples(*[st.integers(-3, 2**40)] * length), min_size=count, max_size=count, unique=True)
    )
    vectors = parts == 1 and draw(st.booleans())  # ids
    payloads = []
    for _ in range(count):
        n = draw(st.integers(least, 4))
        if vectors:
            payloads.append(torch.randint(100, (n,)))
        else:
            columns = tuple(torch.randn(n, w, dtype=DOUBLE) for w in widths)
            payloads.append(None if not parts else columns if parts > 1 else columns[0])
    return list(zip(states, payloads, strict=True))


def same(a, b):
    if type(a) is tuple:
        return type(b) is tuple and len(a) == len(b) and all(map(same, a, b))
    return a is b if a is None else a.dtype == b.dtype and torch.equal(a, b)


@given(batches(least=0), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_for_another_worker_arrives(messages, forward, number):
    packed = pack(number, forward, parts_of(messages[0][1]), messages)
    assert len(packed) <= 3 + parts_of(messages[0][1])
    edge, direction, found = unpack(packed)
    assert (edge, direction) == (number, forward)
    assert [state for state, _ in found] == [state for state, _ in messages]
    assert all(same(a, b) for (_, a), (_, b) in zip(messages, found, strict=True))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)], ids=["dropout", "batch norm"])
def test_what_cannot_be_run_twice_is_refused(layer):
    with pytest.raises(ValueError, match="gives another result each time"):
        Transform(nn.Sequential(nn.Linear(3, 3), layer))


def test_a_concat_of_one_is_refused():
    with pytest.raises(ValueError, match="a Concat of 1 has nothing to put side by side"):
        Concat(1)


@given(batches())
@settings(max_examples=60, deadline=None)
def test_what_is_joined_for_a_batch_is_cut_again(messages):
    payloads = [payload for _, payload in messages]
    if payloads[0] is None:
        return
    whole, rows = joined(payloads), [len(p[0]) if type(p) is tuple else len(p) for p in payloads]
    assert same(whole, joined(payloads, rows))
    assert [len(y) for y in cut(whole, rows)] == rows
    if whole.is_floating_point():
        assert all(same(a, b) for a, b in zip(payloads, cut_like(whole, payloads, rows), strict=True))


def test_messages_without_rows_stay_without():
    payloads = [torch.ones(2, 3), torch.ones(0, 3)]
    assert [len(y) for y in cut(joined(payloads), [2, 0])] == [2, 0]


def test_a_run_is_the_same_twice():
    ran = [play(Chain(), 5, 2, 3) for _ in range(2)]
    assert ran[0].trace.spans == ran[1].trace.spans
    assert ran[0].trace.channel_bytes == ran[1].trace.channel_bytes
