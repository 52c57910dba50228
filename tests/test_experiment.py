"""One TOML file is a grid of runs; what was set wins; what is written down repeats the run."""

import re
import tomllib

import pytest
import tomli_w
from command import experiment, write

from decentral.errors import UserError
from decentral.runs.experiment import expand, load, parse_override
from decentral.runs.reading import read, resolved
from decentral.runs.rounds.config import RoundsRun

LINKED = {
    "algorithm": [{"name": "dmsgd", "momentum": 0.5}, {"name": "dmsgd", "momentum": 0.9}, {"name": "pmsgd"}]
}


def grid(overrides=(), **changes):
    return expand(experiment(**changes), [parse_override(text) for text in overrides])


def values(planned, *names):
    return [tuple(run.swept[name] for name in names) for run in planned.runs]


def test_a_sweep_is_the_product_of_its_axes_and_the_seeds_in_the_files_order():
    planned = grid(sweep={"train": {"lr": [0.1, 0.2]}, "topology": {"workers": [4, 8]}}, seeds=[3, 1])
    assert values(planned, "train.lr", "topology.workers") == [
        (lr, n) for lr in (0.1, 0.2) for n in (4, 8) for _ in (3, 1)
    ]
    assert [run.config.seed for run in planned.runs] == [3, 1] * 4
    assert [run.config.train.lr for run in planned.runs] == [0.1] * 4 + [0.2] * 4
    assert [run.config.topology.workers for run in planned.runs] == [4, 4, 8, 8] * 2


def test_without_a_sweep_there_is_one_run_a_seed_and_the_seed_is_0():
    assert [run.config.seed for run in grid().runs] == [0]
    assert [run.config.seed for run in grid(seeds=[5, 7]).runs] == [5, 7]


def test_a_list_of_tables_sweeps_its_keys_together_and_every_run_has_every_field():
    planned = grid(sweep=LINKED)
    assert values(planned, "algorithm.name", "algorithm.momentum") == [
        ("dmsgd", 0.5),
        ("dmsgd", 0.9),
        ("pmsgd", 0.9),
    ]
    with_fixed = grid(sweep={"train": [{"lr": 0.1, "rounds": 8}, {"lr": 0.2, "rounds": 4}]})
    assert [(run.config.train.lr, run.config.train.rounds) for run in with_fixed.runs] == [(0.1, 8), (0.2, 4)]
    assert all(
        run.config.train.dtype == "float64" for run in with_fixed.runs
    )  # what the tables do not name stays


def test_an_override_is_typed_as_toml_and_else_a_text():
    assert parse_override("train.lr=0.5") == ("train.lr", 0.5)
    assert parse_override(" seeds = [1, 2]") == ("seeds", [1, 2])
    assert parse_override("algorithm.allow_unstable=true") == ("algorithm.allow_unstable", True)
    assert parse_override("topology.name=star") == ("topology.name", "star")
    assert parse_override("problem.data_root=/data/a=b") == ("problem.data_root", "/data/a=b")
    (run,) = grid(["train.lr=1", "topology.name=star", "topology={workers = 5}", "seeds=[9]"]).runs
    assert (run.config.train.lr, run.config.topology.name, run.config.topology.workers) == (1.0, "star", 5)
    assert run.config.seed == 9


CASES = [
    {"algorithm": {"name": "pmsgd"}, "topology": {"name": "complete"}},
    {"algorithm": {"name": "dsgd", "variant": "awc"}, "topology": {"name": "ring"}},
    {"algorithm": {"name": "dsgd", "variant": "awc"}, "topology": {"name": "star"}},
]


def test_cases_are_an_axis_of_combinations():
    planned = grid(sweep={"case": CASES, "train": {"lr": [0.1, 0.2]}})
    fields = ("algorithm.name", "algorithm.variant", "topology.name", "train.lr")
    found = values(planned, *fields)
    pairs = [("pmsgd", "", "complete"), ("dsgd", "awc", "ring"), ("dsgd", "awc", "star")]
    assert found == [(*pair, lr) for pair in pairs for lr in (0.1, 0.2)]
    assert [run.config.topology.name for run in planned.runs[::2]] == ["complete", "ring", "star"]


def test_an_override_ends_a_case_that_differs_in_nothing_else():
    planned = grid(["topology.name=path"], sweep={"case": CASES})
    assert values(planned, "algorithm.name", "topology.name") == [("pmsgd", "path"), ("dsgd", "path")]


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ({"algorithm": {"name": "dsgd"}}, "should be a table of sections"),
        ([{"algorithm": "dsgd"}], "should be a table of sections"),
        ([{"algorithms": {"name": "dsgd"}}], "unknown key sweep.case.algorithms; did you mean 'algorithm'?"),
        ([], "should be a non-empty list"),
    ],
)
def test_cases_that_are_none_are_refused(cases, message):
    with pytest.raises(UserError, match=re.escape(message)):
        grid(sweep={"case": cases})


