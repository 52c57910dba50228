"""Messages that are lost or late, workers that leave and return: against workers that keep dictionaries of messages."""

import numpy as np
import pytest
import torch
from faulty_workers import SEED, Post, faulty, go
from test_methods import gradients, play
from test_methods_directed import digraph, push

import topologies
from decentral.algorithms import (
    ALGORITHMS,
    DSGD,
    DecentLaM,
    DIGing,
    DmSGD,
    GradientTracking,
    PushDIGing,
    PushSum,
    SlowMo,
)
from decentral.comm import LocalComm
from decentral.comm.faults.fates import Fates
from decentral.comm.faults.links import Faults
from decentral.rounds.advance import advance

N, D, ROUNDS, LR = 8, 3, 16, 0.1
UNDIRECTED = topologies.mixing_matrix(topologies.erdos_renyi(N, p=0.4, seed=2))
DIRECTED = push(digraph(N, 3))
SCHEDULE = topologies.one_peer_exponential(N)
AWAY = {"absent": (2, 5), "leave": 4, "back": 10}
FAULTS = {
    "loss": {"loss": 0.3},
    "both directions": {"loss": 0.3, "symmetric": True},
    "late": {"late": 0.5, "late_rounds": 3},
    "always late": {"late": 1.0, "late_rounds": 2},
    "loss and late": {"loss": 0.2, "late": 0.4, "late_rounds": 2},
    "absence": AWAY,
    "absence to the end": {"absent": (0,), "leave": 0},
    "all": {"loss": 0.2, "late": 0.4, "late_rounds": 3, **AWAY},
}


def start():
    return gradients(N, D, 1, seed=9)[0]


def by_dsgd(post, x, g, variant="atc"):
    box = {}
    for t, g_t in enumerate(g):
        w, before = post.open_round(t), x
        x = post.mix(box, w, x - LR * g_t, t) if variant == "atc" else post.mix(box, w, x, t) - LR * g_t
        x = held(post, t, x, before)
    return x


def by_doubly_averaged(post, x, g):
    first, second, m = {}, {}, np.zeros_like(x)
    for t, g_t in enumerate(g):
        w, x_before, m_before = post.open_round(t), x, m
        m = 0.8 * m + g_t
        x, m = post.mix(first, w, x - LR * m, t), post.mix(second, w, m, t)
        x, m = held(post, t, x, x_before), held(post, t, m, m_before)
    return x


def by_tracking(post, x, g):
    first, second, z = {}, {}, np.zeros_like(x)
    for t, g_t in enumerate(g):
        w, x_before, z_before = post.open_round(t), x, z
        y = z + g_t
        x, z = post.mix(first, w, x - LR * y, t), post.mix(second, w, y, t) - g_t
        x, z = held(post, t, x, x_before), held(post, t, z, z_before)
    return x


def by_push_sum(post, x, g):
    sums, weights, mass = [], [], np.ones((len(x), 1))
    for t, g_t in enumerate(g):
        w, x_before, mass_before = post.open_round(t), x, mass
        u = post.push(sums, w, mass * x - LR * g_t, t)
        mass = post.push(weights, w, mass, t)
        x, mass = held(post, t, u / mass, x_before), held(post, t, mass, mass_before)
    return x


def held(post, t, after, before):
    """Workers that are away stand still."""
    gone = np.array([post.gone(i, t) for i in range(len(after))])
    return np.where(gone[:, None], before, after)


CASES = {
    "DSGD": (DSGD(), by_dsgd),
    "DSGD, awc": (DSGD("awc"), lambda post, x, g: by_dsgd(post, x, g, "awc")),
    "DmSGD, doubly averaged": (DmSGD(0.8, "doubly-averaged"), by_doubly_averaged),
    "gradient tracking": (GradientTracking(), by_tracking),
    "push-sum": (PushSum(), by_push_sum),
}


