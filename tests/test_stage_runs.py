"""Layer-parallel experiments through the command line: what they write, what they refuse, both drivers."""

import csv
import itertools
import json
import re
from dataclasses import dataclass

import pytest
import torch
from command import but_wall_time, decentral
from ranks import ROOT
from ranks import decentral as launch
from torch.nn.functional import cross_entropy

from decentral.runs.experiment import load
from decentral.runs.stages.building import Plan
from decentral.runtime.requests import Compute, StageError
from decentral.stages.profile import profile
from decentral.stages.program import StageProgram
from decentral.stages.programs import PROGRAMS
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.local import Local

SMALL = """
[problem]
name = "mlp"
hidden = [16, 16, 16, 16]
[stages]
count = 4
[program]
name = "local"
[optimizer]
name = "sgd"
momentum = 0.9
[train]
lr = 0.1
rounds = 12
batch_size = 32
record_every = 4
dtype = "float64"
"""
OWN_CLOCK = {"wall_s", "simulated_s", "mpi_bytes_sent"}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text=SMALL, name="x.toml"):
    with open(name, "w") as file:
        file.write(text)
    return name


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def only_run(out):
    (folder,) = (out / "runs").iterdir()
    return folder


def test_a_run_leaves_metrics_trace_boundaries_costs_and_a_timeline(tmp_path):
    said = decentral("run", write(), "--out", "out")
    assert said.code == 0, said.err
    folder = only_run(tmp_path / "out")
    recorded = rows(folder / "metrics.csv")
    assert [int(row["round"]) for row in recorded] == [1, 4, 8, 12]
    assert float(recorded[-1]["samples"]) == 12 * 32
    assert float(recorded[-1]["gradient_cosine_4"]) == pytest.approx(
        1, abs=1e-12
    )  # the head's gradient is true
    assert float(recorded[-1]["gradient_cosine_0"]) < 0.999
    boundaries = json.loads((folder / "boundaries.json").read_text())
    assert [(b["source"], b["target"], b["bytes"]) for b in boundaries] == [
        (k, k + 1, 12 * 32 * 16 * 8) for k in range(3)
    ]
    trace = json.loads((folder / "trace.json").read_text())
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["tid"] for e in spans} == {0, 1, 2, 3}
    assert sum(e["cat"] == "forward" for e in spans) == 4 * 12
    for stage in range(4):  # no stage does two things at once
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in spans if e["tid"] == stage)
        assert all(b[0] >= a[1] - 1e-6 for a, b in itertools.pairwise(mine))
    assert (tmp_path / "out" / "figures" / "timeline.png").stat().st_size > 5_000
    assert "What each stage, worker or rank did when" in (tmp_path / "out" / "report.html").read_text()
    (final,) = rows(tmp_path / "out" / "results.csv")
    assert float(final["critical_flops_step"]) < float(final["flops_step"])


@pytest.mark.usefixtures("undrawn")
def test_the_resolved_file_repeats_the_run(tmp_path):
    assert decentral("run", write(), "--out", "one").code == 0
    first = only_run(tmp_path / "one")
    assert decentral("run", first / "config.toml", "--out", "two").code == 0
    again = only_run(tmp_path / "two")
    assert but_wall_time(rows(again / "metrics.csv")) == but_wall_time(rows(first / "metrics.csv"))


@pytest.mark.mpi
@pytest.mark.parametrize(
    "program", ['name = "backprop"', 'name = "local"\nblocks = "chunked"', 'name = "1f1b"']
)
def test_metrics_are_bit_equal_on_one_two_and_four_ranks(tmp_path, program):
    text = SMALL.replace('name = "local"', program).replace("count = 4", "count = 4\ncut = [1, 2, 3]")
    if "chunked" in program:
        text = text.replace("count = 4\ncut = [1, 2, 3]", "count = 2")
    found = {}
    for ranks in (1, 2) if "chunked" in program else (1, 2, 4):
        out = tmp_path / f"on{ranks}"
        done = launch("run", tmp_path / write(text), "--out", out, ranks=ranks, drawn=False)
        assert done.returncode == 0, done.stderr
        found[ranks] = [
            {k: v for k, v in row.items() if k not in OWN_CLOCK}
            for row in rows(only_run(out) / "metrics.csv")
        ]
        found[ranks].append(json.loads((only_run(out) / "boundaries.json").read_text()))
    assert len(found[1]) == 5
    for ranks, recorded in found.items():
        assert recorded == found[1], ranks


@pytest.mark.usefixtures("undrawn")
def test_backprop_run_is_plain_torch(tmp_path):
    experiment = load(tmp_path / write(SMALL.replace('name = "local"', 'name = "backprop"')))
    config = experiment.runs[0].config
    plan = Plan(config, torch.device("cpu"))
    module = plan.network.modules()
    step = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for t in range(12):
        inputs, labels = plan.samples.batch(0, t)
        step.zero_grad()
        cross_entropy(plan.network(inputs), labels).backward()
        step.step()
    seen = plan.samples.objective.evaluation
    with torch.no_grad():
        loss = float(cross_entropy(plan.network(seen.train_x), seen.train_y))
    assert decentral("run", "x.toml", "--out", "out").code == 0
    assert float(rows(only_run(tmp_path / "out") / "metrics.csv")[-1]["train_loss"]) == pytest.approx(
        loss, rel=1e-12
    )


def test_greedy_keeps_less_than_half_the_activations_of_back_propagation(tmp_path):
    text = SMALL.replace("[16, 16, 16, 16]", str([64] * 6)).replace("count = 4", "count = 1")
    plan = Plan(load(tmp_path / write(text)).runs[0].config, torch.device("cpu"))
    ours, theirs = profile(Local("greedy"), plan.trial), profile(BackProp(), plan.trial)
    assert ours.activation_bytes[0] < theirs.activation_bytes[0] / 2
    assert ours.flops_step < theirs.flops_step


