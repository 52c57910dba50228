"""The command line: quick where nothing is trained, and every command does what its help says."""

import json
import subprocess
import sys

import pytest
import ranks
from command import decentral, read_csv, write

from decentral.cli import cli
from decentral.commands.catalogue import catalogue
from decentral.errors import UserError

WITHOUT_TORCH = """
import sys
from decentral.cli import main
for line in ('--help', 'run --help', 'list', 'list algorithms', 'list nonsense', 'topology --help', 'nonsense',
             'topology ring -n 8 --json', 'topology one-peer-exponential -n 8', '--version', 'plot --help',
             'advise --help'):
    sys.argv = ['decentral', *line.split()]
    try:
        main()
    except SystemExit:
        pass
slow = {'torch', 'matplotlib', 'sklearn', 'mpi4py', 'pandas'} & set(sys.modules)
assert not slow, slow
print('none of them')
"""


@pytest.mark.slow
def test_help_list_and_topology_answer_without_importing_what_is_slow():
    done = ranks.run_ranks(1, "-c", WITHOUT_TORCH, fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("none of them\n")


def test_refusing_a_wrong_experiment_needs_no_torch(tmp_path):
    code = "import sys\nfrom decentral.runs.experiment import load\nfrom decentral.errors import UserError\n"
    code += (
        "from pathlib import Path\nload(Path(sys.argv[1]))\nassert 'torch' not in sys.modules\nprint('fine')"
    )
    done = ranks.run_ranks(
        1, "-c", code, write(tmp_path / "x.toml", sweep={"train": {"lr": [0.1, 0.2]}}), fresh=True
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("command", ["", *sorted(cli.commands)])
def test_every_command_has_its_help(command):
    said = decentral(*command.split(), "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: decentral {command}".rstrip())
    assert "-h, --help" in said.out
    assert decentral(*command.split(), "-h") == said


def test_without_a_command_it_shows_its_help():
    said = decentral()
    assert said.code == 2
    assert "Usage: decentral" in said.err


def test_python_m_decentral_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "decentral", "list", "weights"],
        env=ranks.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "metropolis" in done.stdout


def test_the_version_is_the_installed_one_or_says_that_there_is_none():
    said = decentral("--version")
    assert said.code == 0
    assert said.out.startswith("decentral")


@pytest.mark.parametrize("kind", catalogue())
def test_list_shows_every_name_of_a_kind_with_what_it_is(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = decentral("list", kind)
    assert said.code == 0
    said_of = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line[:1].strip()}
    for name in catalogue()[kind]:
        assert said_of.get(name), name
    assert all(f"\n{name} " in decentral("list").out for name in catalogue()[kind])


def test_list_shows_programs_and_heads_when_it_is_asked_for_them(monkeypatch):
    from decentral.stages.heads import HEADS
    from decentral.stages.programs import PROGRAMS

    monkeypatch.setenv("COLUMNS", "80")
    for kind, names in (("programs", PROGRAMS), ("heads", HEADS)):
        said = decentral("list", kind).out
        assert all(f"\n{name} " in said for name in names)
        assert f"decentral list {kind}" in " ".join(decentral("list").out.split())


def test_list_shows_defaults_as_toml_writes_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = decentral("list").out
    for text in (
        "hidden=[256]",
        "nesterov=false",
        'data_root=""',
        "rows,",
        "milestones=[0.5, 0.75]",
        "path, directed",
    ):
        assert text.rstrip(",") in said


def test_list_knows_all_that_a_file_may_name():
    import topologies
    from decentral.algorithms import ALGORITHMS
    from decentral.algorithms.asynchronous import ASYNCHRONOUS
    from decentral.optimizers import SCHEDULES
    from decentral.problems import PROBLEMS
    from decentral.problems.data import SOURCES

    kinds = catalogue()
    assert kinds["algorithms"].keys() == {**ALGORITHMS, **ASYNCHRONOUS}.keys()
    built_in = topologies.TOPOLOGIES.keys() | topologies.SCHEDULES.keys()
    assert kinds["topologies"].keys() == built_in | {"file", "files"}
    assert kinds["weights"].keys() == topologies.WEIGHTS.keys()
    assert kinds["problems"].keys() == PROBLEMS.keys()
    assert kinds["schedules"].keys() == SCHEDULES.keys()
    assert kinds["data"].keys() == {name for sets in SOURCES.values() for name in sets}


def test_an_unknown_list_is_refused_with_the_nearest():
    said = decentral("list", "topology")
    assert said.code == 2
    assert said.err == "decentral: there is no list of 'topology'; did you mean 'topologies'?\n"


def test_topology_needs_a_size_and_prints_json():
    said = decentral("topology", "ring")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "-n" in said.err
    said = decentral("topology", "ring", "-n", "8", "--json")
    assert said.code == 0
    assert 0.195262 in [round(v, 6) for v in json.loads(said.out).values() if isinstance(v, float)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small real experiment."""
    home = tmp_path_factory.mktemp("cli")
    sweep = {"algorithm": {"name": ["dsgd", "decentlam"]}}
    file = write(home / "x.toml", name="real", question="Which?", seeds=[0, 1], sweep=sweep)
    said = decentral("run", file, "--out", home / "out")
    assert said.code == 0, said.err
    return home / "out", said


def test_a_run_says_what_it_does_and_closes_with_a_table_and_where_the_rest_is(folder):
    out, said = folder
    assert [line.partition(": finished, ")[0] for line in said.err.splitlines()] == [
        f"run {k} of 4: {words}"
        for k, words in enumerate(
            ["dsgd seed 0", "dsgd seed 1", "decentlam seed 0", "decentlam seed 1"], start=1
        )
    ]
    assert "real" in said.out
    assert "DecentLaM" in said.out
    assert f"figures in {out / 'figures'}, report in {out / 'report.html'}" in said.out
    assert not list(out.rglob("*.part"))


def test_a_run_leaves_what_the_design_names(folder):
    out, _ = folder
    assert {path.name for path in out.iterdir()} == {
        "experiment.toml",
        "command.txt",
        "results.csv",
        "figures",
        "report.html",
        "runs",
    }
    results = read_csv(out / "results.csv")
    assert list(results[0])[:5] == ["run", "status", "message", "algorithm.name", "seed"]
    assert [(row["algorithm.name"], row["seed"]) for row in results] == [
        ("dsgd", "0"),
        ("dsgd", "1"),
        ("decentlam", "0"),
        ("decentlam", "1"),
    ]
    assert list((out / "figures").glob("*.png"))
    for row in results:
        run = out / "runs" / row["run"]
        assert {path.name for path in run.iterdir()} == {
            "config.toml",
            "environment.json",
            "metrics.csv",
            "status.json",
        }
        environment = json.loads((run / "environment.json").read_text())
        assert environment["ranks"] == 1
        assert environment["packages"]["torch"]
        assert environment["command"].startswith("decentral run ")
    assert (out / "command.txt").read_text().startswith("decentral run ")


@pytest.mark.usefixtures("undrawn")
def test_the_configuration_of_a_run_repeats_it(folder, tmp_path):
    out, _ = folder
    row = read_csv(out / "results.csv")[2]
    said = decentral("run", out / "runs" / row["run"] / "config.toml", "--out", tmp_path / "again")
    assert said.code == 0
    (again,) = read_csv(tmp_path / "again" / "results.csv")
    for key in ("bias_sq", "consensus_sq", "bytes_sent_mean", "seed", "round", "theory_bias_sq"):
        assert again[key] == row[key]


def test_compare_prints_one_table_over_folders(folder):
    out, _ = folder
    said = decentral("compare", out)
    assert said.code == 0
    assert "DecentLaM" in said.out
    assert "DSGD" in said.out
    assert decentral("compare", out, out).code == 0
    assert decentral("compare", out / "runs").code == 2


def test_plot_draws_what_it_is_asked_for(folder, tmp_path):
    out, _ = folder
    for k, options in enumerate(
        ([], ["--y", "bias_sq", "--x", "bytes_sent_mean", "--log", "y"], ["--group", "algorithm.name"])
    ):
        assert decentral("plot", out, "--out", tmp_path / f"{k}.png", *options).code == 0
        assert (tmp_path / f"{k}.png").read_bytes().startswith(b"\x89PNG")
    said = decentral("plot", out, "--out", tmp_path / "f.png", "--y", "bias")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "did you mean 'bias_sq'" in said.err
    said = decentral("plot", out, "--out", tmp_path / "f.bmp")
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_a_figure_of_a_column_that_no_run_will_have_is_refused_before_any(tmp_path):
    file = write(tmp_path / "x.toml", figure=[{"y": "test_accuracy"}])  # a quadratic has none
    said = decentral("run", file, "--out", tmp_path / "out")
    assert said.code == 2
    assert said.err.startswith("decentral: figure y = 'test_accuracy' is no column")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_figure_that_cannot_be_drawn_at_the_end_loses_no_run(tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("figure y = 'spectral_gap' is no column")

    file = write(tmp_path / "x.toml", figure=[{"y": "bias_sq"}])
    with monkeypatch.context() as patch:
        patch.setattr("decentral.report.plots.draw_experiment", fails)
        said = decentral("run", file, "--out", tmp_path / "out")
    assert said.code == 2
    assert said.err.splitlines()[-1].endswith(
        "all runs have ended: mend [[figure]] and draw again with --resume"
    )
    assert read_csv(tmp_path / "out" / "results.csv")[0]["status"] == "finished"
    assert decentral("run", file, "--out", tmp_path / "out", "--resume").code == 0