def test_an_override_of_a_swept_field_ends_its_sweep():
    sweep = {"train": {"lr": [0.1, 0.2]}, "topology": {"workers": [4, 8]}}
    planned = grid(["train.lr=0.3"], sweep=sweep)
    assert values(planned, "topology.workers") == [(4,), (8,)]
    assert {run.config.train.lr for run in planned.runs} == {0.3}
    planned = grid(["algorithm.momentum=0.7"], sweep={"algorithm": LINKED["algorithm"][:2]})
    assert values(planned, "algorithm.name", "algorithm.momentum") == [("dmsgd", 0.7)]
    planned = grid(["train={lr = 0.3, rounds = 2}"], sweep=sweep)
    assert {(run.config.train.lr, run.config.train.rounds) for run in planned.runs} == {(0.3, 2)}


def test_an_override_may_give_or_change_a_sweep():
    assert values(grid(["sweep.train.lr=[0.3, 0.4]"]), "train.lr") == [(0.3,), (0.4,)]
    assert values(grid(["sweep.train.lr=[0.3]"], sweep={"train": {"lr": [1.0]}}), "train.lr") == [(0.3,)]


def test_the_experiment_as_it_was_run_plans_the_same_runs_again():
    for overrides in (
        [],
        ["train.lr=0.3"],
        ["algorithm.momentum=0.7"],
        ["sweep.train.rounds=[3, 4]", "seeds=[1, 2]"],
    ):
        sweep = {"train": {"lr": [0.1, 0.2]}, "algorithm": LINKED["algorithm"][:2]}
        planned = grid(overrides, sweep=sweep, figure=[{"y": "bias_sq"}], question="why?")
        again = expand(tomllib.loads(tomli_w.dumps(planned.table)))
        assert {run.id for run in again.runs} == {run.id for run in planned.runs}
        assert again.table == planned.table


EVERY_KIND = [
    {},
    {"algorithm": {"name": "decentlam", "momentum": 0.3, "allow_unstable": True}},
    {"schedule": {"name": "step", "milestones": [0.25, 0.5], "factor": 0.5, "warmup_rounds": 2}},
    {"topology": {"name": "one-peer-exponential", "workers": 4}},
    {"topology": {"name": "geometric", "workers": 9, "radius": 0.9, "seed": 2, "weights": "lazy"}},
    {"problem": {"name": "mlp", "hidden": [8, 4]}, "train": {"batch_size": "full", "weight_decay": 0.1}},
    {"problem": {"name": "linear-regression"}, "train": {"record_every": 3, "checkpoint_every": "never"}},
    {"topology": {"name": "file", "path": "g.edgelist", "weights": "w.csv"}},
]


@pytest.mark.parametrize("changes", EVERY_KIND, ids=lambda changes: "-".join(changes) or "as it is")
def test_the_resolved_configuration_run_again_is_the_same_run(tmp_path, changes):
    (tmp_path / "g.edgelist").write_text("a b\nb c\nc a\n")
    (tmp_path / "w.csv").write_text("0.5,0.25,0.25\n0.25,0.5,0.25\n0.25,0.25,0.5\n")
    (first,) = load(write(tmp_path / "x.toml", seeds=[4], **changes)).runs
    elsewhere = tmp_path / "out" / "runs" / first.id
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.toml").write_text(tomli_w.dumps(resolved(first.config)))
    (again,) = load(elsewhere / "config.toml").runs
    assert resolved(again.config) == resolved(first.config)
    for part in ("name", "seed", "problem", "topology", "algorithm", "allow_unstable", "train", "schedule"):
        assert getattr(again.config, part) == getattr(first.config, part), part
    assert again.id == first.id


def test_run_ids_are_unique_stable_and_fit_to_name_a_folder():
    sweep = {
        "topology": {"name": ["ring", "star"]},
        "problem": [
            {"dimension": 3, "noise": 0.1, "condition": 10.0, "heterogeneity": h} for h in (1.0, 2.0)
        ],
        "train": {"batch_size": ["full", 8], "weight_decay": [1e-2, 1e-3], "record_every": ["auto", 2]},
    }
    runs = grid(sweep=sweep, seeds=[0, 1]).runs
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids) == 64
    assert ids == [run.id for run in grid(sweep=sweep, seeds=[0, 1]).runs]
    assert all(len(name) < 120 and not set(name) & set("/\\ :*?\"<>|'[]") for name in ids)
    (changed,) = grid(["train.rounds=7"]).runs  # another value is another run, also where it is not swept
    assert changed.id != grid().runs[0].id
    assert grid(figure=[{"y": "bias_sq"}], question="why?").runs[0].id == grid().runs[0].id


def test_run_ids_do_not_depend_on_the_order_of_the_sweep():
    one = grid(sweep={"train": {"lr": [0.1, 0.2]}, "topology": {"workers": [4, 8], "name": ["ring", "star"]}})
    other = grid(
        sweep={"topology": {"name": ["star", "ring"], "workers": [4, 8]}, "train": {"lr": [0.1, 0.2]}}
    )
    assert {run.id for run in one.runs} == {run.id for run in other.runs}


