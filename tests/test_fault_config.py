"""``[faults]``: what is refused, what is written down, what a run reports."""

import tomllib

import numpy as np
import pytest
from command import decentral, metrics, read_csv, write
from test_refusals import refused

from decentral.errors import UserError
from decentral.network.compute import Constant, Lognormal, Slowed
from decentral.runs.sections.faults import Faults

pytestmark = pytest.mark.usefixtures("home")

AWAY = {"absent_workers": [3], "leave_round": 2}
REFUSED = {
    "unknown key": ({"los": 0.1}, "unknown key faults.los; did you mean 'loss'?"),
    "loss of all": ({"loss": 1.0}, "faults.loss = 1.0 must be at least 0 and below 1"),
    "negative loss": ({"loss": -0.1}, "faults.loss = -0.1"),
    "text": ({"loss": "5%"}, "faults.loss = '5%' should be a valid number"),
    "not a number": ({"loss": float("nan")}, "faults.loss = nan"),
    "late too often": ({"late": 1.5}, "faults.late = 1.5 must be in [0, 1]"),
    "late by nothing": ({"late": 0.1, "late_rounds": 0}, "faults.late_rounds = 0 must be from 1 to 10,000"),
    "half a round": ({"late": 0.1, "late_rounds": 1.5}, "faults.late_rounds = 1.5 should be a valid integer"),
    "no such worker": ({"absent_workers": [4], "leave_round": 2}, "4 is none of 4 workers; use 0 to 3"),
    "negative worker": ({"absent_workers": [-1], "leave_round": 2}, "-1 is none of 4 workers"),
    "twice": ({"absent_workers": [3, 3], "leave_round": 2}, "names a worker twice"),
    "one worker, no list": ({"absent_workers": 3, "leave_round": 2}, "should be a valid list"),
    "nobody left": ({"absent_workers": [0, 1, 2, 3], "leave_round": 2}, "names all 4 workers"),
    "when": ({"absent_workers": [3]}, "without faults.leave_round; add that key"),
    "who": ({"return_round": 4}, "faults.return_round = 4 is for faults.absent_workers, and it names none"),
    "back before": (
        {**AWAY, "return_round": 2},
        "faults.return_round = 2 must be after faults.leave_round = 2",
    ),
    "after the end": ({"absent_workers": [3], "leave_round": 6}, "is after the last of 6 rounds"),
    "before the start": ({"absent_workers": [3], "leave_round": -1}, "must be at least 0, the first round"),
    "slow by how much": ({"slow_workers": [1]}, "without faults.slow_factor; add that key"),
    "slow for whom": ({"slow_factor": 3.0}, "is for faults.slow_workers, and it names none"),
    "slow and fast": (
        {"slow_workers": [1], "slow_factor": 0.5},
        "faults.slow_factor = 0.5 must be at least 1",
    ),
}


@pytest.mark.parametrize(("faults", "line"), REFUSED.values(), ids=REFUSED)
def test_values_without_sense_are_named(home, faults, line):
    assert line in refused(home, "run", write(home / "x.toml", faults=faults), "--out", "out")


LOSS = {"faults": {"loss": 0.1}}
COMBINATIONS = {
    "compiled": ({**LOSS, "train": {"compile": True}}, "train.compile = true"),
    "compressed": ({**LOSS, "compression": {"name": "qsgd"}}, "remove [compression]"),
    "copies": ({**LOSS, "algorithm": {"name": "choco"}}, "CHOCO keeps at its neighbours what it has sent"),
    "copies inside": (
        {**LOSS, "algorithm": {"name": "slowmo", "base": "choco"}},
        "SlowMo keeps at its neighbours what it has sent",
    ),
    "edges": (
        {**LOSS, "algorithm": {"name": "relay-sgd"}, "topology": {"name": "path", "workers": 4}},
        "RelaySGD keeps at its neighbours",
    ),
    "exact": (
        {**LOSS, "algorithm": {"name": "pmsgd"}},
        "PmSGD does not gossip, and an all-reduce sends again",
    ),
    "rarely exact": ({**LOSS, "algorithm": {"name": "local-sgd"}}, "LocalSGD does not gossip"),
    "outer steps": ({**LOSS, "algorithm": {"name": "diloco"}}, "DiLoCo does not gossip"),
    "an all-reduce waits": (
        {"faults": AWAY, "algorithm": {"name": "gossip-pga"}},
        "GossipPGA averages exactly, and an all-reduce waits for faults.absent_workers = [3]",
    ),
    "one way": (
        {
            "faults": {"loss": 0.1, "symmetric": True},
            "topology": {"name": "one-peer-exponential", "workers": 8},
        },
        "faults.symmetric = true is for a symmetric W",
    ),
    "alone": ({**LOSS, "topology": {"name": "ring", "workers": 1}}, "there is one worker"),
}


