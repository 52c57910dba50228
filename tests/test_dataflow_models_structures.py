"""Tree LSTM and gated graph network: as networks of nodes they learn and score what plain torch does."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from decentral.dataflow.control import Controller, serve
from decentral.dataflow.ends import Loss
from decentral.dataflow.models.graphs import EDGE_MAPS, GatedGraph
from decentral.dataflow.models.trees import TreeLSTM
from decentral.dataflow.transforms import Transform
from decentral.dataflow.updates import Updates
from decentral.dataflow.worker import Worker
from decentral.errors import UserError
from decentral.problems.data.babi import Deduction, Deductions, generated
from decentral.problems.data.sentiment_trees import (
    NO_LABEL,
    SIGNED_WORDS,
    UNKNOWN,
    Treebank,
    parse_tree,
    random_trees,
)
from decentral.runtime import VirtualClock

BATCHED, ALONE = 1 << 30, 1


def treebank(train, validation, leaves):
    trees = random_trees("train", train, leaves), random_trees("validation", validation, leaves)
    return Treebank(*trees, (), (UNKNOWN, *SIGNED_WORDS))


def random_graph(draw, nodes):
    """Connected, with parallel edges and loops at one node by chance."""
    ends = [(draw.randrange(v), v) for v in range(1, nodes)]
    ends += [(draw.randrange(nodes), draw.randrange(nodes)) for _ in range(1 + draw.randrange(nodes))]
    draw.shuffle(ends)
    edges = tuple((u, draw.randrange(2), v) for u, v in ends)
    start, answer = draw.randrange(nodes), draw.randrange(nodes)
    return Deduction(tuple(map(str, range(nodes))), edges, start, answer, ())


def graphs_of_all_sizes():
    draw = random.Random(0)
    sizes = [2, 9, *(draw.randrange(1, 9) for _ in range(24))]
    graphs = tuple(random_graph(draw, n) for n in sizes)
    return Deductions(graphs[:20], graphs[20:])


MODELS = {
    "tree": lambda: TreeLSTM(treebank(20, 6, 6), 4, 0, torch.float64),
    "tree, every node": lambda: TreeLSTM(treebank(30, 8, 6).binary(), 4, 0, torch.float64, every_node=True),
    "graph": lambda: GatedGraph(graphs_of_all_sizes(), 4, 0, torch.float64),
}
HEAVY = {"tree": "cell", "tree, every node": "cell", "graph": "gru"}


class Ran:
    """A model's network after the phases, each node on a worker by chance, everything taking times by chance.

    ``module(name)``: as the worker of that node left it; ``scores``: of each phase.
    """

    def __init__(self, model, updates, phases, active=1, most=BATCHED, workers=1, replicas=1, seed=0):
        self.model, draw, copies = model, random.Random(seed), []
        self.phases, self.scores = phases, []
        for _ in range(workers):
            modules = {}

            def make(name, kind=Transform, replica=0, modules=modules):
                node = name if replicas == 1 or name not in HEAVY.values() else f"{name}.{replica}"
                modules[node] = copy.deepcopy(model.modules[name])
                return kind(modules[node], updates(modules[node].parameters()))

            copies.append((model.network(make, replicas), modules))
        names = list(copies[0][0].nodes)
        self.place = dict.fromkeys(names, 0) | {name: draw.randrange(workers) for name in names[1:]}
        self.workers = [Worker(w, net, self.place, most) for w, (net, _) in enumerate(copies)]
        self.copies = copies
        self.controller = Controller(self.workers[0], active, workers, phases)
        programs = {0: self.controller.run()} | {w: serve(self.workers[w]) for w in range(1, workers)}
        VirtualClock(
            programs,
            lambda *_: draw.uniform(0.1, 2),
            lambda *_: (draw.uniform(0, 1), draw.uniform(0, 3)),
            self._done,
        ).run()

    def _done(self, worker, phase):
        (node,) = self.workers[worker].network.of_type(Loss)
        if worker == self.place[node.name]:
            self.scores.append(node.score)

    def module(self, node):
        return self.copies[self.place[node]][1][node]


def sum_at_the_end(parameters):
    return Updates(torch.optim.SGD(parameters, lr=1.0), every=10**9, reduce="sum")


def sums_of_gradients(ran, replicas=1):
    """What the one update at the drain took away, by module and then parameter."""
    found = {}
    for name, module in ran.model.modules.items():
        nodes = [f"{name}.{i}" for i in range(replicas)] if f"{name}.0" in ran.place else [name]
        found[name] = [
            sum(p.detach() - own for own in after)
            for p, *after in zip(
                module.parameters(), *(ran.module(node).parameters() for node in nodes), strict=True
            )
        ]
    return found


def autograd(model, keys):
    """Gradients of the sum of the instances' losses."""
    model = copy.deepcopy(model)
    (model.evaluate(keys)[0] * len(keys)).backward()
    return {name: [p.grad for p in module.parameters()] for name, module in model.modules.items()}


