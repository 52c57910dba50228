"""LSTM groups on different stages: the digits of one process, the bytes of their meetings; and runs on ranks."""

import csv
import json

import pytest
import tomli_w
import torch
from command import decentral
from ranks import run_ranks
from torch.nn.functional import cross_entropy

from decentral.problems.models.initialise import initialise
from decentral.problems.models.projected_lstm import GroupLSTM, projected
from decentral.runtime import VirtualClock
from decentral.stages.layers import network_of
from decentral.stages.programs.groups import Groups
from decentral.stages.stage import Stage

VOCABULARY, P, N, K, DEPTH, BATCH, TOKENS, STEPS = 7, 12, 24, 4, 2, 3, 5, 4


def network():
    made = initialise(lambda: projected(VOCABULARY, P, DEPTH, lambda: GroupLSTM(P, N, P, K)), 3)
    return made.double()


def batch(t):
    tokens = torch.randint(VOCABULARY, (BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(t))
    return tokens[:, :-1], tokens[:, 1:]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5, momentum=0.9)


def mean_loss(logits, labels):
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def split(count):
    """The network trained in so many stages, and the trace."""
    program, module = Groups(), network()
    whole = network_of(module)
    spans = [range(DEPTH + 1)] * count
    program.check(spans, whole.layers)
    stages = [
        Stage(k, spans, program.part(whole, k, count), sgd, batch, STEPS, loss=mean_loss)
        for k in range(count)
    ]
    held = [p for stage in stages for p in stage.learning]
    assert len(held) == len({id(p) for p in held}) == len(list(module.parameters()))
    trace = VirtualClock({s.number: program.run(s) for s in stages}, lambda stage, kind: 1.0).run()
    return module, trace, stages


