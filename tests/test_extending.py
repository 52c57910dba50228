"""What has a name is one file and one line: made-up things of every kind, in a copy of the house, seen everywhere.

Each is written into a file of its own, and one line is added to the table of its room. Whatever else would have to
change for the command line, the lists, runs, ranks, figures and the report to see it fails here.
"""

import csv
import shutil
import textwrap
from functools import partial
from pathlib import Path

import pytest
from made_up_experiments import FILES
from made_up_parts import PARTS
from made_up_surroundings import SURROUNDINGS
from made_up_training import TRAINING
from ranks import ROOT, Servers, environment, mpirun, run

THINGS = TRAINING | SURROUNDINGS | PARTS

SEEN = """
import decentral
assert decentral.__file__.startswith(__import__("os").getcwd())
from decentral.algorithms.titles import titles
from decentral.commands.advise_methods import candidates
from decentral.commands.compatibility import markdown
from topologies import named
every, said = list(named.constructors()), markdown()
assert {"wheel", "blinking"} < set(every)
assert f"| `sleepy` |  | none of {len(every)} |" in said, said
assert titles()["sleepy"] == "Sleepy gossip"
assert "sleepy" in {c.name for c in candidates()}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the packages with all made-up things in it."""
    home = tmp_path_factory.mktemp("house")
    for package in ("decentral", "topologies"):
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    for made in THINGS.values():
        assert not (home / made.file).exists()
        (home / made.file).write_text(textwrap.dedent(made.text).lstrip())
        table = home / made.table
        lines = table.read_text().splitlines()
        (at,) = (k for k, line in enumerate(lines) if line.startswith(made.beside))
        table.write_text("\n".join([*lines[:at], made.line, *lines[at:]]) + "\n")
    for name, text in FILES.items():
        (home / f"{name}.toml").write_text(text)
    return home


@pytest.fixture(scope="module")
def python(house):
    """What Python says in the copy: processes of their own, whose packages these are."""
    servers = Servers(house)
    yield partial(begin, servers, house)
    servers.end()


def begin(servers, house, *args, ranks=1):
    launcher = [*mpirun(), "-n", str(ranks)] if ranks > 1 else []
    begins = [*launcher, *servers.command(ranks), *map(str, args)]
    done = run(begins, 180, env=environment(PYTHONPATH=str(house)), cwd=house)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def command(python):
    return partial(python, "-m", "decentral")


def rows(folder):
    found = {}
    for path in sorted((folder / "runs").glob("*/metrics.csv")):
        with path.open(newline="") as file:
            found[path.parent.name] = [
                {k: v for k, v in row.items() if k not in ("wall_s", "mpi_bytes_sent")}
                for row in csv.DictReader(file)
            ]
    return found


def test_one_line_of_one_table_is_added_for_each():
    for made in THINGS.values():
        assert "\n" not in made.line
        assert made.beside in (ROOT / made.table).read_text()
        assert Path(made.file).stem in made.line


def test_lists_show_them(command):
    said = command("list")
    for name in ("sleepy", "shy", "signed", "sawtooth", "wheel", "blinking", "stripes", "dots", "picky"):
        assert f"\n{name} " in said, name
    assert "x <- W (x - lr g) in even rounds" in " ".join(said.split())
    assert "\nlonely " in command("list", "programs")
    assert "\nflat " in command("list", "heads")
    assert "\nloud " in command("list", "compressors")


@pytest.mark.slow
def test_the_docs_and_the_advice_know_them(python):
    python("-c", SEEN)


@pytest.mark.mpi
def test_rounds_run_alike_on_ranks_and_are_drawn(house, command, tmp_path):
    command("run", house / "made.toml", "--out", tmp_path / "one")
    command("run", house / "made.toml", "--out", tmp_path / "two", ranks=2)
    one = rows(tmp_path / "one")
    assert len(one) == 4
    assert one == rows(tmp_path / "two")
    assert (tmp_path / "one" / "figures" / "made.png").stat().st_size > 5_000
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Sleepy gossip" in page
    assert "Made-up table of oracles" in page
    assert "Sleepy gossip" in command("compare", tmp_path / "one")


@pytest.mark.slow
def test_the_others_run_and_learn(house, command, tmp_path):
    for name in ("stages", "nodes", "packets", "alone", "assisted"):
        command("run", house / f"{name}.toml", "--out", tmp_path / name)
        (run,) = rows(tmp_path / name).values()
        assert float(run[-1]["train_loss"]) < float(run[0]["train_loss"])