def test_more_seeds_or_values_leave_the_ids_of_the_runs_that_were_there():
    few = {run.id for run in grid(sweep={"train": {"lr": [0.1]}}, seeds=[0]).runs}
    many = {run.id for run in grid(sweep={"train": {"lr": [0.1, 0.2]}}, seeds=[0, 1]).runs}
    assert few < many


def test_paths_are_meant_from_the_files_own_folder(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "data", elsewhere):
        folder.mkdir(parents=True)
    (home / "g.edgelist").write_text("0 1\n1 2\n2 0\n")
    monkeypatch.chdir(elsewhere)
    problem = {"name": "mlp", "data_root": "data"}
    sweep = {"topology": [{"name": "ring", "workers": 3}, {"name": "file", "path": "g.edgelist"}]}
    first, second = load(
        write(home / "x.toml", problem=problem, topology={"workers": 3, "weights": "lazy"}, sweep=sweep)
    ).runs
    assert first.config.problem.data_root == str(home / "data")
    assert second.config.topology.parameters["path"] == str(home / "g.edgelist")
    assert second.config.topology.mixing().n == 3
    (elsewhere / "lazy").touch()  # the name of a rule is no path
    assert first.config.topology.weights == "lazy"


def test_a_graph_files_workers_are_found_in_it_and_must_agree(tmp_path):
    (tmp_path / "g.edgelist").write_text("0 1\n1 2\n2 0\n")
    table = {"name": "file", "path": str(tmp_path / "g.edgelist")}
    assert grid(topology=table).runs[0].config.topology.workers == 3
    assert grid(topology=table | {"workers": 3}).runs[0].config.topology.workers == 3
    with pytest.raises(UserError, match=r"topology.workers = 4 but .*g.edgelist has 3 nodes"):
        grid(topology=table | {"workers": 4})


def test_defaults_of_a_run_are_those_of_its_dataclasses():
    config = read(RoundsRun, experiment(seeds=[0]))
    assert config.train.batch_size == 32
    assert config.train.checkpoint_rounds == 1
    assert config.topology.weights == "metropolis"
    assert not config.allow_unstable


FIGURES = [
    ([{"y": "bias"}], "'bias'.*did you mean 'bias_sq'"),
    ([{"y": "bias_sq", "x": "rounds"}], "did you mean 'round'"),
    ([{"y": "bias_sq", "yy": 1}], "no key 'yy'; did you mean 'y'"),
    ([{"y": 3}], "y = 3 must be text"),
    ([{"x": "round"}], "names no y"),
    ([{"y": "bias_sq", "kind": "pie"}], "'pie'.*curves, final"),
    ([{"y": "bias_sq", "kind": "final"}], "'final' needs x"),
    ([{"y": "bias_sq", "kind": "final", "x": "train.lrr"}], "did you mean 'train.lr'"),
    ([{"y": "bias_sq", "group": "algorithm.nam"}], "did you mean 'algorithm.name'"),
    ([{"y": "bias_sq", "panel": "topology.gap"}], "panel = 'topology.gap'"),
    ([{"y": "theory_bias_sq"}], "no column of metrics.csv"),  # it has no rounds
    ([{"y": "bias_sq"}, {"y": "bias_sq"}], "given twice"),
    ([{"y": "bias_sq", "name": "../x"}], "must be a file name"),
    ([{"y": "bias_sq", "log": "z"}], "log = 'z'"),
    ({"y": "bias_sq"}, r"write \[\[figure\]\]"),
    (["bias_sq"], r"write \[\[figure\]\]"),
]


@pytest.mark.parametrize(("figures", "complaint"), FIGURES)
def test_a_figure_that_cannot_be_drawn_is_refused_with_the_configuration(figures, complaint):
    with pytest.raises(UserError, match=complaint):
        grid(figure=figures)


def test_figures_of_swept_and_fixed_fields_and_of_final_columns_are_let_through():
    figures = [
        {"name": "a", "y": "bias_sq", "theory": "theory_bias_sq", "kind": "final", "x": "train.lr"},
        {"name": "b", "y": "bias_sq", "kind": "final", "x": "spectral_gap", "group": ["algorithm.name"]},
        {"name": "c", "y": "consensus_sq", "x": "bytes_sent_mean", "panel": "topology.workers"},
    ]
    assert len(grid(figure=figures, sweep={"train": {"lr": [0.1, 0.2]}}).runs) == 2


def test_overrides_are_checked_as_the_file_is():
    with pytest.raises(UserError, match=r"\[\[figure\]\]"):
        grid(["figure=3"])
    with pytest.raises(UserError, match="figure y = 'bias'"):
        grid(['figure=[{y = "bias"}]'])
    with pytest.raises(UserError, match=r"unknown key trian; did you mean 'train'"):
        grid(["trian.lr=0.1"])
    with pytest.raises(UserError, match=r"train.lr.x cannot be set"):
        grid(["train.lr.x=0.1"])
