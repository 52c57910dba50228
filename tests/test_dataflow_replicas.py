"""Copies of a whole network: each learns from its own instances as a network alone does, and averages make them one."""

import pytest
import tomli_w
import torch
from command import decentral
from dataflow_networks import CASES, Case, Chain, built, distance, play, same_bits
from ranks import decentral as launch
from test_dataflow import delays, sgd, synchronous
from test_dataflow_runs import EXACT, LISTS, in_a_folder, measured, rows, write  # noqa: F401

from decentral.dataflow.replicas import replicated


class Copied(Case):
    """``copies`` of another case's network."""

    def __init__(self, case, copies=2):
        self.case, self.copies, self.count = case, copies, case.count

    def modules(self):
        return {f"{name}.{i}": m for i in range(self.copies) for name, m in self.case.modules().items()}

    def network(self, make):
        return replicated(self.case.network, lambda name, replica: make(f"{name}.{replica}"), self.copies)

    def loss(self, m, key):
        own = {name: m[f"{name}.{key % self.copies}"] for name in self.case.modules()}
        return self.case.loss(own, key)


def of_copy(modules, i):
    return {name.rsplit(".", 1)[0]: m for name, m in modules.items() if name.endswith(f".{i}")}


@pytest.mark.parametrize("kind", CASES)
def test_a_copy_has_the_gradients_of_its_instances_whatever_the_order(kind):
    for copies in (2, 3):
        case = Copied(kind(), copies)
        expected = case.reference()
        for active, workers, most in ((1, 1, 1), (5, 1, 100), (20, copies, 3)):
            found = play(case, active, workers, most, link=delays(active)).modules
            assert distance(found, expected, lambda p: p.grad) < 1e-12


def test_a_copy_learns_as_a_network_that_has_its_instances_alone():
    whole = Chain()
    for unit in ("messages", "instances"):
        ran = play(Copied(whole), 1, 2, updates=sgd(every=2, unit=unit))
        for i in range(2):
            alone = Chain()
            alone.count, alone.x, alone.y = whole.count // 2, whole.x[i::2], whole.y[i::2]
            assert same_bits(of_copy(ran.modules, i), synchronous(alone, 2))


def test_averaged_copies_are_the_mean_of_what_they_were():
    case = Copied(Chain(), 3)
    apart, together = (
        of
        for of in (
            play(case, 1, 3, updates=sgd(), averages=lambda _, on=on: on).modules for on in (False, True)
        )
    )
    for name in Chain().modules():
        before, after = (
            zip(*(of_copy(run, i)[name].parameters() for i in range(3)), strict=True)
            for run in (apart, together)
        )
        for each, same in zip(before, after, strict=True):
            assert not torch.equal(each[0], each[1])
            assert all(torch.equal(p, (each[0] + each[1] + each[2]) / 3) for p in same)


def test_nodes_are_named_by_their_copy_and_share_one_input():
    net, _ = built(Copied(CASES[1]()))
    single, _ = built(CASES[1]())
    begin = [name for name in net.nodes if name not in net.copies]
    assert begin[0] == next(iter(single.nodes))
    assert len(net.nodes) == 2 * (len(single.nodes) - 1) + len(begin)
    assert set(net.copies.values()) == {0, 1}


@pytest.mark.mpi
def test_metrics_of_whole_copies_are_bit_equal_on_one_and_two_ranks(tmp_path):
    settings = {**EXACT, "workers": 2, "replicas": 2, "replicate": "all", "frequencies": {"cell": 3}}
    path = tmp_path / write({**LISTS, "dataflow": settings})
    for ranks in (1, 2):
        done = launch("run", path, "--out", tmp_path / f"on{ranks}", ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
    assert measured(tmp_path / "on1") == measured(tmp_path / "on2")
    _, folder = rows(tmp_path / "on1")
    assert all(name in (folder / "staleness.json").read_text() for name in ("cell.0", "cell.1"))


def test_more_workers_than_whole_copies_are_refused(tmp_path):
    table = {**LISTS, "dataflow": {"workers": 3, "replicas": 2, "replicate": "all"}}
    with (tmp_path / "x.toml").open("wb") as file:
        tomli_w.dump(table, file)
    said = decentral("run", tmp_path / "x.toml", "--out", "out")
    assert said.code == 2
    assert (
        "dataflow.workers = 3 but there are 2 replicas of all nodes; use as many workers at the most"
        in " ".join(said.err.split())
    )
