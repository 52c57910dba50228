"""Every stand-in of a communicator is a Mixer and mixes what a LocalComm mixes; what follows is written once."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import decentral
import topologies
from decentral.comm import Communicator, LocalComm, Mixer
from decentral.comm.ranks import RanksComm
from decentral.comm.stand_ins import Around, AtOnce, Averaged
from decentral.comm.world import LocalWorld, find_world
from decentral.commands.compatibility import _Workers
from decentral.rounds.compiled import _CountingComm, _TracedComm
from decentral.rounds.early import EarlyComm
from decentral.rounds.fused.program import _RecordingComm  # what it records is run in test_fused
from decentral.rounds.posting import PostingComm, in_turns
from decentral.rounds.trials.messages import RecordingComm
from decentral.rounds.trials.stability import ModeComm
from decentral.runtime import VirtualClock
from decentral.stages.peer_comm import PeerComm, interruptible

RING = topologies.mixing_matrix(topologies.ring(6))
PATH = topologies.mixing_matrix(topologies.path(5))
EQUAL = topologies.mixing_matrix(topologies.complete(6), "uniform")
DIRECTED = topologies.mixing_matrix(topologies.exponential(6), "uniform")
GRAPHS = {"ring": RING, "path": PATH, "complete": EQUAL, "directed": DIRECTED}
KINDS = {
    LocalComm, RecordingComm, PeerComm, PostingComm, EarlyComm, Averaged, _TracedComm, _CountingComm, ModeComm,
    _RecordingComm, _Workers,
}  # fmt: skip


def models(w):
    return torch.from_numpy(np.random.default_rng(5).standard_normal((w.shape[0], 7)))


def answers(comm, x):
    """What a method is told, by each way to ask."""
    sent, mixed = comm.mix_sent(x.clone())
    return {
        "mix": comm.mix(x.clone()), "mix_": comm.mix_(x.clone()), "mix_sent": mixed, "sent": sent,
        "split": comm.finish(comm.start(x.clone())), "mean": comm.mean(x.clone()),
    }  # fmt: skip


def on_edges(comm, x):
    y = comm.exchange(comm.departing(x))
    weighted = y * torch.from_numpy(comm.weights_in)[:, None]
    return {
        "arrived": comm.arrived(weighted),
        "in": comm.edges_in,
        "out": comm.edges_out,
        "before": comm.edges_before,
    }


def inside(make, ask):
    """What ``ask`` gives of the mixer that ``make`` gives, where others may go on meanwhile."""
    found = []
    in_turns([lambda: found.append(ask(make()))], 1)
    return found[0]


def of_peers(w, x, ask):
    """The answers that each worker gets on its own, as rows of one."""
    found = {}

    def program(i):
        yield from interruptible(
            "update", lambda: found.update({i: ask(PeerComm(w, i, lambda j: j), x[i : i + 1])})
        )

    VirtualClock({i: program(i) for i in range(len(x))}, lambda stage, kind: 1.0).run()
    return {key: [found[i][key] for i in range(len(x))] for key in found[0]}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert np.array_equal(np.asarray(ours[key]), np.asarray(value)), key


def test_the_kinds_below_are_all_there_are():
    bases, found = {Mixer, Communicator, Around, AtOnce}, {Mixer}
    while more := {kind for base in found for kind in base.__subclasses__()} - found:
        found |= more
    ours = {kind for kind in found - bases if kind.__module__.startswith("decentral.")}
    of_ranks = {kind for kind in ours if issubclass(kind, RanksComm)}
    assert ours - of_ranks == KINDS


def test_what_follows_is_written_once():
    homes = {name: set() for name in ("mix_", "mix_sent", "departing", "edges_in")}
    for path in Path(decentral.__file__).parent.rglob("*.py"):
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(kind, ast.ClassDef):
                for name in homes.keys() & {
                    part.name for part in kind.body if isinstance(part, ast.FunctionDef)
                }:
                    homes[name].add(kind.name)
    assert homes == {
        "mix_": {"Mixer", "AtOnce"},
        "mix_sent": {"Mixer", "Communicator"},  # whose links may compress
        "departing": {"Mixer"},
        "edges_in": {"Mixer"},
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_mixers_in_one_process_have_the_bits_of_a_local_communicator(graph):
    w = GRAPHS[graph]
    x, comm = models(w), LocalComm(w)
    whole, edges = answers(comm, x), on_edges(comm, x)
    assert_equal(answers(RecordingComm(w), x), whole)
    assert_equal(on_edges(RecordingComm(w), x), edges)
    assert_equal(inside(lambda: PostingComm(LocalComm(w)).at(0), lambda mixer: answers(mixer, x)), whole)
    assert_equal(inside(lambda: PostingComm(LocalComm(w)).at(0), lambda mixer: on_edges(mixer, x)), edges)
    riding = inside(lambda: PostingComm(LocalComm(w)).along, lambda mixer: answers(mixer, x))
    assert_equal(riding, answers(comm.along, x))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ask", ["mix", "mix_"])
def test_what_left_early_is_mixed_and_billed_as_what_did_not(graph, ask):
    w = GRAPHS[graph]
    x, comm, other = models(w), LocalComm(w), LocalComm(w)
    early = EarlyComm(other, [other.post(x.clone())]).at(0)
    for now in (x, x * 2):  # the second is sent when it is asked for
        assert torch.equal(getattr(early, ask)(now.clone()), getattr(comm, ask)(now.clone()))
    assert_equal(on_edges(early, x), on_edges(comm, x))
    assert torch.equal(early.mean(x), comm.mean(x))
    assert np.array_equal(comm.ledger.bytes_sent, other.ledger.bytes_sent)
    assert (early.n, early.h, early.rows, early.ranks) == (comm.n, comm.h, comm.rows, 1)


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_has_been_averaged_stays_and_the_rest_is_mixed(graph):
    w = GRAPHS[graph]
    x, comm = models(w), LocalComm(w)
    averaged, others = answers(Averaged(comm).at(0), x), answers(LocalComm(w), x)
    assert torch.equal(torch.as_tensor(averaged.pop("mean")), x)
    others.pop("mean")
    assert_equal(averaged, others)


@pytest.mark.parametrize("graph", ["ring", "path", "directed"])
def test_a_stage_and_its_peers_have_the_bits_of_a_local_communicator(graph):
    w = GRAPHS[graph]
    x, comm = models(w), LocalComm(w)
    ours, theirs = of_peers(w, x, answers), answers(comm, x)
    for key, rows in ours.items():
        whole = theirs[key].expand(x.shape) if key == "mean" else theirs[key]
        assert torch.equal(torch.cat(rows), whole), key
    arrived = of_peers(w, x, lambda mixer, row: {"arrived": on_edges(mixer, row)["arrived"]})["arrived"]
    assert torch.equal(torch.cat(arrived), on_edges(comm, x)["arrived"])


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_a_compiler_is_given_mixes_the_same_but_for_rounding(graph):
    w = GRAPHS[graph]
    x, comm = models(w), LocalComm(w)
    ours = answers(_TracedComm(comm), x)
    for key, value in answers(comm, x).items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-15)


@pytest.mark.parametrize("graph", ["ring", "path"])
def test_on_eigenvectors_mixing_is_what_it_is_on_modes(graph):
    w = GRAPHS[graph]
    values, vectors = np.linalg.eigh(w.toarray())
    V, c = (
        torch.from_numpy(vectors),
        torch.from_numpy(np.random.default_rng(1).standard_normal((1, len(values)))),
    )
    modes = ModeComm(torch.from_numpy(values)[None], torch.from_numpy(np.isclose(values, 1)))
    ours, theirs = answers(modes, c), answers(LocalComm(w), V * c)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key].expand(V.shape), V * value, rtol=0, atol=1e-14)


def test_a_counter_counts_each_way_to_ask():
    counter = _CountingComm(LocalComm(RING))
    answers(counter, models(RING))
    assert (counter.mixes, counter.means) == (4, 1)


def test_what_a_stand_in_has_not_is_refused_by_name():
    modes = ModeComm(torch.ones(1, 2), torch.zeros(2))
    one = torch.ones(1, 2)
    for ask in (
        lambda: modes.edges_in,
        lambda: modes.exchange(one),
        lambda: modes.along,
        lambda: modes.at(1),
    ):
        with pytest.raises(NotImplementedError, match="ModeComm"):
            ask()


def test_one_process_is_a_world(capsys, monkeypatch):
    monkeypatch.setattr("decentral.comm.world.launched_ranks", lambda: 1)
    world = find_world()
    assert (type(world), world.rank, world.ranks, world.mpi) == (LocalWorld, 0, 1, None)
    assert world.communicator(RING).n == 6
    assert world.agree("a") == ["a"]
    assert world.from_root(lambda: 3) == 3
    assert world.posted() == []
    assert torch.equal(world.collect(models(RING)), models(RING))
    with pytest.raises(SystemExit) as ended:
        world.abort("it is over", 2)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "decentral: it is over\n"
