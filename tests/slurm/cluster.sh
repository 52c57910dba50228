#!/usr/bin/env bash
# Run a command on the login node of a Slurm cluster of two nodes that lives on this machine for as long as the command:
#   tests/slurm/cluster.sh COMMAND [ARGUMENT ...]
# Nodes are network namespaces with host names of their own, all in namespaces that nobody else sees. What ends this
# script, kill -9 too, ends every process in them, and with it networks and mounts; only the folder $cluster remains then.
set -euo pipefail

fail() { printf 'cluster.sh: %s\n' "$1" >&2 && exit 2; }

if [[ ${1-} != --inside ]]; then
    (($#)) || fail "which command? cluster.sh COMMAND [ARGUMENT ...]"
    for program in slurmctld slurmd sbatch munged ip unshare setpriv; do
        type -P "$program" >/dev/null ||
            fail "no $program; apt-get install --no-install-recommends slurm-wlm munge libpmix2 iproute2 util-linux"
    done
    ((EUID == 0)) || fail "not root, who alone may make network namespaces and start Slurm's daemons; use sudo"
    cluster=$(mktemp -d)
    export cluster
    trap 'kill -9 "$!" 2>/dev/null; wait; rm -rf -- "$cluster"' EXIT
    trap 'exit 143' TERM HUP
    trap 'exit 130' INT
    setpriv --pdeathsig KILL unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc \
        bash "$0" --inside "$@" &
    wait "$!"
    exit
fi
shift

# Debian's plugin opens libpmix.so, whose link is in the -dev package
link_pmix() {
    local folder
    for folder in /usr/lib/*/pmix2/lib; do
        [[ -d $folder ]] || continue
        cp -a "$folder" "$cluster/pmix"
        ln -sf libpmix.so.2 "$cluster/pmix/libpmix.so"
        mount --bind "$cluster/pmix" "$folder"
    done
}

connect() {
    mount -t tmpfs tmpfs /run && mkdir /run/netns
    printf '%s\n' '127.0.0.1 localhost' '10.97.0.1 login' '10.97.0.11 node1' '10.97.0.12 node2' >"$cluster/hosts"
    mount --bind "$cluster/hosts" /etc/hosts
    hostname login
    ip link set lo up
    ip link add switch type bridge
    ip address add 10.97.0.1/24 dev switch
    ip link set switch up
    local i
    for i in 1 2; do
        ip netns add "node$i"
        ip link add "to$i" type veth peer name eth0 netns "node$i"
        ip link set "to$i" master switch up
        ip -n "node$i" link set lo up
        ip -n "node$i" address add "10.97.0.1$i/24" dev eth0
        ip -n "node$i" link set eth0 up
    done
}

# cred_expire: for how long a job that was put back into the queue waits. No affinity: both nodes have the same cores
configure() {
    cat >"$cluster/slurm.conf" <<END
ClusterName=trial
SlurmctldHost=login
SlurmUser=root
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/%n
TmpFS=$cluster/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
ReturnToService=2
KillWait=20
NodeName=node[1-2] CPUs=2
PartitionName=all Nodes=ALL Default=YES OverTimeLimit=0
END
    echo CgroupPlugin=cgroup/v1 >"$cluster/cgroup.conf" # loaded, though nothing here uses it
    export SLURM_CONF=$cluster/slurm.conf
}

start() {
    local i munge=$cluster/munge
    mkdir -m 700 "$munge" && mkdir "$cluster/state" "$cluster/node1" "$cluster/node2"
    chmod 755 "$cluster"
    (umask 077 && head -c 1024 /dev/urandom >"$munge/key")
    chmod 711 "$munge"
    munged --force --key-file="$munge/key" --socket="$munge/socket" --seed-file="$munge/seed" \
        --log-file="$munge/log" --pid-file="$munge/pid" 2>"$munge/said"
    slurmctld
    for i in 1 2; do
        ip netns exec "node$i" unshare --uts bash -c "hostname node$i && exec slurmd -N node$i"
    done
    for i in {1..100}; do
        [[ $(sinfo --noheader --states=idle --format=%D 2>/dev/null) != 2 ]] || return 0
        sleep 0.1
    done
    tail -n 20 "$cluster"/*.log >&2
    fail "the nodes did not come up"
}

link_pmix
connect
configure
start
"$@"