@pytest.fixture(scope="module")
def trained():
    """By plain torch, in one piece; and the losses."""
    module, losses = network(), []
    optimizer = sgd(module.parameters())
    for t in range(STEPS):
        x, y = batch(t)
        optimizer.zero_grad()
        loss = mean_loss(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return module, losses


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_groups_on_stages_learn_as_in_one_piece(trained, count):
    module, trace, stages = split(count)
    assert not torch.equal(module.layers[1].groups[0].of_h, network().layers[1].groups[0].of_h)
    for (name, found), expected in zip(module.named_parameters(), trained[0].parameters(), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert [float(stages[-1].losses[t]) for t in range(STEPS)] == pytest.approx(trained[1], rel=1e-13)
    # by hand: each stage sends S - 1 others p' numbers a token and layer forward, and its own p' to each backward
    groups = [2, 1, 1] if count == 3 else [K // count] * count
    width = [P // K * g for g in groups]
    for s in range(count):
        for r in range(count):
            if s == r:
                continue
            sent = {c.name: size for c, size in trace.channel_bytes.items() if (c.source, c.target) == (s, r)}
            tokens = STEPS * BATCH * TOKENS * 8
            ends = {"activations": 0, "gradients": 0}
            ends["activations"] += width[r] * (s == 0) + width[s] * (
                r == count - 1
            )  # embedding out, outputs in
            ends["gradients"] += width[s] * (r == 0) + width[r] * (s == count - 1)
            expected = {
                "projections": tokens * DEPTH * width[r],
                "activations": tokens * ends["activations"],
                "gradients": tokens * (DEPTH * width[s] + ends["gradients"]),
            }
            assert sent == {name: size for name, size in expected.items() if size}
            steps = STEPS * DEPTH * TOKENS
            (meetings,) = (
                n for c, n in trace.channel_messages.items()
                if (c.source, c.target, c.name) == (s, r, "projections")
            )  # fmt: skip
            assert meetings == steps


# -------------------------------------------------------------------------------------------------- whole runs

TABLE = {
    "name": "groups",
    "seeds": [0],
    "problem": {"name": "g-lstm", "groups": 4, "cells": 16, "projection": 8, "context": 6},
    "train": {"lr": 0.3, "rounds": 3, "batch_size": 4, "record_every": 2, "eval_samples": 20, "dtype": "float64"},
}  # fmt: skip
RING = {"topology": {"name": "ring", "workers": 4}}


def recorded(out):
    """By run: its records but for the wall's time, and its boundaries."""
    found = {}
    for folder in (out / "runs").iterdir():
        with (folder / "metrics.csv").open(newline="") as file:
            unequal = ("wall_s", "simulated_s", "mpi_bytes_sent")
            lines = [{k: v for k, v in r.items() if k not in unequal} for r in csv.DictReader(file)]
        bounds = folder / "boundaries.json"
        found[folder.name] = lines, json.loads(bounds.read_text()) if bounds.exists() else None
    return found


def rounds():
    """Each method behind a rule, of another model."""
    sizes = {key: size for key, size in TABLE["problem"].items() if key not in ("name", "groups")}
    models = {"lstmp": {}, "f-lstm": {"rank": 3}, "g-lstm": {"groups": 4, "dropout": 0.2}}
    cases = [
        {"problem": {"name": name} | more, "algorithm": {"name": method}}
        for (name, more), method in zip(models.items(), ("pmsgd", "dmsgd", "decentlam"), strict=True)
    ]
    return TABLE | RING | {"problem": sizes, "optimizer": {"name": "lars"}, "sweep": {"case": cases}}


def stages():
    """Groups of layers, and layers with losses of their own, of two workers that gossip."""
    pair = {"topology": {"name": "path", "workers": 2}, "algorithm": {"name": "decentlam"}}
    return TABLE | pair | {"stages": {"count": 2}, "sweep": {"program": {"name": ["groups", "local"]}}}


BOTH = """
import sys
import decentral.runs.run as command
from decentral.cli import main
command._show = lambda folder: None
for kind in ("rounds", "stages"):
    sys.argv = ["decentral", "run", f"{kind}.toml", "--out", f"{kind}{sys.argv[-1][-1]}"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.mpi
def test_runs_have_the_digits_and_bytes_of_one_process_on_two_and_four_ranks(tmp_path):
    for kind, changed in (("rounds", rounds()), ("stages", stages())):
        (tmp_path / f"{kind}.toml").write_text(tomli_w.dumps(changed))
    found = {}
    for ranks in (1, 2, 4):
        done = run_ranks(ranks, "-c", BOTH, ranks, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[ranks] = [recorded(tmp_path / f"{kind}{ranks}") for kind in ("rounds", "stages")]
    assert [len(runs) for runs in found[1]] == [3, 2]
    for lines, bounds in (run for runs in found[1] for run in runs.values()):
        assert lines[0]["train_loss"] != lines[-1]["train_loss"]
        assert float(lines[-1]["bytes_sent_mean"]) > 0
        assert bounds is None or {b["name"] for b in bounds} >= {"activations", "gossip"}
    assert found[2] == found[1]
    assert found[4] == found[1]


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_groups_is_one_of_back_propagation(tmp_path):
    found = []
    for name, count in (("groups", 4), ("backprop", 1)):
        changed = TABLE | {"stages": {"count": count}, "program": {"name": name}}
        (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
        assert decentral("run", tmp_path / "x.toml", "--out", tmp_path / name).code == 0
        ((lines, _),) = recorded(tmp_path / name).values()
        found.append(lines)
        costs = json.loads(next((tmp_path / name / "runs").glob("*/activation_bytes.json")).read_text())
        assert len(costs) == count
        assert (
            min(costs.values()) > 2 * 4 * 6 * 4 * 16 * 8 // count
        )  # two layers' gates of a batch, at the least
    for ours, whole in zip(*found, strict=True):
        for key in ("train_loss", "test_loss", "batch_loss", "flops"):
            assert float(ours[key]) == pytest.approx(float(whole[key]), rel=1e-12), key
        assert float(ours["gradient_cosine"]) == pytest.approx(1, abs=1e-12)
        assert float(ours["critical_flops"]) < 0.5 * float(whole["critical_flops"])
    sent = (
        3 * 4 * 6 * 8 * 8 * 3 * (2 * 2 + 1)
    )  # steps, batch, tokens, p, float64, S - 1; two layers, and the ends
    assert float(found[0][-1]["bytes_sent_mean"]) == sent


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"problem": {"name": "lstm"}}, "program groups is for problem.name = 'g-lstm'"),
        ({"problem": {"name": "g-lstm", "dropout": 0.1}}, "without dropout"),
        (
            {"problem": {"name": "g-lstm", "groups": 2}, "stages": {"count": 3}},
            "have 2 groups, so 1 to 2 stages",
        ),
        ({"stages": {"count": 2, "cut": [1]}}, "stages.cut = [1] is between layers"),
    ],
)
def test_what_has_no_groups_to_part_is_refused_in_one_line(tmp_path, more, said):
    changed = TABLE | {"stages": {"count": 2}, "program": {"name": "groups"}} | more
    (tmp_path / "x.toml").write_text(tomli_w.dumps(changed))
    told = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert told.code == 2
    assert said in told.err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
