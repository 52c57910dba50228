"""What sizes imply is told before anything is built: memory, runs, records; by figures that are right."""

import math
import tracemalloc

import pytest
from command import decentral, experiment, write

import topologies
from decentral.errors import UserError
from decentral.problems import PROBLEMS
from decentral.problems.sizes import refuse_models
from decentral.runs.kinds import run_of
from decentral.runs.rounds.refusals import vectors_kept
from decentral.runs.rows import refuse_rows
from topologies import room

HUGE = {
    "workers of few samples": (
        {"problem": {"name": "logistic-regression"}, "topology": {"workers": 99_999_999}},
        "topology.workers = 99999999 but there are 1,437 training samples",
    ),
    "workers of none": ({"topology": {"workers": 99_999_999}}, "10,000,000 workers at the most"),
    "a dense graph": ({"topology": {"name": "complete", "workers": 1_000_000}}, "50 TB of memory"),
    "a graph drawn": ({"topology": {"name": "erdos-renyi", "workers": 500_000, "p": 0.9}}, "TB of memory"),
    "a square matrix": ({"problem": {"dimension": 10**9}}, "of memory at the least"),
    "a width": ({"problem": {"name": "mlp", "hidden": [10**9]}}, "models of 75000000010 parameters"),  # 75 d + 10
    "a width of 64 bits": ({"problem": {"name": "mlp", "hidden": [2**62]}}, "larger than any memory"),
    "widths": ({"problem": {"name": "mlp", "hidden": [8] * 3_000}}, "from 1 to 2,000"),
    "channels": ({"problem": {"name": "cnn", "width": 10**7}}, "of memory at the least"),
    "layers": ({"problem": {"name": "lstm", "depth": 10**9}}, "depth = 1000000000 must be from 1 to 2,000"),
    "a context": ({"problem": {"name": "transformer", "context": 10**10}}, "problem"),
    "a batch": (
        {"problem": {"name": "logistic-regression"}, "train": {"batch_size": 10**12}},
        "train.batch_size = 1000000000000 takes 48 TB",  # 4 workers, 8 bytes for which sample and 4 for a number
    ),
    "rounds": ({"train": {"rounds": 10**18}}, "would last for years"),
    "records": ({"train": {"rounds": 10**12, "record_every": 1}}, "a metrics.csv of 100 TB"),
    "seeds": ({"seeds": list(range(20_000))}, "make 20,000 runs"),
    "a sweep": (
        {"sweep": {"train": {"lr": [i / 1000 for i in range(1, 201)]}, "problem": {"dimension": list(range(1, 101))}}},
        "make 20,000 runs (200 x 100)",
    ),
    "lateness": ({"faults": {"late": 0.5, "late_rounds": 10**12}}, "from 1 to 10,000"),
    "beyond float32": ({"train": {"lr": 1e300}}, "train.lr = 1e+300 is beyond what a run can compute with"),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_a_size_that_cannot_be_had_is_refused_in_a_line_and_nothing_is_written(home, case):
    changes, words = HUGE[case]
    said = decentral("run", write(home / "x.toml", **changes), "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert len(said.err) < 300
    assert not (home / "out").exists()


def test_models_without_memory_have_the_parameters_of_those_with_it():
    assert (
        PROBLEMS["mlp"](hidden=[8]).parameters() == 64 * 8 + 8 + 8 * 10 + 10
    )  # digits: 64 pixels, 10 classes
    for name in ("logistic-regression", "mlp", "cnn", "vgg", "transformer", "lstm"):
        problem = PROBLEMS[name]()
        assert problem.parameters() == sum(p.numel() for p in problem.made(2, 0).module.parameters()), name


def test_rows_are_counted_with_what_the_method_keeps_and_dealt_to_ranks(monkeypatch):
    def needs(**changes):
        """Bytes that a run with 10 GB is said to need, where 1 byte is free."""
        run = run_of(experiment(seeds=[0], **changes))
        monkeypatch.setattr(room, "free_bytes", lambda: 1.0)
        told = []
        monkeypatch.setattr("decentral.problems.sizes.refuse_beyond_room", lambda size, *_: told.append(size))
        refuse_rows(run, ranks, vectors_kept(run.algorithm))
        return max(told)

    ranks, d, n = 1, 1_000, 4
    diagonal = {"name": "quadratic", "dimension": d, "diagonal": True}
    assert needs(problem=diagonal) == n * d * 8 * (1 + 2) + 8 * d  # x; A and c; the mean of A
    assert needs(problem=diagonal, algorithm={"name": "decentlam"}) == n * d * 8 * (2 + 2) + 8 * d
    assert needs(problem={**diagonal, "diagonal": False}) == n * 8 * (d + d * d + d) + 8 * d * d
    ranks = 2
    assert needs(problem=diagonal) == n // 2 * d * 8 * 3 + 8 * d


def test_what_fits_is_let_through_and_what_does_not_is_not(monkeypatch):
    problem = PROBLEMS["quadratic"](
        dimension=10_000
    )  # a worker: 0.4 GB in float32, and 0.8 GB for the optimum
    monkeypatch.setattr(room, "free_bytes", lambda: 1.3e9)
    refuse_models(problem, 1, 4)
    monkeypatch.setattr(room, "free_bytes", lambda: 1.1e9)
    with pytest.raises(UserError, match=r"takes 1.2 GB of memory at the least, and 1.1 GB are free"):
        refuse_models(problem, 1, 4)


@pytest.mark.parametrize(("name", "edges"), [("ring", 3_000), ("complete", 300 * 299 / 2)])
def test_a_graph_takes_no_less_than_it_is_refused_for(monkeypatch, name, edges):
    told, n = [], 3_000 if name == "ring" else 300
    monkeypatch.setattr("topologies.graphs.refuse_beyond_room", lambda size, *_: told.append(size))
    tracemalloc.start()
    graph = topologies.TOPOLOGIES[name](n)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert graph.number_of_edges() == edges
    assert taken / 5 < max(told) < taken


def test_the_limits_of_a_shell_and_of_a_container_are_limits(monkeypatch, tmp_path):
    import resource

    assert 0 < room.free_bytes() < math.inf
    (tmp_path / "memory.max").write_text("5000000\n")
    monkeypatch.setattr(room, "_GROUPS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    assert room.free_bytes() == 5_000_000
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))  # less than this process has
    assert room.free_bytes() == 0
    with pytest.raises(ValueError, match=r"^x takes 20 MB of memory at the least, and 0 kB are free; y$"):
        room.refuse_beyond_room(2e7, "x", "y")


def test_sizes_are_said_in_decimal_units():
    said = [room.in_words(size) for size in (0, 1_500, 2.5e9, 8e12, 4e15, 2e18, 1e30)]
    assert said == ["0 kB", "1.5 kB", "2.5 GB", "8 TB", "4 PB", "2 EB", "1e+12 EB"]


@pytest.mark.parametrize(("n", "degree"), [(100, 98), (40, 36), (128, 100)])
def test_a_random_regular_graph_of_many_edges_is_drawn_at_once(n, degree):
    graph = topologies.TOPOLOGIES["random-regular"](n, degree=degree)
    assert {d for _, d in graph.degree} == {degree}


def test_a_small_world_that_leaves_no_place_for_its_edges_is_refused():
    with pytest.raises(ValueError, match="too few places"):
        topologies.TOPOLOGIES["watts-strogatz"](1_000, k=998, p=1.0)
    assert topologies.TOPOLOGIES["watts-strogatz"](30, k=28, p=1.0).number_of_edges() == 30 * 14
