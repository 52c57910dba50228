"""What columns a run will have is known before it: held against the files of small runs of every kind."""

import pytest
from command import decentral, experiment, metrics, read_csv, write

from decentral.runs.kinds import KINDS, run_of

MLP = {"name": "mlp", "hidden": [4]}
NO_WORKERS = {"topology": None, "algorithm": None}
TRAIN = {"lr": 0.05, "rounds": 2, "record_every": 1, "eval_samples": 10, "batch_size": 4}
RUNS = {
    "quadratic": {},
    "regression": {"problem": {"name": "linear-regression"}},
    "regression without an optimum": {"problem": {"name": "linear-regression", "dimension": 300, "samples": 40}},
    "logistic": {"problem": {"name": "logistic-regression"}, "train": TRAIN},
    "logistic with an optimum": {
        "problem": {"name": "logistic-regression", "optimum": True}, "train": {**TRAIN, "weight_decay": 0.1},
    },
    "text": {"problem": {"name": "lstm", "width": 4, "depth": 1}, "train": TRAIN},
    "actors": {
        "problem": {"name": "rl", "width": 4, "warmup": 4, "episodes": 1, "episode_steps": 5},
        "train": {"lr": 0.001, "rounds": 2, "record_every": 1, "batch_size": 4},
    },
    "faults": {"faults": {"loss": 0.2}},
    "faults of push-sum": {"faults": {"loss": 0.2}, "algorithm": {"name": "push-sum"}},
    "compression": {"algorithm": {"name": "choco"}, "compression": {"name": "top-k"}},
    "compression by layers": {
        "problem": MLP, "algorithm": {"name": "pmsgd"}, "compression": {"name": "adacomp"}, "train": TRAIN,
    },
    "a rate that adapts": {"problem": MLP, "schedule": {"name": "autowu"}, "train": TRAIN},
    "phases": {
        "problem": MLP, "train": TRAIN, "phases": {"replicas": {"rounds": 2, "batch_size": 2, "lr": 0.05}},
    },
    "phases of a text": {
        "problem": {"name": "lstm", "width": 4, "depth": 1}, "train": TRAIN,
        "phases": {"until_train_accuracy": 0.9, "replicas": {"rounds": 1, "batch_size": 2, "lr": 0.05}},
    },
    "phases of a quadratic": {"phases": {"replicas": {"rounds": 2, "batch_size": 1, "lr": 0.05, "data": "own"}}},
    "noise scale": {"problem": {"name": "quadratic", "noise": 0.1}, "noise_scale": {}},
    "growing batches": {"problem": MLP, "train": TRAIN, "noise_scale": {"most_batch": 8, "grow_every": 1}},
    "asynchronous": {"algorithm": {"name": "ad-psgd"}},
    "stages": {
        **NO_WORKERS, "problem": {"name": "mlp", "hidden": [4, 4]}, "stages": {"count": 2},
        "program": {"name": "gpipe"}, "train": TRAIN,
    },
    "nodes": {**NO_WORKERS, "problem": MLP, "dataflow": {}, "train": {**TRAIN, "rounds": 1, "batch_size": 400}},
    "assisted": {**NO_WORKERS, "problem": MLP, "assistant": {}, "train": TRAIN},
    "nodes in step": {
        **NO_WORKERS, "problem": {"name": "list-reduction", "train": 20, "validation": 10, "width": 4},
        "dataflow": {"runtime": "synchronous"}, "train": {"lr": 0.05, "rounds": 1},
    },
}  # fmt: skip
PERHAPS = {"spectral_gap", "theory_bias_sq", "staleness_mean", "staleness_max"}
"""Of results.csv, known for sure at the end only."""


def table_of(changes):
    train = changes.get("train", {})
    given = experiment(**{k: v for k, v in changes.items() if k != "train"})
    given["train"] = train or given["train"]
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_records_what_it_was_known_to(home, case):
    import tomli_w

    table = table_of(RUNS[case])
    (home / "x.toml").write_text(tomli_w.dumps(table))
    said = decentral("run", "x.toml", "--out", "out")
    assert said.code == 0, said.err
    (rows,) = metrics(home / "out").values()
    told = run_of({"name": "small", "seeds": [0], **table}).columns(1)
    layers = {name for name in told.recorded if name.startswith("gradient_cosine_")}  # more than there are
    kinds = {
        name for name in told.recorded if name.startswith("compression_ratio_")
    }  # of which a model has some
    recorded = set(rows[0])
    assert recorded <= set(told.recorded)
    assert set(told.recorded) - layers - kinds <= recorded
    (final,) = read_csv(home / "out" / "results.csv")
    known = {*told.recorded, *told.final}
    last = set(final) - {"run", "status", "message", "seed"}
    assert last <= known
    assert known - layers - kinds - PERHAPS <= last


def test_the_runs_are_of_all_kinds():
    kinds = {type(run_of({"name": "small", "seeds": [0], **table_of(changes)})) for changes in RUNS.values()}
    assert kinds == {kind.run for kind in KINDS}


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"y": "test_accuracy"}, "y = 'test_accuracy' is no column of metrics.csv"),  # there are no samples
        ({"y": "bias_sq", "x": "epoch"}, "x = 'epoch'"),
        ({"y": "lost_messages"}, "y = 'lost_messages'"),
        ({"y": "answered", "kind": "final", "x": "train.lr"}, "y = 'answered'"),
        ({"y": "bias_sq", "theory": "train_lost"}, "theory = 'train_lost'"),
        ({"y": "x" * 5_000}, "is no column"),
        ({"y": "bias_sq", "name": "x" * 300}, "must be a file name"),
    ],
)
def test_a_figure_of_what_no_run_has_is_refused_before_any_run(home, figure, words):
    said = decentral("run", write(home / "x.toml", figure=[figure]), "--out", "out")
    assert said.code == 2
    assert words in said.err
    assert len(said.err) < 300
    assert not (home / "out").exists()


def test_on_ranks_there_is_no_simulated_time_of_what_has_no_rounds():
    for case in ("asynchronous", "stages", "nodes"):
        run = run_of({"name": "small", "seeds": [0], **table_of(RUNS[case])})
        assert set(run.columns(1).recorded) - set(run.columns(2).recorded) == {"simulated_s"}


def test_warnings_of_libraries_stay_inside_and_a_users_own_do_not(home, capfd, monkeypatch):
    import sys
    import warnings

    from decentral.commands.library_warnings import keep_back_warnings

    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        monkeypatch.setattr(sys, "warnoptions", [])
        keep_back_warnings()
        for module in ("decentral.runs.metrics", "numpy.linalg", "torch", "topologies", "users", "mytorch.x"):
            warnings.warn_explicit("overflow", RuntimeWarning, "f.py", 1, module=module)
    assert len(seen) == 2
    with warnings.catch_warnings():
        before = list(warnings.filters)
        keep_back_warnings()  # as errors, here: they are left
        assert list(warnings.filters) == before
