#!/usr/bin/env bash
# What a Slurm cluster of two nodes does with examples/slurm.sbatch and mpi_launch.sh, by tests/slurm/cluster.sh:
#   make slurm, or tests/slurm/cluster.sh tests/slurm/trials.sh [WORDS: only trials that have them in their line]
# Prints a line a trial, and the log of one that fails; the exit code is the number of these.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OMPI_MCA_mpi_yield_when_idle=1 SLURM_MPI_TYPE=pmix # both nodes have the cores of this machine
export OMP_NUM_THREADS=1
unset DECENTRAL_TRANSPORT
failed=0 only=${1-} nodes=2 transport=mpi

cat >"$cluster/trial.toml" <<'END'
name = "trial"
[problem]
name = "logistic-regression"
data = "digits"
[topology]
name = "ring"
workers = 16
[algorithm]
name = "decentlam"
[train]
lr = 0.05
rounds = 400
record_every = 20
END

# trial WORDS COMMAND ...: what it writes goes to a log, which is shown if it fails.
trial() {
    local said="$cluster/said" start=$SECONDS
    [[ $1 == *"$only"* || $1 == "one process"* ]] || return
    if "${@:2}" &>"$said"; then
        printf 'ok    %3d s  %s\n' $((SECONDS - start)) "$1"
    else
        printf 'FAIL  %3d s  %s\n' $((SECONDS - start)) "$1" && sed 's/^/      | /' "$said"
        failed=$((failed + 1))
    fi
    scancel --user="$(id -un)"
}

# The columns of the only run in a folder of results that are no wall-clock time and no traffic of ranks.
columns() {
    python - "$1"/runs/*/metrics.csv <<'END'
import csv, sys
for row in csv.DictReader(open(sys.argv[1])):
    print([value for key, value in row.items() if key not in ("wall_s", "mpi_bytes_sent")])
END
}
same() { diff <(columns "$cluster/alone") <(columns "$1") && [[ -f $(echo "$1"/runs/*/status.json) ]]; }

