"""Processes forked from one that has imported everything are as good as fresh ones, however they end."""

import os
import signal
import subprocess
import time

import pytest
from ranks import ROOT, Servers, environment, run, run_ranks, servers

pytestmark = pytest.mark.mpi


def test_it_runs_code_modules_and_scripts_as_python_does(tmp_path):
    said = "import sys, os; print(__name__, sys.argv[1:], sys.path[0], os.getcwd(), os.environ['ADDED'])"
    (tmp_path / "script.py").write_text(said)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(said)
    for how, first in (
        (["-c", said], ""),
        (["-m", "package"], tmp_path),
        ([tmp_path / "script.py"], tmp_path),
    ):
        both = [run_ranks(1, *how, "a b", cwd=tmp_path, ADDED="x", fresh=fresh) for fresh in (False, True)]
        warm, fresh = ((done.returncode, done.stdout, done.stderr) for done in both)
        assert warm == fresh == (0, f"__main__ ['a b'] {first} {tmp_path} x\n", "")


def test_what_is_imported_is_what_a_fresh_process_would_import(tmp_path):
    (tmp_path / "decentral.py").write_text("name = 'another'")
    code = "import sys, decentral; print('mpi4py.MPI' in sys.modules, decentral.__file__)"
    assert run_ranks(1, "-c", code).stdout == f"False {ROOT / 'decentral' / '__init__.py'}\n"
    code = "import mine; print(mine.name)"
    (tmp_path / "mine.py").write_text("name = 'of PYTHONPATH'")
    assert run_ranks(1, "-c", code, PYTHONPATH=str(tmp_path)).stdout == "of PYTHONPATH\n"


LEAVES = """
import decentral.runs.run, numpy, os, torch
state = [
    decentral.__dict__.get("left"), os.environ.get("LEFT"), os.getcwd(), torch.get_default_dtype(),
    torch.get_num_threads(), numpy.random.random(),
]
print(*state)
decentral.left, os.environ["LEFT"] = 1, "1"
os.chdir("/")
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
"""


def test_nothing_is_left_for_the_next():
    one, two = (run_ranks(1, "-c", LEAVES).stdout.split() for _ in range(2))
    assert one[:-1] == two[:-1] == ["None", "None", str(ROOT), "torch.float32", "1"]
    assert one[-1] != two[-1]  # numpy's own generator, which a fresh process has from the system


def test_it_ends_as_a_fresh_process_ends():
    for code, returned, said in (
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import atexit, sys; atexit.register(print, 'at exit', file=sys.stderr)", 0, "at exit\n"),
    ):
        done = run_ranks(1, "-c", code)
        assert done.returncode == returned
        assert done.stderr.endswith(said)


def test_it_has_the_cores_and_the_files_of_whom_it_stands_for():
    core = min(os.sched_getaffinity(0))
    code = "import os, sys; print(os.sched_getaffinity(0), sys.stdin.read())"
    done = subprocess.run(
        [*servers().command(1), "-c", code], preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        input="typed", capture_output=True, text=True, env=environment(), timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == f"{{{core}}} typed\n"


RANKS = """
from decentral.comm.mpi_world import MPIWorld
world = MPIWorld()
print("seed", hash("a"), world.agree(world.rank), flush=True)
"""


def test_ranks_are_ranks_of_mpi_and_do_not_share_a_hash_seed():
    done = run_ranks(4, "-c", RANKS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[0, 1, 2, 3]") == 4
    assert len({line.split()[1] for line in done.stdout.splitlines() if line.startswith("seed")}) == 2


def test_a_rank_that_aborts_ends_all_with_its_message_and_the_next_job_runs():
    done = run_ranks(
        2, "-c", RANKS + "if world.rank: world.abort('caught fire', 5)\nworld.agree(0)", timeout=60
    )
    assert done.returncode == 5
    assert "decentral: rank 1: caught fire" in done.stderr
    assert run_ranks(2, "-c", RANKS).returncode == 0


SLEEPS = """
import os, pathlib, sys, time
from mpi4py import MPI
pathlib.Path(sys.argv[1], str(MPI.COMM_WORLD.rank)).write_text(str(os.getpid()))
print("sleeps", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_time_out_says_what_was_said_and_leaves_no_process(tmp_path, ranks):
    with pytest.raises(TimeoutError, match="was ended after 8 s; it had said: sleeps"):
        run_ranks(ranks, "-c", SLEEPS, tmp_path, timeout=8)
    ended = time.monotonic() + 10
    left = [f"/proc/{(tmp_path / str(rank)).read_text()}" for rank in range(ranks)]
    while any(map(os.path.exists, left)) and time.monotonic() < ended:
        time.sleep(0.05)
    assert not any(map(os.path.exists, left))


def test_a_server_that_dies_is_reported_once_and_another_takes_its_place():
    mine = Servers()
    try:
        assert run([*mine.command(1), "-c", "print(1)"], 60, env=environment()).stdout == "1\n"
        mine.running[0].kill()
        mine.running[0].wait()
        with pytest.raises(RuntimeError, match="server 0 of warm processes ended with -9"):
            mine.command(1)
        assert run([*mine.command(1), "-c", "print(2)"], 60, env=environment()).stdout == "2\n"
    finally:
        mine.end()
    assert not mine.folder.exists()


def test_a_server_that_dies_beneath_a_process_ends_it():
    mine = Servers()
    command = [*mine.command(1), "-c", "import time; print(1, flush=True); time.sleep(600)"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"
        mine.end()
        assert process.wait(30) != 0