SYMMETRIC = [kind for kind, settings in FAULTS.items() if settings.get("symmetric")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (graph, kind)
        for graph in ("undirected", "directed", "changing")
        for kind in FAULTS
        if graph == "undirected" or kind not in SYMMETRIC
    ],
)
def test_rounds_are_those_of_workers_that_keep_messages_in_dictionaries(name, kind, graph):
    method, workers = CASES[name]
    pushes = name == "push-sum"
    mixing = {"undirected": UNDIRECTED, "directed": DIRECTED, "changing": SCHEDULE}[graph]
    if graph == "directed" and not pushes:
        mixing = topologies.mixing_matrix(digraph(N, 3), "uniform")
    g, x = gradients(N, D, ROUNDS), start()
    comm, post = faulty(mixing, x, pushes, **FAULTS[kind]), Post(mixing, **FAULTS[kind])
    found, _ = go(method, comm, g, LR, x)
    expected = workers(post, x.numpy(), g.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    vectors = 2 if name in ("DmSGD, doubly averaged", "gradient tracking") else 1
    assert comm.faults.counts.tolist() == [vectors * post.lost, vectors * post.delayed]
    width = vectors * D * 8 + (
        8 if pushes else 0
    )  # what is lost was sent; nothing is sent to those who are away
    assert comm.ledger.bytes_sent.tolist() == (post.sent * width).tolist()
    assert comm.ledger.messages == vectors * post.sent.sum()


def test_a_plain_run_is_what_links_without_a_fault_give():
    g, x = gradients(N, D, ROUNDS), start()
    for method in (DSGD(), DecentLaM(0.5), GradientTracking(0.5), PushDIGing()):
        comm = faulty(UNDIRECTED, x, isinstance(method, PushDIGing))
        found, _ = go(method, comm, g, LR, x)
        assert torch.equal(found, play(method, UNDIRECTED, g, LR, start=x))


@pytest.mark.parametrize("mixing", [DIRECTED, SCHEDULE], ids=["directed", "changing"])
@pytest.mark.parametrize(
    "settings",
    [{"loss": 0.2}, {"loss": 0.2, "late": 0.5, "late_rounds": 3}, {"loss": 0.1, "late": 0.3, **AWAY}],
    ids=["lost", "late too", "away too"],
)
def test_push_sum_keeps_its_mass_and_finds_the_true_average(mixing, settings):
    x, zero = start(), torch.zeros(150, N, D, dtype=torch.float64)
    for rounds in (1, 5, 150):
        comm = faulty(mixing, x, pushes=True, **settings)
        found, state = go(PushSum(), comm, zero[:rounds], LR, x)
        under_way = sum(comm.faults.numbers[0], torch.zeros(N, 1, dtype=torch.float64))
        assert (state.w + under_way).sum().item() == pytest.approx(N, abs=1e-12)
        coming = sum(comm.faults.vectors[0], torch.zeros_like(x))
        torch.testing.assert_close((state.w * found + coming).sum(0), x.sum(0), rtol=0, atol=1e-12)
        assert comm.faults.drift.mean(0).abs().max() < 1e-13
    torch.testing.assert_close(found, x.mean(0).expand_as(x), rtol=0, atol=1e-8)
    assert comm.faults.counts[0] > 100


def test_push_diging_goes_on_tracking_the_mean_gradient():
    g, x = gradients(N, D, 30), start()
    comm = faulty(DIRECTED, x, pushes=True, loss=0.2, late=0.3, late_rounds=2)
    _, state = go(PushDIGing(), comm, g, LR, x)
    kept = state.z.sum(0) + sum(comm.faults.vectors[1]).sum(0)  # the sum of y is that of g
    torch.testing.assert_close(kept, torch.zeros(D, dtype=torch.float64), rtol=0, atol=1e-12)


def test_dsgd_keeps_its_average_where_both_directions_are_lost_and_not_where_one_is():
    x, zero = start(), torch.zeros(80, N, D, dtype=torch.float64)
    for symmetric in (True, False):
        comm = faulty(UNDIRECTED, x, loss=0.2, symmetric=symmetric)
        found, _ = go(DSGD(), comm, zero, LR, x)
        moved = found.mean(0) - x.mean(0)
        torch.testing.assert_close(comm.faults.drift.mean(0), moved, rtol=0, atol=1e-13)
        assert (moved.norm() < 1e-14) == symmetric
        torch.testing.assert_close(found, found.mean(0).expand_as(x), rtol=0, atol=1e-4)
    comm = faulty(UNDIRECTED, x, loss=0.2)
    _, state = go(GradientTracking(), comm, gradients(N, D, 10), LR, x)
    assert state.z.sum(0).norm() > 1e-3  # 0 is what gradient tracking lives by


def test_the_average_moves_by_what_is_expected():
    """Second moments of x under W - sum_ij lost_ij W_ij e_i (e_j - e_i)', round by round."""
    x, p, rounds, W = start().numpy(), 0.2, 6, UNDIRECTED.toarray()
    mean = W * (1 - p) + np.diag(np.diag(W) * p + p * (W.sum(1) - np.diag(W)))
    second, ones = x @ x.T, np.ones(N)
    for _ in range(rounds):
        spread = np.zeros((N, N))
        for i in range(N):
            for j in range(N):
                if i != j:
                    apart = second[i, i] + second[j, j] - 2 * second[i, j]
                    spread[i, i] += p * (1 - p) * W[i, j] ** 2 * apart
        second = mean @ second @ mean.T + spread
    expected = (ones @ second @ ones - ones @ x @ x.T @ ones) / N**2
    samples = []
    for seed in range(200):
        comm = LocalComm(UNDIRECTED)
        comm.faults = Faults(Fates(comm.schedule, seed, loss=p), False, comm.rows, torch.from_numpy(x))
        z = torch.from_numpy(x)
        for t in range(rounds):
            z = comm.at(t).mix(z)
        samples.append(((z.numpy().mean(0) - x.mean(0)) ** 2).sum())
    error = np.std(samples) / np.sqrt(len(samples))
    assert abs(np.mean(samples) - expected) < 4 * error
    assert error < 0.12 * expected


def test_the_share_of_lost_and_late_messages_is_what_was_asked_for():
    fates = Fates(topologies.constant(topologies.mixing_matrix(topologies.complete(32))), 1, 0.05, 0.3, 4)
    delays = np.concatenate([fates.messages(t).delays for t in range(40)])
    assert np.mean(delays == -1) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / len(delays)))
    came = delays[delays >= 0]
    assert np.mean(came > 0) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / len(came)))
    shares = np.bincount(came[came > 0])[1:] / (came > 0).sum()
    np.testing.assert_allclose(shares, 0.25, atol=0.02)
    more = Fates(fates.schedule, 1, 0.2)
    few, many = (np.flatnonzero(f.messages(3).delays == -1) for f in (Fates(fates.schedule, 1, 0.05), more))
    assert set(few) < set(many)
    other = Fates(fates.schedule, 2, 0.2)
    assert (other.messages(3).delays != more.messages(3).delays).any()
    assert (more.messages(4).delays != more.messages(3).delays).any()


