"""Who started this process is read from the environment: which ranks, which number on the host, or no MPI at all."""

import os
import re

import pytest
from command import decentral, write
from ranks import ROOT

from decentral.comm import launch
from decentral.comm.world import LocalWorld, find_world
from decentral.errors import UserError


@pytest.fixture
def told(monkeypatch):
    """Sets what a launcher tells, and removes what one may have told this process."""
    known = {*launch.SIZES, *launch.RANKS, *launch.LOCAL_RANKS}
    for key in known | {key for key in os.environ if key.startswith(("SLURM_", "FLUX_", "TORCHELASTIC_"))}:
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
    "torchrun": {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
    "torchrun in a step": {
        "WORLD_SIZE": "8", "RANK": "0", "TORCHELASTIC_RUN_ID": "x", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2",
    },
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


def test_of_those_that_are_refused_only_the_first_speaks(told):
    told(WORLD_SIZE="2", RANK="1")
    with pytest.raises(SystemExit, match="2"):
        find_world()


def test_a_step_of_slurm_that_starts_no_mpi_is_told_how_srun_would(told):
    told(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="4")
    with pytest.raises(UserError, match=r"started 4 processes but the MPI library sees 1 rank.*srun --mpi="):
        launch.check_launch(1)
