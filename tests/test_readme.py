"""Every command that the README shows is run here, in the order in which a newcomer types them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from ranks import ROOT, environment, mpirun, run, run_ranks, servers

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(kind):
    text = (ROOT / "README.md").read_text()
    return [body for name, body in BLOCK.findall(text) if name == kind]


def commands(text):
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a fresh checkout, so that nothing is written into this one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("experiments", "examples", "mpi_launch.sh"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def shell(command, folder):
    """The command in bash, with this Python's programs first on the path; `decentral` and `python` need not import."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    python = shlex.join(servers().command(warm.SERVERS))
    for name, begins in (("python", python), ("decentral", f"{python} -m decentral")):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec {begins} "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"PATH": path, "VIRTUAL_ENV": str(Path(sys.executable).parent.parent)}
    return run(["bash", "-c", command], timeout=280, cwd=folder, env=environment(**more))


def needs_mpi(command):
    return command.startswith(("mpirun", "./mpi_launch.sh"))


ALL = [command for body in blocks("sh") for command in commands(body)]
SETTING = ("source ", "export ")  # they set up the reader's own shell


@pytest.mark.mpi
@pytest.mark.parametrize("command", [c for c in ALL if not c.startswith(SETTING)])
def test_a_command_of_the_readme_works_as_it_is_written(command, checkout):
    if needs_mpi(command):
        mpirun()
    if "large_batch" in command and not os.environ.get("DECENTRAL_DATA"):
        pytest.skip("DECENTRAL_DATA is not set")
    done = shell(command, checkout)
    if command == "decentral doctor":  # it reports what this machine lacks, which is no fault of the command
        assert done.returncode in (0, 1)
        return
    assert done.returncode == 0, done.stdout + done.stderr
    for out in re.findall(r"--out (\S+)", command):
        assert (checkout / out).exists(), out


@pytest.mark.slow
def test_the_python_of_the_readme_runs(checkout):
    (script,) = blocks("python")
    done = run_ranks(1, "-c", script, cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert "spectral gap 0.195" in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_run_is_the_quickstart_and_make_test_is_the_suite():
    def recipe(target):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert "decentral run experiments/quickstart.toml" in recipe("run")
    assert "-m pytest" in recipe("test")
    assert '-m "not mpi and not slow"' in recipe("quick")


@pytest.mark.slow
def test_the_quickstart_shows_what_it_claims(checkout):
    """DmSGD far from the optimum, DecentLaM near, all-reduce on it: the README's own table."""
    import csv

    done = shell("decentral run experiments/quickstart.toml --out results/quickstart", checkout)
    assert done.returncode == 0, done.stderr
    with (checkout / "results/quickstart/results.csv").open() as file:
        rows = {row["algorithm.name"]: row for row in csv.DictReader(file)}
    bias = {name: float(row["bias_sq"]) for name, row in rows.items()}
    assert bias["pmsgd"] < 1e-6
    assert bias["dmsgd"] > 8 * bias["decentlam"] > 0.1
    assert {p.name for p in (checkout / "results/quickstart/figures").iterdir()} >= {
        "bias.png",
        "accuracy.png",
    }
    assert (checkout / "results/quickstart/report.html").stat().st_size > 50_000