@pytest.mark.parametrize("t", [0, 1, 5, 9])
@pytest.mark.parametrize("kind", FAULTS)
def test_rows_or_columns_go_on_summing_to_one(kind, t):
    rows = sum(Fates(topologies.constant(UNDIRECTED), SEED, **FAULTS[kind]).stale(t))
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-15)
    columns = sum(Fates(topologies.constant(DIRECTED), SEED, **FAULTS[kind]).pushed(t))
    np.testing.assert_allclose(columns.sum(axis=0), 1, rtol=0, atol=1e-15)


def gossiping():
    """Every method that may have faults."""
    return {
        name: kind()
        for name, kind in ALGORITHMS.items()
        if name not in ("pmsgd", "local-sgd", "diloco", "slowmo") and "static" not in kind.traits.needs
    } | {"slowmo": SlowMo(base="dsgd", every=3)}


@pytest.mark.parametrize("name", gossiping())
def test_the_first_vector_that_a_method_mixes_is_its_model(name, monkeypatch):
    method, x = gossiping()[name], start()  # mean_drift_sq rests on it
    comm, seen = LocalComm(UNDIRECTED), []
    start_ = LocalComm.start
    monkeypatch.setattr(LocalComm, "start", lambda self, v: seen.append(v.clone()) or start_(self, v))
    method.step(x.clone(), method.init(x, comm), torch.zeros_like(x), comm.at(0), LR)
    assert torch.equal(seen[0], x)


@pytest.mark.parametrize("method", [DSGD(), DIGing(0.5)], ids=str)
def test_a_worker_that_returns_goes_on_with_what_it_left(method):
    g, x = gradients(N, D, 20), start()
    comm = faulty(UNDIRECTED, x, **AWAY)
    left, _ = go(method, faulty(UNDIRECTED, x, **AWAY), g[: AWAY["leave"]], LR, x)
    late, _ = go(method, faulty(UNDIRECTED, x, **AWAY), g[: AWAY["back"]], LR, x)
    end, _ = go(method, comm, g, LR, x)
    for worker in AWAY["absent"]:
        assert torch.equal(left[worker], late[worker])
        assert not torch.equal(left[worker], end[worker])
    others = [i for i in range(N) if i not in AWAY["absent"]]
    assert (left[others] != late[others]).any(1).all()


@pytest.mark.parametrize("pushes", [False, True])
def test_mixing_leaves_those_who_are_away_as_they_are(pushes):
    x, away = start(), list(AWAY["absent"])
    comm = faulty(UNDIRECTED, x, pushes, late=0.9, late_rounds=3, **AWAY)
    for t in range(AWAY["leave"] + 3):
        v, x = x, comm.at(t).mix(x)
    torch.testing.assert_close(x[away], v[away], rtol=0, atol=1e-15)


@pytest.mark.parametrize("pushes", [False, True])
def test_what_was_sent_stays_what_it_was(pushes):
    x, alone, shared = start(), *(faulty(UNDIRECTED, start(), pushes, late=0.9, late_rounds=3) for _ in "ab")
    for t in range(6):
        given = x.clone()
        mixed = shared.at(t).mix(given)
        given.zero_()  # as a method may, once it has been mixed
        assert torch.equal(mixed, alone.at(t).mix(x))
        x = mixed.clone()


@pytest.mark.parametrize("method", [DSGD(), GradientTracking(0.5), PushSum()], ids=str)
def test_the_round_loop_hands_links_with_faults_whole_vectors(method, monkeypatch):
    g, x, late = gradients(N, 12, 6), gradients(N, 12, 1)[0], {"late": 0.5, "late_rounds": 2}
    whole, comm = (faulty(UNDIRECTED, x, isinstance(method, PushSum), **late) for _ in "ab")
    expected, _ = go(method, whole, g, LR, x)
    monkeypatch.setattr("decentral.rounds.advance.block_width", lambda h, d: 5)
    found, state = x.clone(), method.init(x, comm)
    for t, g_t in enumerate(g):
        parts = [(slice(a, b), g_t[:, a:b].clone()) for a, b in ((0, 4), (4, 12))]
        found, state = advance(method, found, state, parts, comm, t, LR)
    assert torch.equal(found, expected)
    assert np.array_equal(comm.ledger.bytes_sent, whole.ledger.bytes_sent)
