"""mpi_launch.sh starts ranks with one thread each, passes on their status, refuses mistakes in one line."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "mpi_launch.sh"
ENVIRONMENT = Path(sys.executable).parent  # not resolved: a virtual environment's python is a link

needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None
    or shutil.which("mpirun", path=f"{ENVIRONMENT}:{os.environ['PATH']}") is None,
    reason="no mpirun or no mpi4py",
)

HELLO = """
from mpi4py import MPI
import os
world = MPI.COMM_WORLD
print(f"<{world.size} {world.allreduce(1)} {os.environ['OMP_NUM_THREADS']} {os.environ['MKL_NUM_THREADS']}>")
"""


def launch(
    *arguments: str | Path, script: Path = LAUNCH, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script in this Python's environment, outside any Slurm job or MPI rank."""
    foreign = ("SLURM_", "OMPI_", "PMI", "PRTE_", "MPI_", "HYDI_", "CUDA_", "CONDA_", "OMP_", "MKL_",
               "MASTER_", "DECENTRAL_")  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {"PATH": f"{ENVIRONMENT}:{os.environ['PATH']}", "VIRTUAL_ENV": "active"} | variables
    return subprocess.run(
        ["bash", script, *map(str, arguments)], cwd=LAUNCH.parent,
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def program(path: Path, text: str) -> Path:
    """An executable file that answers like another program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for stand-ins, first on PATH when named there."""
    return tmp_path / "tools"


def test_help_shows_the_options() -> None:
    done = launch("--help")
    assert done.returncode == 0
    for option in (
        "-n",
        "--threads",
        "--transport",
        "--hosts",
        "--hostfile",
        "--mpi",
        "--dry-run",
        "-- COMMAND",
    ):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["x.toml"], "how many ranks?"),
        (["-n"], "needs a value"),
        (["-n", "0", "--", "true"], "positive number, not '0'"),
        (["-n", "-2", "--", "true"], "positive number, not '-2'"),
        (["-n", "two", "--", "true"], "positive number, not 'two'"),
        (["-n", "2", "--threads=0", "--", "true"], "--threads must be a positive number"),
        (["-n", "2", "--transport", "tcp", "--", "true"], "must be mpi or torch, not 'tcp'"),
        (["-n", "2"], "what to run?"),
        (["-n", "2", "absent.toml"], "no such file: absent.toml"),
        (["-n", "2", "--hostfile", "absent", "--", "true"], "no such hostfile"),
        (["-n", "2", "--resume", "x.toml"], "unknown option --resume"),
        (["-n", "2", "--", "no-such-command"], "no such command"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    done = launch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mpi_launch.sh: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_mpirun_is_refused_with_a_remedy(tools: Path) -> None:
    for name in ("bash", "readlink", "env", "nproc", "true"):
        tools.mkdir(exist_ok=True)
        (tools / name).symlink_to(shutil.which(name) or name)
    done = launch("-n", "2", "--", "true", PATH=str(tools))
    assert done.returncode == 2
    assert "no mpirun found; pip install" in done.stderr


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("mpirun (Open MPI) 5.0.11", "--bind-to"),
        ("HYDRA build details:", "-bind-to"),
        ("something else", "-n"),
    ],
)
def test_dry_run_prints_the_launcher_in_its_own_dialect(tools: Path, version: str, flags: str) -> None:
    program(tools / "mpirun", f"echo '{version}'")
    program(tools / "python", "exit 1")  # knows no mpi4py
    done = launch("-n", "3", "--dry-run", "--", "true", PATH=f"{tools}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert f"{tools}/mpirun -n 3 " in done.stdout
    assert f" {flags}" in done.stdout
    assert "mpi_launch.sh --rank 1 " in done.stdout


@needs_mpi
def test_the_mpirun_of_another_mpi_is_passed_over(tools: Path) -> None:
    program(tools / "mpirun", "echo 'mpirun (Open MPI) 1.0'\necho HYDRA")
    done = launch("-n", "2", "--dry-run", "--", "true", PATH=f"{tools}:{ENVIRONMENT}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert f"{tools}/mpirun" not in done.stdout


def test_options_after_the_file_go_to_decentral(tmp_path: Path, tools: Path) -> None:
    program(tools / "mpirun", "echo 'mpirun (Open MPI) 5.0.11'")
    file = tmp_path / "an experiment.toml"
    file.touch()
    done = launch(
        "-n", "2", "--dry-run", file, "--set", "train.lr=0.1", "--resume", PATH=f"{tools}:{_path()}"
    )
    assert done.returncode == 0, done.stderr
    assert "decentral run " in done.stdout
    assert "an\\ experiment.toml --set train.lr=0.1 --resume" in done.stdout


def test_srun_is_taken_inside_a_slurm_allocation(tools: Path) -> None:
    program(tools / "srun", 'echo "srun $*"')
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_CPUS_PER_NODE": "2(x2),4", "PATH": f"{tools}:{_path()}"}
    fits = launch("-n", "8", "--mpi", "pmix", "--", "true", **job)
    assert fits.stdout.startswith("srun --ntasks=8 ")
    assert "--mpi=pmix" in fits.stdout
    assert "--cpu-bind=cores" in fits.stdout
    assert "--overcommit" in launch("-n", "9", "--", "true", **job).stdout
    assert "--mpi" not in launch("-n", "8", "--", "true", **job).stdout.split("mpi_launch.sh")[0]


def test_ranks_of_torch_in_a_step_need_no_mpi_and_find_their_address(tools: Path) -> None:
    program(tools / "srun", 'echo "srun $* $DECENTRAL_TRANSPORT"')
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_CPUS_PER_NODE": "2(x2)", "PATH": f"{tools}:{_path()}"}
    done = launch("-n", "4", "--transport=torch", "--", "true", **job)
    assert done.stdout.startswith("srun --ntasks=4 --export=ALL ")
    assert " --mpi=none " in done.stdout
    assert done.stdout.endswith(" torch\n")
    assert "--mpi=pmi2" in launch("-n", "4", "--transport=torch", "--mpi=pmi2", "--", "true", **job).stdout


HOSTS = "# the cluster\n\n  node3 slots=2\nnode1 slots=2\n"


@pytest.mark.parametrize(("option", "first"), [("--hosts", "node2"), ("--hostfile", "node3")])
def test_mpiruns_ranks_of_torch_meet_on_the_first_host(
    tmp_path: Path, tools: Path, option: str, first: str
) -> None:
    program(tools / "mpirun", "echo 'mpirun (Open MPI) 5.0.11'")
    (tmp_path / "hosts").write_text(HOSTS)
    where = {"--hosts": "node2:2,node1:2", "--hostfile": str(tmp_path / "hosts")}[option]

    def said(*transport: str, **variables: str) -> str:
        return launch(
            "-n", "4", *transport, option, where, "--dry-run", "--", "true", PATH=f"{tools}:{_path()}", **variables
        ).stdout  # fmt: skip

    torch = said("--transport", "torch")
    assert torch.startswith(f"env DECENTRAL_TRANSPORT=torch MASTER_ADDR={first} MASTER_PORT=")
    for name in ("DECENTRAL_TRANSPORT", "MASTER_ADDR", "MASTER_PORT"):
        assert f" -x {name} " in torch
    told = said(DECENTRAL_TRANSPORT="torch", MASTER_ADDR="10.0.0.1", MASTER_PORT="5000")
    assert "env MASTER" not in told
    assert " -x MASTER_PORT " in told
    assert "MASTER" not in said()
    assert " DECENTRAL_TRANSPORT=mpi " in said("--transport", "mpi", DECENTRAL_TRANSPORT="torch")


def test_ranks_of_torch_on_one_host_are_told_no_address(tools: Path) -> None:
    program(tools / "mpirun", "echo HYDRA")  # of another MPI than mpi4py's, maybe
    done = launch("-n", "2", "--transport", "torch", "--dry-run", "--", "true", PATH=f"{tools}:{_path()}")
    assert done.returncode == 0, done.stderr
    assert "MASTER" not in done.stdout


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (138, True), (143, False), (2, False)])
def test_the_batch_job_is_requeued_only_when_its_time_is_up(
    tmp_path: Path, tools: Path, code: int, requeued: bool
) -> None:
    program(tools / "srun", f'echo "srun $SLURM_MPI_TYPE $*"; exit {code}')
    program(tools / "scontrol", 'echo "scontrol $*"')
    (tmp_path / "x.toml").touch()
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "PATH": f"{tools}:{_path()}"}
    batch = LAUNCH.parent / "examples" / "slurm.sbatch"
    done = launch(tmp_path / "x.toml", "--out", tmp_path / "out", script=batch, **job)
    assert done.returncode == code
    srun, *more = done.stdout.splitlines()
    assert srun.startswith("srun pmix --ntasks=4 ")
    assert srun.endswith(f"{tmp_path}/x.toml --out {tmp_path}/out --resume")
    assert more == ["scontrol requeue 7"] * requeued


