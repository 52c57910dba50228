"""RelaySGD: every model reaches every worker once, on a tree; both forms against messages written out singly."""

import networkx as nx
import numpy as np
import pytest
import torch
from command import but_wall_time, decentral, metrics, write
from test_fixed_points import D, dense_terms, expected
from test_methods import gradients, play
from test_methods_directed import iterate, through_the_loop

import topologies
from decentral.algorithms import DSGD, PmSGD, RelaySGD
from decentral.comm import LocalComm
from decentral.rounds.trials.needs import unmet
from decentral.runs.journal import Journal

FORMS = [RelaySGD(), RelaySGD("gradient")]


def shuffled(tree, seed):
    """The tree with its workers in a random order."""
    order = np.random.default_rng(seed).permutation(len(tree))
    return nx.relabel_nodes(tree, {i: int(order[i]) for i in tree})


TREES = {
    "path": topologies.path(8),
    "star": topologies.star(7),
    "tree": topologies.tree(10),
    "shuffled": shuffled(nx.balanced_tree(2, 2), 0),
    "random": shuffled(nx.random_labeled_tree(9, seed=1), 1),
    "two": topologies.path(2),
}


pytestmark = pytest.mark.usefixtures("home")


def weights_of(tree):
    """Metropolis weights with worker i in row i, whatever the order of the graph's nodes."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(tree)))
    graph.add_edges_from(tree.edges)
    return topologies.mixing_matrix(graph, "metropolis")


def by_messages(tree, g, lrs, start, form):
    """Each message is the sum over the other neighbours' last messages, none is ever taken back."""
    n, x = len(tree), start.copy()
    near = {i: sorted(tree[i]) for i in range(n)}
    m = {(i, j): np.zeros(x.shape[1]) for i in near for j in near[i]}
    c = dict.fromkeys(m, 0)
    for g_t, lr in zip(g, lrs, strict=True):
        own = x - lr * g_t if form == "model" else lr * g_t
        m_new = {(i, j): own[i] + sum(m[k, i] for k in near[i] if k != j) for i, j in m}
        c = {(i, j): 1 + sum(c[k, i] for k in near[i] if k != j) for i, j in m}
        m = m_new
        for i in range(n):
            arrived, count = sum((m[j, i] for j in near[i]), own[i]), 1 + sum(c[j, i] for j in near[i])
            x[i] = (arrived + (n - count) * start[i]) / n if form == "model" else x[i] - arrived / n
    return x


@pytest.mark.parametrize("method", FORMS, ids=str)
@pytest.mark.parametrize("tree", TREES)
def test_it_is_the_papers_algorithm_with_messages_one_by_one(tree, method):
    tree = TREES[tree]
    n, rounds = len(tree), 25
    g, start = gradients(n, 4, rounds), gradients(n, 4, 1, seed=3)[0]  # models need not begin alike
    lrs = [0.1 * (1 + t % 3) for t in range(rounds)]
    found = play(method, weights_of(tree), g, lrs, start)
    expected_x = by_messages(tree, g.numpy(), lrs, start.numpy().copy(), method.form)
    np.testing.assert_allclose(found, expected_x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_every_gradient_arrives_once_a_neighbours_at_once_others_a_round_later_for_each_further_edge(tree):
    tree = TREES[tree]
    n = len(tree)
    apart = dict(nx.all_pairs_shortest_path_length(tree))
    comm, method = LocalComm(weights_of(tree)), RelaySGD("gradient")
    x = torch.zeros(n, n, dtype=torch.float64)
    state = method.init(x, comm)
    for t in range(n + 2):  # worker k's gradient is the unit vector k in round 0 only
        g = torch.eye(n, dtype=torch.float64) if t == 0 else torch.zeros(n, n, dtype=torch.float64)
        x, state = method.step(x, state, g, comm.at(t), 1.0)
        seen = np.array([[float(apart[i][k] <= t + 1) for k in range(n)] for i in range(n)])
        np.testing.assert_allclose(-n * x, seen, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tree", TREES)
def test_the_counts_are_those_of_the_workers_that_are_near_enough(tree):
    tree = TREES[tree]
    apart = dict(nx.all_pairs_shortest_path_length(tree))
    comm, x = LocalComm(weights_of(tree)), torch.zeros(len(tree), 2, dtype=torch.float64)
    method = RelaySGD()
    state = method.init(x, comm)
    for t in range(len(tree) + 1):
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 1.0)
        behind = [
            sum(apart[i][k] == apart[j][k] + 1 and apart[j][k] <= t for k in tree) for j, i in comm.edges_in
        ]
        assert state.c[:, 0].tolist() == behind


@pytest.mark.slow
@pytest.mark.parametrize("tree", TREES)
def test_the_model_form_brings_every_worker_to_the_optimum_whatever_the_data(tree):
    w = weights_of(TREES[tree])
    hessians, linear, big = dense_terms(w.shape[0])
    best = expected("optimum", 0, w.toarray(), big, linear, 0)
    x = iterate(RelaySGD(), w, hessians, linear, 0.15, 900)
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-10 * np.abs(best).max())
    gossip = iterate(DSGD(), w, hessians, linear, 0.15, 900)
    assert np.abs(gossip - best).max() > 1e-2 or tree == "two"  # the data are heterogeneous