def assert_same_gradients(found, wanted):
    for name in wanted:
        for a, b in zip(found[name], wanted[name], strict=True):
            assert float(b.abs().max()) > 1e-4, name  # or there would be nothing to compare
            torch.testing.assert_close(
                a, b, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )


def held(ran):
    return [found for worker in ran.workers if (found := worker.network.held())]


@pytest.mark.slow
@pytest.mark.parametrize("most", [BATCHED, ALONE], ids=["batched", "alone"])
@pytest.mark.parametrize("active", [1, 3, 64])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_scores_are_those_of_autograd_however_messages_come(name, active, most):
    model = MODELS[name]()
    keys = [*model.train, *model.validation]
    random.Random(1).shuffle(keys)
    gradients = autograd(model, model.train)
    loss, right, rows = model.evaluate(keys)
    for workers, seed in ((1, 0), (3, 1), (3, 2)):
        ran = Ran(model, sum_at_the_end, [keys], active, most, workers, seed=seed)
        assert_same_gradients(sums_of_gradients(ran), gradients)
        (score,) = ran.scores
        assert score.loss == pytest.approx(float(loss.detach()) * len(keys), abs=1e-10)
        assert (score.correct, score.rows) == (right, rows)
        assert held(ran) == []
        assert ran.controller.most_under_way == min(active, len(keys))


@pytest.mark.parametrize("name", MODELS)
def test_replicas_of_the_heavy_node_share_its_gradients(name):
    model = MODELS[name]()
    whole = autograd(model, model.train)
    ran = Ran(model, sum_at_the_end, [model.train], active=8, workers=3, replicas=2)
    assert_same_gradients(sums_of_gradients(ran, replicas=2), whole)
    for replica in range(2):  # an instance goes to the replica of its key
        own = autograd(model, [key for key in model.train if key % 2 == replica])[HEAVY[name]]
        parameters = zip(
            model.modules[HEAVY[name]].parameters(),
            ran.module(f"{HEAVY[name]}.{replica}").parameters(),
            strict=True,
        )
        torch.testing.assert_close([p.detach() - q.detach() for p, q in parameters], own, rtol=0, atol=1e-10)
    assert held(ran) == []


def test_a_tree_of_one_word_is_scored_at_its_leaf():
    tree = parse_tree("(3 +1)", SIGNED_WORDS)
    model = TreeLSTM(Treebank((tree,), (), (), (UNKNOWN, *SIGNED_WORDS)), 4, 0, torch.float64)
    ran = Ran(model, sum_at_the_end, [[0]])
    m = model.modules
    value = m["leaf"](m["embedding"](torch.tensor([SIGNED_WORDS["+1"]])))
    loss = cross_entropy(m["head"](value), torch.tensor([3]))
    assert ran.scores[0].loss == pytest.approx(float(loss.detach()), abs=1e-14)
    assert held(ran) == []


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tree_losses(model, tree):
    """Cross-entropy by node, with the equations written out for vectors."""
    width = model.modules["embedding"].embedding_dim
    weights = {name: module.weight.detach().numpy() for name, module in model.modules.items()}
    bias = {name: m.bias.detach().numpy() for name, m in model.modules.items() if name != "embedding"}
    hidden, cells, losses = [], [], []
    for node in tree:
        children = [] if node.left < 0 else [node.left, node.right]
        name = "cell" if children else "leaf"
        x = np.concatenate([hidden[i] for i in children]) if children else weights["embedding"][node.word]
        gates = (weights[name] @ x + bias[name]).reshape(-1, width)
        c = sigmoid(gates[0]) * np.tanh(gates[-1])
        for gate, child in zip(gates[2:-1], children, strict=True):
            c = c + sigmoid(gate) * cells[child]
        cells.append(c)
        hidden.append(sigmoid(gates[1]) * np.tanh(c))
        logits = weights["head"] @ hidden[-1] + bias["head"]
        losses.append(math.log(np.exp(logits).sum()) - logits[max(node.label, 0)])
    return losses


