"""Watching a run: progress, TensorBoard's event files, and the timelines of rounds of workers."""

import itertools
import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tomli_w
from command import decentral, experiment, metrics, write
from ranks import decentral as launch
from ranks import run_ranks
from synthetic_experiment import small

from decentral.report.page_style import RC
from decentral.report.reading import read_experiment
from decentral.report.timeline import STEPS, timeline
from decentral.runs.experiment import expand
from decentral.runs.folder import RunFolder
from decentral.runs.progress import Progress
from decentral.runs.rounds.timeline import middle
from decentral.runtime.trace import Span, Trace

STAGES = {
    "problem": {"name": "mlp", "hidden": [16, 16]},
    "stages": {"count": 2},
    "program": {"name": "local"},
    "train": {"lr": 0.1, "rounds": 9, "record_every": 100},
}
LISTS = {
    "problem": {"name": "list-reduction", "train": 20, "validation": 10, "width": 8},
    "dataflow": {"max_active_keys": 4},
    "train": {"lr": 0.1, "rounds": 2},
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the progress display, in our hands."""
    hand = [100.0]
    monkeypatch.setattr("decentral.runs.progress.perf_counter", lambda: hand[0])
    return hand


def only_run(out):
    (folder,) = (Path(out) / "runs").iterdir()
    return folder


def test_off_a_terminal_a_run_is_one_line_at_its_end(clock, capsys):
    planned = expand(experiment(seeds=[0, 1]))
    with Progress(planned, {}, show=True) as progress:
        for run in planned.runs:
            progress.begin(run)
            for t in range(1, 7):
                progress.update(t, {"bias_sq": 0.5 / t, "consensus_sq": 7.0})
                clock[0] += 0.02
            progress.end("finished")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"run {k + 1} of 2: seed {k}: finished, 50 rounds/s, bias_sq 0.0833" for k in (0, 1)]


def test_on_a_terminal_rounds_between_records_are_shown(clock, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    planned = expand(experiment(train={"rounds": 1000}))
    with Progress(planned, {}, show=True) as progress:
        progress.bars.get_time = lambda: clock[0]
        progress.begin(planned.runs[0])
        row = {"consensus_sq": 0.25, "test_accuracy": 0.5}
        for t in range(1, 301):
            progress.update(t, row)
            clock[0] += 0.01
        (task,) = progress.bars.tasks
        assert 270 <= task.completed <= 300
        assert task.speed == pytest.approx(100, rel=0.01)
        assert task.fields["newest"] == "consensus² 0.25, test acc. 0.5"
        progress.update(200, row)  # a late record does not turn the bar back
        clock[0] += 1
        progress.update(200, row)
        assert task.completed >= 270
        progress.end("finished")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (experiment(train={"rounds": 9, "record_every": 100}), range(1, 10)),
        (STAGES, range(1, 10)),
        (LISTS, np.arange(1, 41) / 20),
        ({**LISTS, "dataflow": {"runtime": "synchronous", "minibatch": 5}}, [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]),
    ],
    ids=["rounds", "stages", "nodes", "synchronous"],
)  # fmt: skip
def test_every_kind_of_training_tells_of_its_rounds_between_records(table, expected, monkeypatch):
    told = []
    monkeypatch.setattr(Progress, "update", lambda self, t, row: told.append(t))
    Path("x.toml").write_text(tomli_w.dumps(table))
    assert decentral_run("x.toml").code == 0
    assert [t for t in dict.fromkeys(told) if t] == pytest.approx(list(expected))


def decentral_run(file, *args):
    return decentral("run", file, "--out", "out", *args)


def test_interrupted_it_says_where(monkeypatch):
    dying(monkeypatch, 4, KeyboardInterrupt)
    said = decentral_run(write(Path("x.toml")))
    assert said.code == 130
    assert re.match(r"run 1 of 1: seed 0: left at round 3, .* rounds/s, bias_sq ", said.err.splitlines()[0])


def dying(patch, rows, error):
    """Runs die when they have recorded so many rows."""
    append, left = RunFolder.append, [rows]

    def cut(self, row):
        if left[0] == 0:
            raise error
        left[0] -= 1
        append(self, row)

    patch.setattr(RunFolder, "append", cut)


def scalars(folder):
    """Column -> [(round, value)], as TensorBoard reads the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def assert_same_as_metrics(out="out"):
    recorded = metrics(Path(out))
    assert {p.name for p in (Path(out) / "tensorboard").iterdir()} == recorded.keys()
    for run, rows in recorded.items():
        found = scalars(Path(out) / "tensorboard" / run)
        assert found.keys() == rows[0].keys() - {"round"}
        for column, points in found.items():
            assert [step for step, _ in points] == [int(row["round"]) for row in rows]
            values = np.array([float(row[column]) for row in rows], dtype=np.float32)
            np.testing.assert_array_equal([value for _, value in points], values)


@pytest.mark.usefixtures("undrawn")
def test_event_files_hold_what_metrics_csv_holds(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = write(tmp_path / "x.toml", sweep={"algorithm": [{"name": "dsgd"}, {"name": "decentlam"}]})
    assert decentral_run(file, "--tensorboard").code == 0
    assert_same_as_metrics()
    for folder in (tmp_path / "out" / "tensorboard").iterdir():
        read = EventAccumulator(str(folder))
        read.Reload()
        (text,) = read.Tensors("run/text_summary")
        assert f"| algorithm.name | {folder.name.split('_')[0]} |" in text.tensor_proto.string_val[0].decode()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("before", [("--tensorboard",), ()], ids=["with", "without"])
def test_a_resumed_run_goes_on_in_its_event_files(tmp_path, before):
    file = write(tmp_path / "x.toml", train={"rounds": 12, "checkpoint_every": 4})
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, 8, RuntimeError("died"))  # rounds 0 to 7; the checkpoint is of round 4
        with pytest.raises(RuntimeError, match="died"):
            decentral_run(file, *before)
    assert decentral_run(file, "--resume", "--tensorboard").code == 0
    assert_same_as_metrics()


@pytest.mark.usefixtures("undrawn")
def test_without_tensorboard_the_flag_is_refused_before_any_work(tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    said = decentral_run(write(tmp_path / "x.toml"), "--tensorboard")
    assert said.code == 2
    assert said.err.startswith("decentral: --tensorboard needs TensorBoard")
    assert said.err.count("\n") == 1
    assert "pip install 'decentral[tensorboard]'" in said.err
    assert not (tmp_path / "out").exists()
    assert decentral_run(tmp_path / "x.toml").code == 0


def spans_of(folder):
    """Lane -> its spans (start, end, kind, round), in µs, in order; and the trace's facts."""
    trace = json.loads((folder / "trace.json").read_text())
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    lanes = {name: [] for name in names.values()}
    for e in trace["traceEvents"]:
        if e["ph"] == "X":
            kind, t = e["name"].split()
            assert kind == e["cat"]
            lanes[names[e["tid"]]].append((e["ts"], e["ts"] + e["dur"], kind, int(t)))
    return {name: sorted(spans) for name, spans in lanes.items()}, trace["otherData"]


def test_the_rounds_to_watch_are_in_the_middle():
    assert middle(100, 0) == range(46, 54)
    assert middle(100, 46) == range(46, 54)
    assert middle(100, 47) == range(47, 55)  # of a run that was killed among them
    assert middle(100, 53) == range(53, 61)
    assert not middle(100, 54)
    assert not middle(3, 3)
    assert middle(3, 0) == range(3)


@pytest.mark.mpi
@pytest.mark.alone
def test_a_run_on_two_ranks_leaves_a_timeline_of_its_middle_rounds(tmp_path):
    methods = [{"name": "dsgd"}, {"name": "pmsgd"}, {"name": "diging"}]
    table = experiment(sweep={"algorithm": methods}, train={"rounds": 30, "record_every": 7})
    Path("x.toml").write_text(tomli_w.dumps(table))
    done = launch("run", tmp_path / "x.toml", "--out", tmp_path / "out", ranks=2)
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "out" / "runs").iterdir():
        lanes, facts = spans_of(folder)
        assert facts["clock"] == "measured"
        assert lanes.keys() == {"rank 0", "rank 1"}  # of two workers each
        for spans in lanes.values():
            assert {kind for _, _, kind, _ in spans} == {"compute", "update", "send", "wait"}
            for (_, end, _, t), (start, _, _, after) in itertools.pairwise(spans):
                assert start >= end - 1e-3
                assert t != after or start <= end + 1e-3  # within a round a rank always does something
            assert list(dict.fromkeys(t for *_, t in spans)) == list(range(11, 19))
            assert sum(kind == "compute" for _, _, kind, _ in spans) == 8
    assert (tmp_path / "out" / "figures" / "timeline.png").stat().st_size > 5_000


SLOW = """
import sys, time, pathlib, torch
from decentral.comm.mpi_world import MPIWorld
from decentral.runs.experiment import load
from decentral.runs.folder import RunFolder
from decentral.runs.journal import Journal
from decentral.runs.place import Here
from decentral.runs.rounds.training import Training
world = MPIWorld()
pathlib.Path(sys.argv[2]).mkdir(exist_ok=True)
journal = Journal(None if world.rank else RunFolder(pathlib.Path(sys.argv[2])))
training = Training(load(pathlib.Path(sys.argv[1])).runs[0].config, Here(world, torch.device("cpu")), journal)
gradient = training.objective.gradient
def slow(x, t):
    time.sleep(0.15 * world.rank)
    return gradient(x, t)
training.objective.gradient = slow
training.run()
"""


@pytest.mark.mpi
@pytest.mark.alone
@pytest.mark.parametrize("compression", [{}, {"compression": {"name": "qsgd"}}], ids=["vectors", "packets"])
def test_what_a_slow_rank_computes_the_other_waits(tmp_path, compression):
    slow_s = 0.15
    table = experiment(topology={"workers": 2, "name": "complete", "weights": "lazy"}, **compression)
    Path("x.toml").write_text(tomli_w.dumps(experiment(**table) | {"train": {"lr": 0.1, "rounds": 8}}))
    done = run_ranks(2, "-c", SLOW, tmp_path / "x.toml", tmp_path / "run", timeout=60)
    assert done.returncode == 0, done.stderr
    lanes, _ = spans_of(tmp_path / "run")
    assert lanes.keys() == {"worker 0", "worker 1"}
    rounds = range(1, 8)  # the first one is not aligned
    computed, waited = (
        [sum(end - start for start, end, k, at in lanes[lane] if (k, at) == (kind, t)) / 1e6 for t in rounds]
        for lane, kind in (("worker 1", "compute"), ("worker 0", "wait"))
    )
    assert min(computed) >= slow_s
    assert np.median(waited) >= 0.5 * slow_s  # less where ranks share a core with others
    first, last = lanes["worker 0"][0][0], lanes["worker 1"][-1][1]
    assert 8 * slow_s <= (last - first) / 1e6
    for t in range(8):  # on one axis: nobody mixes before the slow rank has sent
        sent = min(start for start, _, kind, at in lanes["worker 1"] if (kind, at) == ("send", t))
        ended = max(end for _, end, kind, at in lanes["worker 0"] if (kind, at) == ("wait", t))
        assert ended >= sent - 1e3


def simulated(n, rounds, of_round=lambda i, t: (1.0 + i / 100, 0.2, 0.3)):
    """A trace as a clock would write it: each worker computes, sends, waits."""
    trace = Trace("simulated", lane="worker")
    for i in range(n):
        now = 5.0
        for t in range(100, 100 + rounds):
            for kind, seconds in zip(("compute", "send", "wait"), of_round(i, t), strict=True):
                trace.spans.append(Span(i, kind, now, now + seconds, t))
                now += seconds
    return trace


@pytest.mark.parametrize(("workers", "rounds"), [(4, 8), (64, 8), (3, 2)])
def test_a_simulated_timeline_shows_some_rounds_from_the_middle(tmp_path, workers, rounds):
    found = read_experiment(small(tmp_path / "made"))
    runs = [run for run in found.runs if run.seed == found.seeds[0]]
    for run in runs:
        (found.folder / "runs" / run.id / "trace.json").write_text(simulated(workers, rounds).chrome())
    with mpl.rc_context(RC):
        figure = timeline(found)
    shown = min(workers, 32 // len(runs))
    assert len(figure.axes) == len(runs) == 2
    for axis in figure.axes:
        assert axis.get_ylim() == (shown - 0.5, -0.5)
        assert ("first 16 of 64" in axis.get_title(loc="left")) == (workers == 64)
        low, high = axis.get_xlim()
        length_ms = 1.5e3 * STEPS if rounds > STEPS else 1e3 * (1.5 * rounds + (workers - 1) / 100 * rounds)
        assert (low, high) == pytest.approx((0, length_ms))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["compute", "send", "wait"]
    assert figure.axes[-1].get_xlabel() == "simulated time (ms)"
    assert figure.axes[0].get_yticklabels()[0].get_text() == "worker 0"
