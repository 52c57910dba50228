"""Who started this process is read from the environment: which ranks, which number on the host, or no MPI at all."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from command import decentral, write
from ranks import ROOT

from decentral.comm import launch
from decentral.comm.contradictions import check_launcher
from decentral.comm.rendezvous import first_host, meeting_point
from decentral.comm.world import LocalWorld, find_world
from decentral.errors import UserError
from decentral.runs.stopping import Stopped


@pytest.fixture
def told(monkeypatch):
    """Sets what a launcher tells, and removes what one may have told this process."""
    known = {*launch.SIZES, *launch.RANKS, *launch.LOCAL_RANKS, *launch.TORCH, launch.TRANSPORT}
    others = ("SLURM_", "FLUX_", "TORCHELASTIC_", "MASTER_", "OMPI_", "LOCAL_", "GROUP_")
    for key in known | {key for key in os.environ if key.startswith(others)}:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return lambda **variables: [monkeypatch.setenv(key, value) for key, value in variables.items()]


LAUNCHERS = {  # as their documentation says, of rank 5 of 8, number 1 on its host
    "Open MPI": ("OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_LOCAL_RANK=1", 8),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE=8 MV2_COMM_WORLD_RANK=5 MV2_COMM_WORLD_LOCAL_RANK=1", 8),
    "hydra": ("PMI_SIZE=8 PMI_RANK=5 MPI_LOCALNRANKS=4 MPI_LOCALRANKID=1", 8),
    "PALS": ("PMI_SIZE=8 PMI_RANK=5 PMI_LOCAL_RANK=1 PALS_RANKID=5 PALS_LOCAL_RANKID=1", 8),
    "Flux": ("FLUX_JOB_SIZE=8 FLUX_TASK_RANK=5 FLUX_TASK_LOCAL_ID=1", 8),
    "jsrun": ("JSM_NAMESPACE_SIZE=8 JSM_NAMESPACE_RANK=5 JSM_NAMESPACE_LOCAL_RANK=1", 8),
    "Slurm": ("SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=5 SLURM_LOCALID=1", 8),
    "torchrun": ("TORCHELASTIC_RUN_ID=x WORLD_SIZE=8 RANK=5 LOCAL_RANK=1", 8),
    "torchrun, one for each of two tasks": (
        "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 SLURM_LOCALID=0 PMI_SIZE=2 PMI_RANK=1 "
        "TORCHELASTIC_RUN_ID=x WORLD_SIZE=8 RANK=5 LOCAL_RANK=1 GROUP_WORLD_SIZE=2",
        8,
    ),
    "deepspeed and torch": ("DECENTRAL_TRANSPORT=torch WORLD_SIZE=8 RANK=5 LOCAL_RANK=1", 8),
    "Slurm's variables and torch's alike": (
        "SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=5 SLURM_LOCALID=1 WORLD_SIZE=8 RANK=5 DECENTRAL_TRANSPORT=torch",
        8,
    ),
    "mpirun in a batch script": (
        "SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=4 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=5 "
        "OMPI_COMM_WORLD_LOCAL_RANK=1",
        8,
    ),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_each_launcher_tells_a_rank_its_number_on_the_host(told, name):
    variables, ranks = LAUNCHERS[name]
    told(**dict(pair.split("=") for pair in variables.split()))
    assert (launch.launched_ranks(), launch.launched_rank(), launch.local_rank()) == (ranks, 5, 1)
    assert launch.launched()
    check_launcher()
    assert launch.transport() == ("torch" if "torch" in name else "mpi")


def test_mpi_launch_has_the_same_list():
    text = (ROOT / "mpi_launch.sh").read_text()
    assert tuple(re.search(r"local_ranks=\((.*?)\)", text, re.S)[1].split()) == launch.LOCAL_RANKS


ALONE = {
    "nobody": {},
    "an allocation": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    "a step of one": {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
    "an enclosing Flux job": {"FLUX_JOB_SIZE": "4"},
    "one rank": {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    "torchrun of one": {"WORLD_SIZE": "1", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"},
    "a stray number": {"WORLD_SIZE": "2"},
    "no number": {"OMPI_COMM_WORLD_SIZE": "²", "PMI_SIZE": "", "WORLD_SIZE": "many", "RANK": "0"},
}


@pytest.mark.parametrize("name", ALONE)
def test_one_process_is_alone(told, name):
    told(**ALONE[name])
    assert isinstance(find_world(), LocalWorld)


FOREIGN = {
    "deepspeed": {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"},
    "horovodrun": {"HOROVOD_SIZE": "3", "HOROVOD_RANK": "0"},
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_launchers_without_mpi_are_refused_before_anything_is_written(told, home, name):
    told(**FOREIGN[name])
    ranks = FOREIGN[name].get("WORLD_SIZE") or FOREIGN[name]["HOROVOD_SIZE"]
    said = decentral("run", write(home / "x.toml"), "--out", home / "out")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"mpirun -n {ranks}" in said.err
    assert not (home / "out").exists()


@pytest.mark.parametrize("ended", [False, True])
def test_of_those_that_are_refused_only_the_first_speaks_and_all_have_its_code(told, monkeypatch, ended):
    def by_the_launcher(seconds):
        raise Stopped(signal.SIGTERM)

    told(WORLD_SIZE="2", RANK="1")
    if ended:
        monkeypatch.setattr("time.sleep", by_the_launcher)
    with pytest.raises(SystemExit, match="2"):
        find_world()


def test_a_step_of_slurm_that_starts_no_mpi_is_told_how_srun_would(told):
    told(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="4")
    with pytest.raises(UserError, match=r"started 4 processes but the MPI library sees 1 rank.*srun --mpi="):
        launch.check_launch(1)


CONTRADICTIONS = {
    "a rank beyond the size": ({"RANK": "4", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}, "RANK=4", "WORLD_SIZE=4"),
    "a task beyond the tasks": ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID=2", "_TASKS=2"),
    "torchrun in mpirun": (
        {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "OMPI_COMM_WORLD_SIZE": "2"},
        "OMPI_COMM_WORLD_SIZE=2", "WORLD_SIZE=2",
    ),
    "torchruns in tasks that do not know each other": (
        {"RANK": "0", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "1", "SLURM_PROCID": "0",
         "SLURM_STEP_NUM_TASKS": "2"},
        "SLURM_STEP_NUM_TASKS=2", "GROUP_WORLD_SIZE=1",
    ),
    "a size that differs": (
        {"RANK": "0", "WORLD_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "4"}, "WORLD_SIZE=8", "OMPI_COMM_WORLD_SIZE=4"
    ),
    "the same where torch is asked for": (
        {"RANK": "0", "WORLD_SIZE": "8", "DECENTRAL_TRANSPORT": "torch"}
        | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"},
        "WORLD_SIZE=8", "SLURM_STEP_NUM_TASKS=4",
    ),
    "torchrun without a rank": ({"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, "WORLD_SIZE=2", "RANK"),
    "MPI under torchrun": (
        {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "DECENTRAL_TRANSPORT": "mpi"},
        "DECENTRAL_TRANSPORT=mpi", "TORCHELASTIC_RUN_ID",
    ),
    "no such transport": ({"DECENTRAL_TRANSPORT": "mip"}, "DECENTRAL_TRANSPORT='mip'", "did you mean 'mpi'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_variables_that_contradict_each_other_are_both_named(told, name):
    variables, one, other = CONTRADICTIONS[name]
    told(**variables)
    with pytest.raises(UserError) as refused:
        check_launcher()
    assert one in str(refused.value)
    assert other in str(refused.value)


STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
MEETINGS = {
    "torchrun": (
        {
            "TORCHELASTIC_RUN_ID": "x",
            "RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "::1",
            "MASTER_PORT": "29500",
        },
        r"tcp://\[::1\]:29500",
    ),
    "srun": (
        STEP | {"SLURM_STEP_NODELIST": "gpu[007,9],b", "SLURM_STEP_NUM_NODES": "3"},
        r"tcp://gpu007:\d{5}",
    ),
    "srun on one host": (
        STEP | {"SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_NODES": "1"},
        r"tcp://127.0.0.1:\d{5}",
    ),
    "srun, and an address": (
        STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"},
        "tcp://10.0.0.1:5000",
    ),
    "mpirun": (
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        r"file:///.*/decentral-\d+-\d+-\d+",
    ),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_ranks_meet_where_the_launcher_says(told, name):
    variables, url = MEETINGS[name]
    told(**variables)
    assert re.fullmatch(url, meeting_point())


def test_steps_of_a_job_have_ports_of_their_own(told):
    told(**STEP, SLURM_STEP_NODELIST="a,b")
    ports = set()
    for step in range(5):
        told(SLURM_STEP_ID=str(step))
        ports.add(int(meeting_point().rpartition(":")[2]))
    assert len(ports) == 5
    assert min(ports) >= 10_000
    assert max(ports) < 30_000


NOWHERE = {
    "mpirun on several hosts": (
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "no MASTER_ADDR"
    ),
    "torchrun without an address": ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}, "no MASTER_ADDR"),
    "an address without a port": ({"MASTER_ADDR": "a"}, "MASTER_PORT=''"),
    "no port": ({"MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
    "no host": ({"MASTER_ADDR": "a b", "MASTER_PORT": "7"}, "MASTER_ADDR='a b'"),
    "a port without an address": ({"MASTER_PORT": "29500"}, "MASTER_ADDR=''"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOWHERE)
def test_ranks_that_cannot_meet_are_told_what_is_missing(told, name):
    variables, complaint = NOWHERE[name]
    told(**variables)
    with pytest.raises(UserError, match=complaint):
        meeting_point()


def test_ranks_behind_shells_of_their_own_find_the_same_file(told, tmp_path):
    ask = tmp_path / "ask.sh"
    python = "from decentral.comm.rendezvous import meeting_point; print(meeting_point())"
    ask.write_text(f'"{sys.executable}" -c "{python}"; :')
    rank = "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 OMPI_COMM_WORLD_RANK="
    jobs = (f'{rank}0 bash "{ask}"; {rank}1 bash -c "bash {ask}; :"; :', f'{rank}0 bash "{ask}"; :')
    one, other = (subprocess.check_output(["bash", "-c", job], text=True).split() for job in jobs)
    assert len(one) == 2
    assert one[0] == one[1] != other[0]


@pytest.mark.parametrize(
    ("tasks", "node", "here"), [("2(x2),1", 1, 2), ("2(x2),1", 2, 1), ("3", 0, 3), ("", 0, 1)]
)
def test_a_step_of_slurm_tells_how_many_of_its_tasks_are_here(told, tasks, node, here):
    told(**STEP, SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_NODEID=str(node))
    assert launch.launched_local_ranks() == here


HOST_LISTS = ["node1", "node[1-3,7]", "a[07-12],b3", "login,gpu[1-2]", "rack[3,4]n[010-020]", "a-b[2],c"]


def test_the_first_of_a_host_list_is_the_one_that_slurm_names_first():
    first = ["node1", "node1", "a07", "login", "rack3n010", "a-b2"]
    assert [first_host(hosts) for hosts in HOST_LISTS] == first


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="no Slurm")
def test_scontrol_names_the_same_host_first(tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    ask = 'for hosts; do scontrol show hostnames "$hosts" | head -n 1; done'
    environment = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    said = subprocess.check_output(["bash", "-c", ask, "bash", *HOST_LISTS], env=environment, text=True)
    assert said.split() == [first_host(hosts) for hosts in HOST_LISTS]
