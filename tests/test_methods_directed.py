"""Push-sum and push-DIGing: sums that are kept on directed graphs, fixed points, traffic, what they refuse."""

from typing import NamedTuple

import networkx as nx
import numpy as np
import pytest
import torch
from command import decentral, experiment, metrics, write
from test_fixed_points import D, dense_terms, expected
from test_methods import gradients, play

import topologies
from decentral.algorithms import ALGORITHMS, DSGD, PushDIGing, PushSum, SlowMo
from decentral.comm import LocalComm
from decentral.rounds.advance import advance
from decentral.rounds.trials.needs import unmet
from decentral.runs.reading import read
from decentral.runs.rounds.config import RoundsRun

PUSH = [PushSum(), PushDIGing()]


pytestmark = pytest.mark.usefixtures("home")


def digraph(n, seed, edges=None):
    """A directed ring in a random order, and as many random edges again: strongly connected, of unequal degrees."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((int(order[i]), int(order[(i + 1) % n])) for i in range(n))
    while graph.number_of_edges() < (edges or 2 * n):
        i, j = rng.integers(0, n, 2)
        if i != j:
            graph.add_edge(int(i), int(j))
    return graph


def push(graph):
    return topologies.mixing_matrix(graph, "push")


def perron(P):
    """The eigenvector of eigenvalue 1, scaled to sum n."""
    values, vectors = np.linalg.eig(P)
    w = vectors[:, abs(values - 1).argmin()].real
    return w / w.sum() * len(P)


CHANGING = [  # no single matrix connects all workers; the three together do
    np.array([[0.5, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 0.5]]),
    np.array([[1, 0, 0, 0], [0, 0.25, 0, 0], [0, 0.75, 0.4, 0], [0, 0, 0.6, 1]]),
    np.array([[0.9, 0, 0, 0.5], [0.1, 1, 0.2, 0], [0, 0, 0.8, 0], [0, 0, 0, 0.5]]),
]
GRAPHS = {
    **{f"random {n}": (n, lambda n=n: push(digraph(n, seed=n))) for n in (4, 5, 8, 12)},
    "star": (6, lambda: push(topologies.star(6))),
    "changing": (4, lambda: topologies.cyclic(CHANGING)),
}


def test_the_oracle_of_the_fact_sheet():
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0)])
    P = push(graph)
    np.testing.assert_allclose(P.toarray(), [[1 / 3, 0, 0.5], [1 / 3, 0.5, 0], [1 / 3, 0.5, 0.5]])
    start = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    comm, x = LocalComm(P), start.clone()
    method = PushSum()
    state = method.init(x, comm)
    for t in range(200):
        x, state = method.step(x, state, torch.zeros_like(x), comm.at(t), 0.1)
    np.testing.assert_allclose(state.w[:, 0], [1, 2 / 3, 4 / 3], rtol=0, atol=1e-14)
    np.testing.assert_allclose(x[:, 0] * state.w[:, 0], [3, 2, 4], rtol=0, atol=1e-13)
    np.testing.assert_allclose(x, 3, rtol=0, atol=1e-13)
    naive = play(DSGD(), P.T.tocsr(), torch.zeros(200, 3, 1, dtype=torch.float64), 0.1, start)
    np.testing.assert_allclose(naive, 31 / 9, rtol=0, atol=1e-13)  # 3.4444: the transpose weighs workers


@pytest.mark.parametrize("n", [2, 8, 9, 16, 23])
@pytest.mark.parametrize("changing", [False, True])
def test_where_the_matrix_is_doubly_stochastic_push_sum_is_dsgd(n, changing):
    graph = topologies.exponential(n)
    mixing = topologies.one_peer_exponential(n) if changing else push(graph)
    for dtype in (torch.float32, torch.float64):
        g = gradients(n, 6, 40).to(dtype)
        start = gradients(n, 6, 1, seed=1)[0].to(dtype)
        ours, dsgd = (play(method, mixing, g, 0.1, start) for method in (PushSum(), DSGD()))
        if changing or len(graph.edges) // n + 1 in (2, 4):  # weights 1/2, 1/4: w stays 1 in every bit
            assert torch.equal(ours, dsgd)
        else:
            torch.testing.assert_close(ours, dsgd, rtol=0, atol=1e-13 if dtype is torch.float64 else 1e-5)


@pytest.mark.parametrize("graph", GRAPHS)
def test_push_sum_rests_where_linear_algebra_says(graph):
    n, make = GRAPHS[graph]
    schedule = topologies.cyclic(CHANGING) if graph == "changing" else topologies.constant(make())
    hessians, linear, big = dense_terms(n)
    lr, eye = 0.05, np.eye(D)
    turns = [schedule.matrix(t).toarray() for t in schedule.rounds]
    w = perron(topologies.product(schedule))
    A, b = np.eye(n * D), np.zeros(n * D)  # x after the rounds so far: A x + b
    for P in turns:
        after = P @ w
        step = np.kron(P / after[:, None], eye)
        A, b = (
            step @ (np.kron(np.diag(w), eye) - lr * big) @ A,
            step @ ((np.kron(np.diag(w), eye) - lr * big) @ b + lr * linear.reshape(-1)),
        )
        w = after
    X = np.linalg.solve(np.eye(n * D) - A, b).reshape(n, D)
    x = iterate(PushSum(), schedule, hessians, linear, lr, 999)
    np.testing.assert_allclose(x, X, rtol=0, atol=1e-10 * np.abs(X).max())
    assert np.abs(X - X.mean(0)).max() > 1e-3  # there is a bias to be found


@pytest.mark.parametrize("graph", [name for name in GRAPHS if name != "changing"])
def test_the_fixed_point_of_push_sum_is_that_of_its_text(graph):
    n, make = GRAPHS[graph]
    P, lr = make().toarray(), 0.05
    hessians, linear, big = dense_terms(n)
    O, Pk = np.kron(np.diag(perron(P)), np.eye(D)), np.kron(P, np.eye(D))  # noqa: E741
    # (I - P) O X = P lr D (c - X)
    X = np.linalg.solve((np.eye(n * D) - Pk) @ O + lr * Pk @ big, lr * Pk @ linear.reshape(-1)).reshape(n, D)
    x = iterate(PushSum(), topologies.constant(make()), hessians, linear, lr, 999)
    np.testing.assert_allclose(x, X, rtol=0, atol=1e-10 * np.abs(X).max())


def iterate(method, mixing, hessians, linear, lrs, rounds):
    comm, H, r = LocalComm(mixing), torch.from_numpy(hessians), torch.from_numpy(linear)
    x = torch.zeros(linear.shape, dtype=torch.float64)
    state = method.init(x, comm)
    for t in range(rounds):
        g = (H @ x.unsqueeze(-1)).squeeze(-1) - r
        x, state = method.step(x, state, g, comm.at(t), lrs if isinstance(lrs, float) else lrs[t])
    return x.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_push_diging_has_no_bias_on_any_directed_graph(graph):
    n, make = GRAPHS[graph]
    hessians, linear, big = dense_terms(n)
    best = expected("optimum", 0, np.eye(n), big, linear, 0)
    x = iterate(PushDIGing(), make(), hessians, linear, 0.05, 1300)
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-10 * np.abs(best).max())


def test_a_learning_rate_that_changes_does_not_move_push_diging_from_the_optimum():
    hessians, linear, big = dense_terms(8)
    best = expected("optimum", 0, np.eye(8), big, linear, 0)
    lrs = [0.05] * 1300 + [0.005] * 5 + [0.04] * 5
    x = iterate(PushDIGing(), GRAPHS["random 8"][1](), hessians, linear, lrs, len(lrs))
    np.testing.assert_allclose(x, best, rtol=0, atol=1e-10 * np.abs(best).max())


@pytest.mark.parametrize("graph", GRAPHS)
def test_mass_weight_and_tracked_gradients_are_kept_in_every_round(graph):
    n, make = GRAPHS[graph]
    for method in PUSH:
        comm, x = LocalComm(make()), gradients(n, 3, 1, seed=5)[0]
        state = method.init(x, comm)
        mass = x.sum(0)
        for t, g in enumerate(gradients(n, 3, 40)):
            lr = 0.1 / (1 + t)
            x, state = method.step(x, state, g, comm.at(t), lr)
            mass = mass - lr * g.sum(0)  # of push-DIGing too: its y sum to the gradients
            torch.testing.assert_close((state.w * x).sum(0), mass, rtol=0, atol=1e-12)
            torch.testing.assert_close(
                state.w.sum(), torch.tensor(float(n), dtype=x.dtype), rtol=0, atol=1e-13
            )
            assert (state.w > 0).all()
            if isinstance(method, PushDIGing):  # y = z + g sums to the gradients
                torch.testing.assert_close(state.z.sum(0), torch.zeros_like(mass), rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
def test_each_is_the_recursion_of_its_paper(graph):
    n, make = GRAPHS[graph]
    schedule = topologies.cyclic(CHANGING) if graph == "changing" else topologies.constant(make())
    lrs, g = [0.1 * (1 + t % 3) for t in range(30)], gradients(n, 4, 30).numpy()
    u, v, y = np.zeros((n, 4)), np.ones(n), g[0]
    u2, v2 = np.zeros((n, 4)), np.ones(n)
    for t, lr in enumerate(lrs):
        P = schedule.matrix(t).toarray()
        u, v = P @ (u - lr * g[t]), P @ v
        u2, v2 = P @ (u2 - lr * y), P @ v2
        if t + 1 < len(g):
            y = P @ y + g[t + 1] - g[t]
    given = torch.from_numpy(g)
    np.testing.assert_allclose(play(PushSum(), schedule, given, lrs), u / v[:, None], rtol=0, atol=1e-12)
    np.testing.assert_allclose(play(PushDIGing(), schedule, given, lrs), u2 / v2[:, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", PUSH, ids=str)
def test_with_one_worker_it_is_sgd(method):
    g = gradients(1, 4, 20)
    lrs = [0.1 * (1 + t % 5) for t in range(20)]
    x = play(method, np.ones((1, 1)), g, lrs)
    torch.testing.assert_close(x, -sum(lr * g_t for lr, g_t in zip(lrs, g, strict=True)), rtol=0, atol=1e-12)


def through_the_loop(method, mixing, g, width, monkeypatch):
    """x, state and ledger after rounds in blocks of at most ``width`` columns; every other gradient in two blocks."""
    comm, x = LocalComm(mixing), torch.zeros(g.shape[1:], dtype=g.dtype)
    state, d = method.init(x, comm), x.shape[1]
    with monkeypatch.context() as patch:
        patch.setattr("decentral.rounds.advance.block_width", lambda h, d: width)
        for t, g_t in enumerate(g):
            cut = d // 2 if t % 2 and width < d else d
            blocks = [(slice(a, b), g_t[:, a:b].clone()) for a, b in ((0, cut), (cut, d)) if b > a]
            x, state = advance(method, x, state, blocks, comm, t, 0.05 * (1 + t % 3), weight_decay=0.01)
    return x, state, comm.ledger


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", PUSH, ids=str)
def test_blocks_of_columns_have_the_bits_and_the_bytes_of_one_block(method, dtype, monkeypatch):
    n, d, rounds = 8, 11, 12
    for mixing in (GRAPHS["random 8"][1](), topologies.one_peer_exponential(8)):
        g = gradients(n, d, rounds).to(dtype)
        x, state, ledger = through_the_loop(method, mixing, g, d, monkeypatch)
        for width in (1, 3, 10):
            again, cut_state, cut = through_the_loop(method, mixing, g, width, monkeypatch)
            assert torch.equal(again, x)
            assert all(torch.equal(a, b) for a, b in zip(cut_state, state, strict=True))
            assert np.array_equal(cut.bytes_sent, ledger.bytes_sent)
            assert cut.messages == ledger.messages
        schedule = LocalComm(mixing).schedule
        degrees = np.array([(schedule.matrix(t).toarray() != 0).sum(0) - 1 for t in range(rounds)])
        vectors = 2 if isinstance(method, PushDIGing) else 1
        packet = (vectors * d + 1) * x.element_size()  # w travels with them
        assert np.array_equal(ledger.bytes_sent, degrees.sum(0) * packet)
        assert ledger.messages == degrees.sum() * vectors


class Slower(NamedTuple):
    """w (h, 1): a number a worker."""

    w: torch.Tensor


class Slowing:
    """Descends by w g, and halves w where it lies."""

    def step(self, x, state, g, comm, lr):
        x.sub_(state.w * g, alpha=lr)
        state.w.mul_(0.5)
        return x, state


def test_a_method_may_write_to_its_numbers_however_the_columns_are_cut(monkeypatch):
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: 2)
    comm, x, state = LocalComm(np.full((3, 3), 1 / 3)), torch.zeros(3, 5), Slower(torch.ones(3, 1))
    for t in range(3):
        x, state = advance(Slowing(), x, state, [(slice(0, 5), torch.ones(3, 5))], comm, t, 1.0)
    assert torch.equal(x, torch.full((3, 5), -1.75))
    assert torch.equal(state.w, torch.full((3, 1), 0.125))


@pytest.mark.parametrize("method", PUSH, ids=str)
def test_row_stochastic_weights_are_not_what_it_needs(method):
    directed = topologies.constant(topologies.mixing_matrix(digraph(8, 8), "uniform"))
    rule, remedy = unmet(method, directed)
    assert "columns of W that sum to 1" in rule
    assert "topology.weights = push" in remedy
    assert unmet(method, topologies.constant(push(digraph(8, 8)))) is None
    assert unmet(method, topologies.cyclic(CHANGING)) is None
    assert unmet(method, topologies.one_peer_exponential(6)) is None


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if not name.startswith("push")])
def test_other_methods_refuse_weights_that_are_column_stochastic_only(name):
    method = ALGORITHMS[name]()
    rule, _ = unmet(method, topologies.constant(push(digraph(8, 8))))
    assert rule == "rows of W that sum to 1" or method.traits.needs != ("rows",)


def write_digraph(home):
    nx.write_edgelist(digraph(6, 3), home / "g.edgelist", data=False)
    return {"name": "file", "path": "g.edgelist", "directed": True}


def refused(home, **changes):
    """What the command said, in the one line of a refusal that wrote nothing."""
    said = decentral("run", write(home / "x.toml", **changes), "--out", "out")
    assert said.code == 2, said.err
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("decentral: ")
    assert not (home / "out").exists()
    return said.err


@pytest.mark.parametrize("name", ["push-sum", "push-diging"])
def test_the_command_refuses_row_stochastic_weights_with_the_reason(home, name):
    topology = {**write_digraph(home), "weights": "uniform"}
    said = refused(home, topology=topology, algorithm={"name": name})
    assert "needs columns of W that sum to 1" in said
    assert "use topology.weights = push" in said


@pytest.mark.parametrize("name", ["pmsgd", "dsgd", "dmsgd", "gradient-tracking", "local-sgd", "slowmo"])
def test_the_command_refuses_push_weights_for_other_methods_with_the_reason(home, name):
    topology = {**write_digraph(home), "weights": "push"}
    said = refused(home, topology=topology, algorithm={"name": name})
    assert "needs rows of W that sum to 1" in said
    assert "use push-sum or push-diging" in said


def test_a_matrix_of_which_neither_rows_nor_columns_sum_to_one_is_refused(home):
    w = push(digraph(6, 3)).toarray()
    w[0, 0] += 0.1
    np.save(home / "w.npy", w)
    topology = {**write_digraph(home), "weights": "w.npy"}
    assert "of the mixing matrix sums to" in refused(home, topology=topology, algorithm={"name": "push-sum"})


def test_the_weights_are_push_unless_others_are_asked_for(home):
    def weights(method, **topology):
        topology = {"name": "star", "workers": 5, **topology}
        table = experiment(topology=topology, algorithm={"name": method}) | {"seeds": [0]}
        return read(RoundsRun, table).topology.weights

    assert weights("push-sum") == weights("push-diging") == "push"
    assert weights("dsgd") == "metropolis"
    assert weights("push-sum", weights="metropolis") == "metropolis"
    assert weights("push-sum", name="one-peer-exponential") is None


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["star", "file"])
def test_a_run_of_push_diging_ends_at_the_optimum_and_one_of_push_sum_near_it(home, topology):
    place = write_digraph(home) if topology == "file" else {"name": "star", "workers": 6}
    file = write(
        home / "x.toml",
        topology=place,
        sweep={"algorithm": {"name": ["push-sum", "push-diging"]}},
        train={"lr": 0.1, "rounds": 1500, "record_every": 500},
    )
    assert decentral("run", file, "--out", "out").code == 0
    found = {run.split("_")[0]: rows[-1] for run, rows in metrics(home / "out").items()}
    assert float(found["push-diging"]["bias_sq"]) < 1e-18
    assert 1e-6 < float(found["push-sum"]["bias_sq"]) < 1e-1
    (config,) = (home / "out" / "runs").glob("push-sum*/config.toml")
    assert 'weights = "push"' in config.read_text()


def test_push_sum_takes_part_in_slowmo_on_doubly_stochastic_weights():
    w, g = topologies.mixing_matrix(topologies.exponential(8), "push"), gradients(8, 3, 24)
    ours = play(SlowMo("push-sum", every=4), w, g)
    torch.testing.assert_close(ours, play(SlowMo("dsgd", every=4), w, g), rtol=0, atol=1e-12)