@pytest.mark.parametrize("tree", TREES)
def test_the_gradient_form_rests_where_linear_algebra_says(tree):
    tree, lr = TREES[tree], 0.1
    n, eye = len(tree), np.eye(D)
    hessians, linear, big = dense_terms(n)
    apart = nx.floyd_warshall_numpy(tree, nodelist=range(n))
    # x_i - z - (lr / n) sum_k tau_ik (H_k x_k - r_k) = 0 and sum_k (H_k x_k - r_k) = 0, for x (n, D) and z (D)
    late = lr / n * np.kron(np.maximum(apart - 1, 0), eye)
    left = np.block(
        [[np.eye(n * D) - late @ big, -np.tile(eye, (n, 1))], [np.tile(eye, n) @ big, np.zeros((D, D))]]
    )
    right = np.concatenate([-late @ linear.reshape(-1), linear.sum(0)])
    X = np.linalg.solve(left, right)[: n * D].reshape(n, D)
    x = iterate(RelaySGD("gradient"), weights_of(tree), hessians, linear, lr, 900)
    np.testing.assert_allclose(x, X, rtol=0, atol=1e-10 * np.abs(X).max())
    assert np.abs(X - X.mean(0)).max() > 1e-3 or n == 2  # workers stay apart


@pytest.mark.parametrize("method", FORMS, ids=str)
def test_with_one_worker_it_is_sgd(method):
    g = gradients(1, 4, 20)
    torch.testing.assert_close(
        play(method, np.ones((1, 1)), g), play(PmSGD(0.0), np.ones((1, 1)), g), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("method", FORMS, ids=str)
def test_the_weights_do_not_matter(method):
    g = gradients(8, 3, 15)
    graph = topologies.path(8)
    one, *others = (
        play(method, topologies.mixing_matrix(graph, w), g) for w in ("metropolis", "lazy", "uniform", "push")
    )
    assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", FORMS, ids=str)
def test_blocks_of_columns_have_the_bits_and_the_bytes_of_one_block(method, dtype, monkeypatch):
    tree, d, rounds = TREES["tree"], 11, 12
    n = len(tree)
    g = gradients(n, d, rounds).to(dtype)
    x, state, ledger = through_the_loop(method, weights_of(tree), g, d, monkeypatch)
    for width in (1, 3, 10):
        again, cut_state, cut = through_the_loop(method, weights_of(tree), g, width, monkeypatch)
        assert torch.equal(again, x)
        assert all(torch.equal(a, b) for a, b in zip(cut_state, state, strict=True))
        assert np.array_equal(cut.bytes_sent, ledger.bytes_sent)
        assert cut.messages == ledger.messages
    packet = (
        d + (method.form == "model")
    ) * x.element_size()  # a count travels with a model, not with a gradient
    degree = np.array([tree.degree(i) for i in range(n)])
    assert np.array_equal(ledger.bytes_sent, rounds * degree * packet)
    assert ledger.messages == rounds * 2 * (n - 1)


def test_what_it_needs_is_a_tree_that_does_not_change():
    for tree in TREES.values():
        for weights in ("metropolis", "uniform"):  # which need not be symmetric
            w = topologies.mixing_matrix(tree, weights)
            assert unmet(RelaySGD(), topologies.constant(w)) is None
    assert unmet(RelaySGD(), topologies.constant(np.ones((1, 1)))) is None
    directed = nx.DiGraph([(0, 1), (1, 2), (2, 0)])
    for graph in (topologies.ring(5), topologies.complete(3), topologies.grid(6), directed):
        rule, remedy = unmet(RelaySGD(), topologies.constant(topologies.mixing_matrix(graph)))
        assert "a tree" in rule
        assert "path, star or tree" in remedy
    rule, _ = unmet(RelaySGD(), topologies.one_peer_exponential(4))
    assert rule == "the same W in every round"
    with pytest.raises(ValueError, match="form = 'models' must be 'model' or 'gradient'"):
        RelaySGD("models")


@pytest.mark.parametrize(
    ("topology", "reason"),
    [
        ({"name": "ring", "workers": 6}, "RelaySGD needs a tree: undirected, connected, without a cycle"),
        ({"name": "exponential", "workers": 4}, "RelaySGD needs a tree"),
        ({"name": "one-peer-hypercube", "workers": 4}, "RelaySGD needs the same W in every round"),
    ],
)
@pytest.mark.parametrize("form", ["model", "gradient"])
def test_the_command_refuses_what_is_no_tree_with_the_reason(home, topology, reason, form):
    file = write(home / "x.toml", topology=topology, algorithm={"name": "relay-sgd", "form": form})
    said = decentral("run", file, "--out", "out")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert reason in said.err
    assert "use " in said.err
    assert not (home / "out").exists()


class Died(BaseException):
    """Ends a run as a kill would: nothing of ours is called, nothing more is written."""


def check_that_resuming_changes_nothing(home, monkeypatch, file):
    """Run an experiment, and again with each of its runs killed after its first checkpoint: the same metrics."""
    assert decentral("run", file, "--out", "whole").code == 0
    keep, ended, whole = Journal.keep, [], metrics(home / "whole")

    def dies(journal, state):
        keep(journal, state)
        if journal.folder.path not in ended:
            ended.append(journal.folder.path)
            raise Died

    for run in range(len(whole)):
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "keep", dies)
            with pytest.raises(Died):
                decentral("run", file, "--out", "out", *["--resume"] * (run > 0))
        assert len(ended) == run + 1
    assert decentral("run", file, "--out", "out", "--resume").code == 0
    resumed = metrics(home / "out")
    assert whole.keys() == resumed.keys()
    for name, rows in whole.items():
        assert but_wall_time(rows) == but_wall_time(resumed[name])


@pytest.mark.parametrize("topology", [{"name": "tree", "workers": 7}, {"name": "path", "workers": 2}])
def test_runs_that_were_interrupted_end_in_the_same_bits(home, monkeypatch, topology):
    algorithms = [{"name": "relay-sgd"}, {"name": "relay-sgd", "form": "gradient"}, {"name": "push-sum"}]
    file = write(
        home / "x.toml",
        problem={"name": "quadratic", "dimension": 5, "noise": 0.1},
        topology=topology,
        sweep={"algorithm": algorithms},
        schedule={"name": "cosine"},
        train={"lr": 0.05, "rounds": 14, "record_every": 2, "checkpoint_every": 3},
    )
    check_that_resuming_changes_nothing(home, monkeypatch, file)