# submit OUT: the number of a job of examples/slurm.sbatch, of two ranks.
submit() {
    sbatch --parsable --nodes="$nodes" --ntasks-per-node=$((2 / nodes)) --output="$cluster/${1##*/}.log" \
        examples/slurm.sbatch --transport "$transport" "$cluster/trial.toml" --out "$1"
}
state() { scontrol show job "$1" | sed -nE 's/.*JobState=([A-Z_]+).*/\1/p'; }
until_trained() { # JOB OUT: the run in this folder has its third record
    for _ in {1..1200}; do
        [[ $(state "$1") != @(COMPLETED|FAILED) ]] || break
        if (($(cat "$2"/runs/*/metrics.csv 2>/dev/null | wc -l) > 3)); then return; fi
        sleep 0.1
    done
    cat "$2.log" && return 1
}
until_done() { # JOB: it has ended for good, well
    for _ in {1..1800}; do
        case $(state "$1") in
        COMPLETED) return ;;
        FAILED | CANCELLED | TIMEOUT | NODE_FAIL) break ;;
        esac
        sleep 0.1
    done
    cat "$(scontrol show job "$1" | sed -n 's/ *StdOut=//p')"
    scontrol show job "$1" && return 1
}

whole() {
    local job
    job=$(submit "$1") && until_done "$job" && same "$1"
}
cut() { # OUT COMMAND ...: called with the job's number in the middle of the run, which then goes on to the same end
    local job out=$1
    job=$(submit "$out") && until_trained "$job" "$out" && "${@:2}" "$job" && until_done "$job" || return 1
    same "$out" && grep -q Restarts=1 <(scontrol show job "$job")
}
lose_node() {
    local host
    host=$(squeue --noheader --jobs="$1" --format=%B)
    ip netns pids "$host" | xargs kill -9
    scontrol update nodename="$host" state=down reason=lost
}

# refused CODE WORDS COMMAND ...: exits so and says so, in one line of decentral's or mpi_launch.sh's.
refused() {
    local code
    "${@:3}" >"$cluster/refused" 2>&1
    code=$?
    grep -E '^(decentral|mpi_launch.sh): ' "$cluster/refused" | sort -u >"$cluster/line"
    cat "$cluster/refused"
    ((code == $1 && $(wc -l <"$cluster/line") == 1)) && grep -q -- "$2" "$cluster/line" && [[ ! -e $cluster/none ]]
}
allocated() { salloc --quiet --nodes=2 --ntasks-per-node=1 "$@"; }
launch=(allocated ./mpi_launch.sh -n)
file=("$cluster/trial.toml" --out "$cluster/none")

cat >"$cluster/meet.py" <<'END'
import torch
from torch.distributed import all_reduce, destroy_process_group, init_process_group
from decentral.comm.launch import launched_rank, launched_ranks
from decentral.comm.rendezvous import meeting_point

init_process_group("gloo", init_method=meeting_point(), rank=launched_rank(), world_size=launched_ranks())
total = torch.ones(())
all_reduce(total)
assert total == 2 == launched_ranks(), total
print("rank", launched_rank(), "met at", meeting_point(), flush=True)
destroy_process_group()
END
met() { "$@" 2>&1 | tee "$cluster/met" | grep -c "^rank [01] met at" | grep -qx 2 || ! cat "$cluster/met"; }

sinfo --version && srun --mpi=list 2>&1 | tr -s '\n\t' ' ' && echo
trial "one process, to compare with" decentral run "$cluster/trial.toml" --out "$cluster/alone"
trial "sbatch on two nodes, MPI by PMIx: the same digits" whole "$cluster/mpi"
trial "SIGUSR1, as two minutes before the time is up: requeued, resumed, the same digits" \
    cut "$cluster/usr1" scancel --signal=USR1
trial "preempted (scontrol requeue sends SIGTERM): resumed, the same digits" cut "$cluster/requeue" scontrol requeue
trial "torch's ranks meet by srun alone" \
    met allocated srun --mpi=none --export=ALL,DECENTRAL_TRANSPORT=torch python "$cluster/meet.py"
trial "by mpi_launch.sh --transport torch" met "${launch[@]}" 2 --transport torch -- python "$cluster/meet.py"
trial "by a torchrun on each node" met allocated srun --mpi=none python -m torch.distributed.run --nnodes 2 \
    --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint node1:29400 "$cluster/meet.py"
trial "two torchruns that do not know each other are refused" refused 1 "SLURM_STEP_NUM_TASKS=2 but GROUP_WORLD_SIZE=1" \
    allocated srun --mpi=none python -m torch.distributed.run -m decentral run "${file[@]}"
trial "more ranks than the workers can be dealt to" refused 2 "launch 1, 2, 4, 8 or 16 ranks" "${launch[@]}" 5 "${file[@]}"
trial "tasks that no MPI joins" refused 2 "with --mpi TYPE" "${launch[@]}" 2 --mpi none "${file[@]}"
trial "variables of two launchers" refused 2 "WORLD_SIZE=8 but SLURM_STEP_NUM_TASKS=2" \
    allocated env WORLD_SIZE=8 RANK=0 ./mpi_launch.sh -n 2 "${file[@]}"
trial "no such transport" refused 2 "must be mpi or torch" "${launch[@]}" 2 --transport tcp "${file[@]}"
trial "doctor in an allocation" allocated decentral doctor
trial "mpirun in an allocation, over both nodes" \
    allocated mpirun -n 2 decentral run "$cluster/trial.toml" --set train.rounds=100 --out "$cluster/mpirun"
transport=torch
trial "sbatch on two nodes, torch.distributed: the same digits" whole "$cluster/torch"
trial "SIGUSR1 there: requeued, resumed, the same digits" cut "$cluster/torch-usr1" scancel --signal=USR1
transport=mpi nodes=1
trial "a node is lost: goes on with another, which takes over the folder, the same digits" cut "$cluster/lost" lose_node
exit "$failed"