@pytest.mark.parametrize("every_node", [False, True])
def test_tree_lstm_has_the_equations_and_the_loss_that_it_says(every_node):
    bank = treebank(12, 6, 5).binary()
    model = TreeLSTM(bank, 3, 0, torch.float64, every_node=every_node)
    labelled = inner = 0
    for key, tree in enumerate(bank.train + bank.validation):
        losses = tree_losses(model, tree)
        scored = [loss for loss, node in zip(losses, tree, strict=True) if node.label != NO_LABEL]
        wanted = scored if every_node and key in model.train else losses[-1:]
        loss, right, rows = model.evaluate([key])
        assert float(loss.detach()) == pytest.approx(np.mean(wanted), abs=1e-12)
        assert rows == len(wanted)
        assert 0 <= right <= rows
        labelled, inner = labelled + len(scored), inner + len(tree)
    assert labelled < inner  # so some nodes have none


def graph_loss(model, question):
    """Cross-entropy of the answer, node by node and edge by edge."""
    m, n = model.modules, len(question.nodes)
    cell = m["gru"].cell
    states = [torch.zeros(cell.hidden_size, dtype=torch.float64) for _ in range(n)]
    states[question.start][0] = 1
    for _ in range(model.steps):
        sums = [0] * n
        for source, kind, target in question.edges:
            there, back = m[("is_a", "has_fear")[kind]], m[("is_a_back", "has_fear_back")[kind]]
            sums[target] = sums[target] + there(states[source])
            sums[source] = sums[source] + back(states[target])
        states = [cell(a, h) for a, h in zip(sums, states, strict=True)]
    scores = torch.cat([m["score"](h) for h in states])
    return torch.logsumexp(scores, 0) - scores[question.answer]


def test_gated_graph_has_the_equations_that_it_says():
    data = graphs_of_all_sizes()
    model = GatedGraph(data, 5, 0, torch.float64, steps=3)
    assert tuple(model.modules) == (*EDGE_MAPS, "gru", "score")
    for key, question in enumerate(data.train + data.test):
        loss, _, rows = model.evaluate([key])
        torch.testing.assert_close(loss, graph_loss(model, question), rtol=0, atol=1e-12)
        assert rows == 1


def test_a_start_is_found_from_its_mark_alone():
    """The same graph asked about two nodes: their states differ at the start, and so do the losses."""
    a = Deduction(("a", "b", "c"), ((0, 0, 1), (1, 1, 2)), 0, 2, ())
    b = Deduction(a.nodes, a.edges, 1, 2, ())
    model = GatedGraph(Deductions((a, b), ()), 4, 0)
    assert not torch.equal(model.evaluate([0])[0], model.evaluate([1])[0])


def test_models_are_initialised_by_their_seed_alone():
    bank = treebank(2, 1, 3)
    state = [TreeLSTM(bank, 4, seed).modules.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(state[0][k], state[1][k]) for k in state[0])
    assert not torch.equal(state[0]["cell.weight"], state[2]["cell.weight"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TreeLSTM(treebank(1, 1, 2), 0, 0), "width = 0"),
        (lambda: GatedGraph(Deductions((), ()), 0, 0), "width = 0"),
        (lambda: GatedGraph(Deductions((), ()), 3, 0, steps=0), "steps = 0"),
        (
            lambda: GatedGraph(Deductions((Deduction(("a", "b", "z"), ((0, 0, 1),), 0, 1, ()),), ()), 3, 0),
            "'z'.*no edge",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(make, text):
    with pytest.raises(UserError, match=text):
        make()


def adam(lr, every):
    return lambda parameters: Updates(torch.optim.Adam(parameters, lr=lr), every)


def learned(ran):
    """(mean loss, share of right rows) on the validation part, of what the run has left."""
    model = copy.copy(ran.model)
    model.modules = torch.nn.ModuleDict({name: ran.module(name) for name in ran.model.modules})
    with torch.no_grad():
        loss, right, rows = model.evaluate(model.validation)
    return float(loss), right / rows


def test_tree_lstm_learns_signed_words():
    model = TreeLSTM(treebank(400, 200, 5), 16, 0)
    assert learned(Ran(model, adam(0.01, 20), [[]]))[0] > math.log(5) - 0.1
    loss, accuracy = learned(Ran(model, adam(0.01, 20), [model.train] * 3, active=8))
    assert loss < 0.8
    assert accuracy > 0.75


@pytest.mark.slow
def test_gated_graph_learns_to_answer_all_generated_questions():
    whole = generated()
    model = GatedGraph(Deductions(whole.train[:300], whole.test[:400]), 8, 0)
    assert learned(Ran(model, adam(0.02, 20), [[]]))[1] < 0.3
    assert learned(Ran(model, adam(0.02, 20), [model.train] * 2, active=8))[1] == 1