@needs_mpi
def test_the_projects_venv_is_used_where_no_environment_is_active(tmp_path: Path) -> None:
    script = Path(shutil.copy(LAUNCH, tmp_path))
    program(tmp_path / ".venv/bin/python", "exit 1")
    program(tmp_path / ".venv/bin/mpirun", "echo 'mpirun (Open MPI) 5.0.11'")
    inactive = launch("-n", "2", "--dry-run", "--", "python", script=script, VIRTUAL_ENV="")
    assert f"{tmp_path}/.venv/bin/mpirun" in inactive.stdout
    assert f"{tmp_path}/.venv/bin/python" in inactive.stdout
    assert f"{tmp_path}/.venv" not in launch(
        "-n", "2", "--dry-run", "--", "true", script=script
    ).stdout.replace(str(script), "")


def test_each_rank_is_given_one_gpu_by_its_number_on_the_node() -> None:
    for local_rank, gpu in enumerate(["3", "5", "3"]):
        rank = {"OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank), "CUDA_VISIBLE_DEVICES": "3,5"}
        done = launch("--rank", "1", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES", **rank)
        assert done.stdout.strip() == gpu
    narrowed = launch("--rank", "1", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="6")
    assert narrowed.stdout.strip() == "6"


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_see_each_other_with_one_thread_each(ranks: int) -> None:
    done = launch("-n", str(ranks), "--", sys.executable, "-c", HELLO, OMP_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"<{ranks} {ranks} 1 1>") == ranks


@needs_mpi
@pytest.mark.mpi
def test_the_jobs_exit_status_is_passed_on() -> None:
    assert launch("-n", "2", "--", "bash", "-c", "exit 7").returncode == 7


def _path() -> str:
    return f"{ENVIRONMENT}:{os.environ['PATH']}"