@pytest.mark.parametrize(("changes", "line"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_methods_and_links_without_an_answer_are_refused(home, changes, line):
    assert line in refused(home, "run", write(home / "x.toml", **changes), "--out", "out")


def test_stages_have_no_faults(home):
    file = write(home / "x.toml", **LOSS, stages={"count": 2}, program={"name": "gpipe"})
    assert "section [faults] has no meaning where there is [stages]" in refused(
        home, "run", file, "--out", "out"
    )


def test_a_resolved_run_repeats_itself(home):
    table = {"loss": 0.25, "late": 0.5, "absent_workers": [1], "leave_round": 2, "return_round": 4}
    assert decentral("run", write(home / "x.toml", faults=table), "--out", "out").code == 0
    ((name, rows),) = metrics(home / "out").items()
    resolved = home / "out" / "runs" / name / "config.toml"
    written = tomllib.loads(resolved.read_text())["faults"]
    assert written == {**table, "symmetric": False, "late_rounds": 1, "slow_workers": []}
    assert decentral("run", resolved, "--out", "again").code == 0
    ((_, again),) = metrics(home / "again").items()
    for row, other in zip(rows, again, strict=True):
        assert {**row, "wall_s": 0} == {**other, "wall_s": 0}


def test_a_sweep_has_its_baseline_and_reports_what_was_lost(home):
    sweep = {"faults": {"loss": [0.0, 0.2]}, "algorithm": {"name": ["dsgd", "push-sum"]}}
    file = write(home / "x.toml", sweep=sweep, train={"rounds": 40, "record_every": 40})
    assert decentral("run", file, "--out", "out").code == 0
    rows = {
        (row["algorithm.name"], row["faults.loss"]): row for row in read_csv(home / "out" / "results.csv")
    }
    assert len({row["bytes_sent_mean"] for (name, _), row in rows.items() if name == "dsgd"}) == 1
    for (name, loss), row in rows.items():
        lost, moved = float(row["lost_messages"]), float(row["mean_drift_sq"])
        assert (lost > 0) == (loss == "0.2")
        assert lost < 0.4 * float(row["messages"])
        assert (moved > 1e-20) == (loss == "0.2" and name == "dsgd")
        assert row["late_messages"] == "0"
        if name == "push-sum":
            assert float(row["mass"]) == pytest.approx(1, abs=1e-14)
    assert rows["dsgd", "0.0"]["theory_bias_sq"]
    assert not rows["dsgd", "0.2"]["theory_bias_sq"]  # there is no steady state to foretell


NOTES = {
    "rows": ("dsgd", {"loss": 0.1}, ["takes its own vector instead: rows", "the average drifts"]),
    "late": ("dsgd", {"late": 0.1}, ["takes the newest vector that it has of the sender, or else its own,"]),
    "symmetric": ("dsgd", {"loss": 0.1, "symmetric": True}, ["stays doubly stochastic, and the average is kept"]),
    "columns": ("push-sum", {"loss": 0.1}, ["nothing of the sum is lost, and mass stays 1"]),
    "averages": ("gossip-pga", {"loss": 0.1}, ["only gossip has faults"]),
    "away": ("dsgd", {**AWAY, "return_round": 5}, ["workers [3] stand still from round 2 to round 5"]),
    "cut": (
        "push-sum",
        {"absent_workers": [0, 2], "leave_round": 1},
        ["to the end", "without them the graph is not connected, and workers that no weight reaches"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("method", "faults", "lines"), NOTES.values(), ids=NOTES)
def test_a_run_says_what_its_method_loses(home, method, faults, lines):
    said = decentral("run", write(home / "x.toml", algorithm={"name": method}, faults=faults), "--out", "out")
    assert said.code == 0
    for line in lines:
        assert line in said.err.replace("\n", " ")


def test_slow_workers_draw_the_same_times_and_take_longer():
    base = Lognormal(1.0, 0.5)
    slowed = Faults(slow_workers=(1, 4), slow_factor=10.0).slowed(base)
    assert slowed == Slowed(base, (1, 4), 10.0)
    for workers in (range(6), range(3, 5)):
        times = base.draw(7, workers, 3)
        factors = [10.0 if w in (1, 4) else 1.0 for w in workers]
        assert slowed.draw(7, workers, 3).tolist() == (times * np.array(factors)).tolist()
    assert Faults(loss=0.1).slowed(base) is base
    slowed.check(5)
    with pytest.raises(UserError, match="worker = 4 is none of 4 workers"):
        slowed.check(4)
    with pytest.raises(UserError, match="factor = -1"):
        Slowed(Constant(1.0), (0,), -1.0)