REFUSED = [
    ("stages.count=9", "stages.count = 9: the network has 4 layers, so 1 to 4 stages"),
    ("stages.cut=[1]", "stages.cut = [1] begins 1 stages after the first, but stages.count = 4"),
    ("stages.cut=[3,2,1]", "stages.cut = [3, 2, 1] should be ascending layers between 1 and 3"),
    ('stages.cut="odd"', "stages.cut = 'odd'"),
    ("stages.count=0", "stages.count = 0 must be from 1 to"),
    ('program.name="locale"', "did you mean 'local'?"),
    ('program.head="conv"', "conv"),
    ("program.window=0", "window = 0 must be at least 1"),
    ('program.blocks="chunked"', "lies on two stages; cut at some of [2]"),
    ('optimizer.name="sdg"', "did you mean 'sgd'?"),
    ("optimizer.momentum=1.5", "momentum = 1.5 must be in [0, 1)"),
    ("train.compile=true", "train.compile has no meaning with [stages]"),
    ('algorithm.name="dsgd"', "section [algorithm] needs [topology] where there is [stages]"),
    ("network.latency_s=-1.0", "network.latency_s = -1.0 must be finite and not negative"),
    (
        "network.bandwidth_bytes_s=10 Gbs",
        "network.bandwidth_bytes_s = '10 Gbs' has the unknown unit 'Gbs'; did you",
    ),
    ("stages.flops_per_s=0.0", "stages.flops_per_s = 0.0 must be positive and finite"),
]


@pytest.mark.parametrize(("override", "says"), REFUSED)
def test_mistakes_are_named_in_one_line_before_anything_is_written(tmp_path, override, says):
    said = decentral("run", write(), "--set", override, "--out", "out")
    assert said.code == 2
    assert says in said.err
    assert said.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_problem_without_layers_is_refused(tmp_path):
    text = SMALL.replace("hidden = [16, 16, 16, 16]\n", "").replace('"mlp"', '"quadratic"')
    said = decentral("run", write(text), "--out", "out")
    assert said.code == 2
    assert "problem.name = 'quadratic' has no layers to cut into stages" in said.err


@pytest.mark.mpi
def test_more_ranks_than_stages_are_refused(tmp_path):
    done = launch(
        "run", tmp_path / write(SMALL.replace("count = 4", "count = 2")), "--out", tmp_path / "out", ranks=4
    )
    assert done.returncode == 2
    assert "stages.count = 2 but MPI has 4 ranks; launch 2 ranks at the most" in done.stderr
    assert not (tmp_path / "out").exists()


def test_activations_that_overflow_are_named_and_what_was_recorded_stays(tmp_path):
    said = decentral("run", write(), "--set", "train.lr=9e29", "--out", "out")
    assert said.code == 3
    assert "its activations are not finite; lower train.lr" in said.err
    assert len(rows(only_run(tmp_path / "out") / "metrics.csv")) >= 1


@pytest.mark.mpi
def test_over_mpi_a_stage_that_overflows_ends_the_job_with_its_message(tmp_path):
    out = tmp_path / "out"
    done = launch("run", tmp_path / write(), "--set", "train.lr=9e29", "--out", out, ranks=2, timeout=90)
    assert done.returncode == 3
    assert "its activations are not finite; lower train.lr" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_module_that_fails_is_no_divergence(tmp_path):
    with open("breaks.py", "w") as file:
        file.write(
            "import torch\n"
            "passes = iter(range(25))\n"
            "class Breaks(torch.nn.Linear):\n"
            "    def forward(self, x):\n"
            "        if self.training and torch.is_grad_enabled() and next(passes, None) is None:\n"
            "            raise RuntimeError('caught fire')\n"
            "        return super().forward(x.flatten(1))\n"
            "def make(shape, classes):\n"
            "    return torch.nn.Sequential(Breaks(64, 8), torch.nn.Linear(8, classes))\n"
        )
    text = SMALL.replace("hidden = [16, 16, 16, 16]", 'factory = "breaks:make"').replace('"mlp"', '"module"')
    done = launch(
        "run",
        tmp_path / write(text),
        "--set",
        "stages.count=1",
        "--out",
        tmp_path / "out",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    assert done.returncode == 1
    assert re.search(r"StageError: stage 0, forward \d+: RuntimeError: caught fire", done.stderr)


@pytest.mark.usefixtures("undrawn")
def test_links_may_be_said_with_units(tmp_path):
    units = ("network.latency_s=50 us", "network.bandwidth_bytes_s=1 Mb/s")
    numbers = ("network.latency_s=5e-5", "network.bandwidth_bytes_s=125e3")
    for name, (latency, bandwidth) in (("units", units), ("numbers", numbers)):
        assert decentral("run", write(), "--set", latency, "--set", bandwidth, "--out", name).code == 0
    first, second = (rows(only_run(tmp_path / name) / "metrics.csv") for name in ("units", "numbers"))
    assert [row["simulated_s"] for row in first] == [row["simulated_s"] for row in second]
    assert float(first[-1]["simulated_s"]) > 0


class Silent(StageProgram):
    """Does nothing, and says so of no step."""

    def run(self, stage):
        yield Compute("rest", lambda: None)


def test_a_program_that_does_not_say_when_a_step_is_done_is_refused_and_not_waited_for(monkeypatch):
    monkeypatch.setitem(PROGRAMS, "silent", dataclass(frozen=True)(Silent))
    with pytest.raises(StageError, match=r"ended after step 0 of 12: its program must yield Done\(t\)"):
        decentral("run", write(SMALL.replace('name = "local"', 'name = "silent"')), "--out", "out")
