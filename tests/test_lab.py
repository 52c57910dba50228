"""`decentral lab`: what it is made of, what it refuses, and that nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import pytest
import tomli_w
from command import but_wall_time, decentral, metrics, read_csv, write
from ranks import environment

from decentral.commands.doctor.asking import Answer
from decentral.commands.doctor.machine import find_lab
from decentral.commands.lab.asked import Asked
from decentral.commands.lab.clock import cluster_for, for_the_clock
from decentral.commands.lab.launching import mpirun
from decentral.commands.lab.making import lab
from decentral.errors import UserError
from decentral.network.cluster import Cluster, Link
from decentral.network.lab import contained, offers
from decentral.network.lab.buckets import tc_lines
from decentral.network.lab.layout import Layout
from decentral.runs.experiment import load

HERE = offers.offers()
real = pytest.mark.skipif(bool(HERE.missing), reason=f"no lab can be made here: {HERE.missing}")
SLOW = 125_000  # bytes a second of "1 Mb/s"


# what is asked for


def test_nodes_are_hosts_and_workers_have_cards() -> None:
    cluster = Asked(nodes=2, ranks_per_node=2, bandwidth="200 Mb/s", latency="5 ms").cluster()
    assert (cluster.n, cluster.hosts, cluster.between) == (4, (0, 0, 1, 1), Link(0.005, 25e6))
    layout = Layout(cluster)
    assert [(node.name, node.workers) for node in layout.nodes] == [("node0", (0, 1)), ("node1", (2, 3))]
    assert layout.host_file.splitlines()[2:] == ["10.0.0.1 node0", "10.0.0.3 node1"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nodes", "0"], "--nodes 0 must be from 1 to 1,000"),
        (["--nodes", "2", "--ranks-per-node", "0"], "--ranks-per-node 0 must be from 1"),
        (["--nodes", "4", "--bandwidth", "200"], "--bandwidth '200' has no unit; write a number and a unit"),
        (["--nodes", "4", "--bandwidth", "200 Mbps"], "unknown unit 'Mbps'; did you mean 'Mb/s'"),
        (["--nodes", "4", "--bandwidth", "0 Mb/s"], "--bandwidth '0 Mb/s' must be positive"),
        (["--nodes", "4", "--latency", "5"], "--latency '5' has no unit"),
        (["--nodes", "4", "--latency", "-1 ms"], "must not be negative"),
        (["--nodes", "8"], "--nodes 8 need 8 workers or stages, but the run has 4"),
        (["--nodes", "3", "--ranks-per-node", "2"], "with 2 ranks each need 6 workers"),
        (["--bandwidth", "1 Mb/s"], "--bandwidth of how many nodes? give --nodes"),
        ([], "a lab of how many nodes? give --nodes N, or --hosts"),
        (["--hosts", "nowhere.toml"], "nowhere.toml does not exist"),
        (["--hosts", "three.toml"], "workers = 3 but the run has 4"),
        (["--hosts", "three.toml", "--latency", "1 ms"], "--latency beside --hosts three.toml"),
        (["--hosts", "slow.toml"], "links inside a host of 10 Mb/s cannot be emulated"),
        (["--hosts", "hosts.toml", "--nodes", "4"], "--nodes 4 but hosts.toml has 2 hosts"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(home, monkeypatch, options, says) -> None:
    monkeypatch.setattr("decentral.commands.lab.running.lab", None)
    write(home / "x.toml")
    links = {"latency_s": 0.0, "bandwidth_bytes_s": "1 Mb/s"}
    for name, hosts in (("three", None), ("slow", "10 Mb/s"), ("hosts", "10 Gb/s")):
        table = {"workers": 3 if name == "three" else 4, "links": links}
        if hosts:
            table["hosts"] = {"workers": 2, "latency_s": 0.0, "bandwidth_bytes_s": hosts}
        (home / f"{name}.toml").write_text(tomli_w.dumps(table))
    said = decentral("lab", "run", *options, "x.toml")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert says in said.err
    assert len(said.err) < 300
    assert not (home / "results").exists()


def test_the_clock_goes_by_the_lab_unless_the_file_has_a_network_of_its_own(home) -> None:
    asked = Asked(nodes=2, ranks_per_node=2, bandwidth="1 Mb/s")
    plain = write(home / "x.toml", topology={"name": "ring", "workers": 8})
    own = write(home / "own.toml", network={"bandwidth_bytes_s": "2 Mb/s", "ports": "multi"})
    more, note = for_the_clock(asked, asked.cluster(), plain, [], load(plain))
    network = load(plain, more).runs[0].config.network
    assert note == "8 workers on 4 ranks: the clock gives each a card, the lab one to each rank"
    assert network.cluster.between == Link(0.0, SLOW)
    assert network.cluster.hosts == (0, 0, 0, 0, 1, 1, 1, 1)  # a rank has two workers
    more, note = for_the_clock(asked, asked.cluster(), own, [], load(own))
    assert more == []
    assert "the file's own [network]" in note
    cluster = cluster_for(Asked(), load(own))
    assert (cluster.n, cluster.ports, cluster.between) == (4, "multi", Link(0.0, 2 * SLOW))


# what tc is told


def test_equal_links_are_one_bucket() -> None:
    cluster = Cluster.uniform(3, 0.005, 25e6)
    assert tc_lines(cluster, 0, "eth0", delays=False) == [
        "qdisc add dev eth0 root handle 1: tbf rate 200000000bit burst 25000 limit 4194304"
    ]
    assert tc_lines(cluster, 0, "eth0", delays=True)[1:] == [
        "qdisc add dev eth0 parent 1:1 handle 2: netem delay 5000.000us limit 20000"
    ]
    assert tc_lines(Cluster.uniform(3, 0.0, float("inf")), 0, "eth0", delays=True) == []


def test_links_that_differ_share_a_card_or_have_one_each(tmp_path) -> None:
    graph = nx.Graph()
    for i, j, rate in ((0, 1, 80e6), (0, 2, 8e6), (1, 2, 8e6)):
        graph.add_edge(i, j, latency_s=0.0, bandwidth_bytes_s=rate / 8)
    nx.write_graphml(graph, tmp_path / "g.graphml")
    for ports, parents in (("one", {"1:1"}), ("multi", {"1:"})):
        (tmp_path / "c.toml").write_text(f'graph = "g.graphml"\nports = "{ports}"\n')
        lines = [
            line.split() for line in tc_lines(Asked(hosts=tmp_path / "c.toml").cluster(), 0, "eth0", False)
        ]
        classes = {words[words.index("classid") + 1]: words for words in lines if words[0] == "class"}
        ways = {words[words.index("dst") + 1]: words[-1] for words in lines if words[0] == "filter"}
        assert set(ways) == {"10.0.0.2/32", "10.0.0.3/32"}  # not to itself
        ceilings = {to: _of(classes[way], "ceil") for to, way in ways.items()}
        assert ceilings == {"10.0.0.2/32": 80e6, "10.0.0.3/32": 8e6}
        assert {classes[way][classes[way].index("parent") + 1] for way in ways.values()} == parents
        if ports == "one":  # htb lets a class have its own rate whatever its parent has left
            sure = [_of(words, "rate") for way, words in classes.items() if way != "1:1"]
            assert sum(sure) <= _of(classes["1:1"], "ceil") == 80e6


def _of(words: list[str], key: str) -> float:
    return float(words[words.index(key) + 1].removesuffix("bit"))


# machines that cannot


def test_what_is_missing_is_said_with_its_remedy(monkeypatch) -> None:
    layout = Layout(Cluster.uniform(2, 0.0, SLOW))

    def forbidden() -> None:
        raise UserError("no namespaces can be made here (unshare: Operation not permitted); run as root")

    with monkeypatch.context() as patch:
        patch.setattr(contained, "separate_children", forbidden)
        assert HERE.programs or "not permitted" in offers.offers().missing
        with pytest.raises(UserError, match=r"no lab can be made: .*(run as root|install)"):
            lab(layout)
    with monkeypatch.context() as patch:
        patch.setattr(offers, "search_path", lambda: "/nowhere")
        assert offers.offers().missing == "ip and tc and nsenter not found; install iproute2 and util-linux"
    assert "no tbf" in offers.Offers((), "", ("tbf", "netem")).missing
    monkeypatch.setattr(
        "decentral.commands.lab.making.offers", lambda: offers.Offers((), "", ("htb", "netem"))
    )
    multi = Layout(Cluster(2, (0, 1), "multi", Link(0.0, SLOW)))
    with pytest.raises(UserError, match="links that differ need htb"):
        lab(multi)


def test_what_a_lab_would_hide_or_start_twice_is_refused(monkeypatch) -> None:
    layout = Layout(Cluster.uniform(2, 0.0, SLOW))
    with pytest.raises(UserError, match="/dev/shm/out lies in /dev/shm"):
        lab(layout, Path("/dev/shm/out"))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="here are 4 already"):
        lab(layout)


def test_latency_without_netem_is_said(monkeypatch, capsys) -> None:
    monkeypatch.setattr("decentral.commands.lab.making.offers", lambda: offers.Offers((), "", ("netem",)))
    made = lab(Layout(Cluster.uniform(2, 0.005, SLOW)))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no netem: the 5 ms of latency asked for are not emulated" in said
    assert (made.facts["latency_s_asked"], made.facts["latency_s_emulated"]) == (0.005, 0.0)


def test_the_doctor_says_whether_there_can_be_a_lab() -> None:
    assert "with rates, not latencies" in find_lab(Answer(0, '["", ["netem"]]', ""), True).text
    refused = find_lab(Answer(0, '["no rights; run as root", []]', ""), True)
    assert (refused.state, refused.text, refused.remedy) == ("note", "none: no rights", "run as root")
    assert "no mpirun" in find_lab(Answer(0, '["", []]', ""), False).text
    assert find_lab(Answer(1, "", "it broke"), True).text == "none: it broke"


# real ones


def started(*args: object, before: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "decentral", "lab", *map(str, args)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=environment(**more), **pipes)


def living(mark: str) -> list[int]:
    """Processes whose environment has the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(path.parent.name)] * (f"LAB_TEST={mark}".encode() in path.read_bytes().split(b"\0"))
        except OSError:
            continue
    return found


def left(mark: str) -> list[int]:
    """Those that still live after a while: the kernel takes some time."""
    end_s = time.monotonic() + 10
    while (found := living(mark)) and time.monotonic() < end_s:
        time.sleep(0.02)
    return found


def names() -> tuple[object, ...]:
    """Of this machine: host, network cards, network namespaces with a name, mounts."""
    links = sorted(os.listdir("/sys/class/net"))
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return os.uname().nodename, links, mounts


LOOK = """
hostname; id -u; echo "$DECENTRAL_LAB"; echo lab > /dev/shm/mark
for node in node0 node1; do ssh -x $node 'hostname; echo $TMPDIR; ls $TMPDIR /dev/shm; echo > $TMPDIR/mine; pwd'; done
ssh node1 'ls /sys/class/net; cat /proc/sys/net/ipv4/tcp_congestion_control'; ssh node0 tc qdisc show dev eth0
ssh node2 hostname; echo $?; cat; exit 7
"""
USERS = ("setpriv", "--bounding-set", "-sys_admin")  # root that may not, so the namespaces are a user's


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="this user has no other way anyhow")


@real
@pytest.mark.parametrize(
    "before", [(), pytest.param(USERS, marks=ROOT_ONLY)], ids=["", "in-a-user-namespace"]
)
def test_a_command_is_among_nodes_of_their_own(tmp_path, before) -> None:
    were = names()
    process = started("exec", "--nodes", 2, "--bandwidth", "1 Mb/s", "--", "sh", "-c", LOOK, before=before)
    out, err = process.communicate("typed\n", timeout=60)
    lines = out.splitlines()
    assert process.returncode == 7, err
    assert lines[:2] == ["lab", "0"]
    assert json.loads(lines[2])["links"] == "1 Mb/s"
    here = str(Path.cwd())
    of_node = ["/dev/shm/tmp", "/dev/shm:", "tmp", "", "/dev/shm/tmp:", here]
    assert lines[3:10] == ["node0", *of_node]
    assert lines[10:17] == ["node1", *of_node]
    assert lines[17:20] == ["eth0", "lo", "reno"]
    assert lines[20].split()[:2] == ["qdisc", "tbf"]
    assert lines[21:] == ["255", "typed"]
    assert "lab: 2 nodes, 1 Mb/s; built in" in err
    assert "node2 is no node of this lab" in err
    assert names() == were


WAIT = "ssh node0 'sleep 300 & sleep 300' & trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.05; done"


@real
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number) -> None:
    were, mark = names(), f"{os.getpid()}-{number}"
    process = started("exec", "--nodes", 2, "--", "sh", "-c", WAIT, LAB_TEST=mark)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert len(living(mark)) > 6
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    asked = number == signal.SIGTERM  # the command's own to heed
    assert (process.returncode, out) == ((9, "asked\n") if asked else (-number, ""))
    assert left(mark) == []
    assert names() == were


@real
def test_nothing_is_left_when_any_process_of_it_is_killed() -> None:
    for which, code in ((1, 137), (2, 137), (3, 2)):  # between, the first of the namespaces, a node's
        mark = f"{os.getpid()}-{which}"
        process = started("exec", "--nodes", 2, "--", "sh", "-c", WAIT, LAB_TEST=mark)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(sorted(living(mark))[which], signal.SIGKILL)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code
        assert ("node0 has ended before the command" in err) == (which == 3)
        assert left(mark) == []


@real
def test_an_error_in_the_middle_of_building_leaves_nothing(tmp_path) -> None:
    broken = tmp_path / "tc"  # it can all, but for what a node is told
    broken.write_text('#!/bin/sh\n[ "$1" = -batch ] && echo "RTNETLINK answers: No" >&2 && exit 2\nexit 0\n')
    broken.chmod(0o755)
    mark = f"{os.getpid()}-tc"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = started("exec", "--nodes", 2, "--bandwidth", "1 Mb/s", "--", "true", LAB_TEST=mark, PATH=path)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "tc says 'RTNETLINK answers: No'; see `decentral doctor`" in err
    assert left(mark) == []


@real
@pytest.mark.mpi
@pytest.mark.slow
def test_a_run_in_a_lab_gives_the_bits_of_one_process_and_takes_the_time_of_its_links(home) -> None:
    digits = {"name": "logistic-regression", "data": "digits"}
    train = {"rounds": 20, "record_every": 10, "batch_size": 4}
    write(home / "x.toml", problem=digits, topology={"name": "ring", "workers": 2}, train=train)
    process = started("run", "--nodes", 2, "--bandwidth", "1 Mb/s", "x.toml", "--out", "lab")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert decentral("run", "x.toml", "--set", f"network.bandwidth_bytes_s={SLOW}", "--out", "one").code == 0
    (one,), (there,) = metrics(home / "one").values(), metrics(home / "lab").values()
    assert [row.pop("mpi_bytes_sent") for row in (*one, *there)] == ["0", "0", "0", "0", "104000", "208000"]
    assert but_wall_time(one) == but_wall_time(there)
    (row,) = read_csv(home / "lab" / "results.csv")
    sent = 20 * 650 * 8  # rounds, parameters, bytes
    assert float(row["bytes_sent_mean"]) == sent
    assert float(row["simulated_s"]) == pytest.approx(sent / SLOW, rel=0.01)
    assert float(row["wall_s"]) > (sent - 15_140) / SLOW  # all but what the bucket held
    (path,) = (home / "lab" / "runs").glob("*/environment.json")
    found = json.loads(path.read_text())
    assert (found["host"], found["ranks"]) == ("node0", 2)
    assert found["lab"]["links"] == "1 Mb/s"
    cards = float(err.rpartition("cards sent ")[2].split()[0]) * 1e6
    assert 2 * sent < cards < 4 * sent
    assert f"training's messages between ranks {2 * sent / 1e6:,.3f} MB" in err


RING = """
from mpi4py import MPI
import numpy as np
world, here, there = MPI.COMM_WORLD, np.ones(400_000), np.empty(400_000)
world.Sendrecv(here, (world.rank + 1) % 4, recvbuf=there, source=(world.rank - 1) % 4)
"""
CARDS = "for node in node0 node1; do ssh $node 'cat /sys/class/net/eth*/statistics/tx_bytes'; done"


@real
@pytest.mark.mpi
def test_ranks_of_a_node_share_memory_and_have_a_card_each(home) -> None:
    (home / "ring.py").write_text(RING)
    layout = Layout(Cluster(4, (0, 0, 1, 1), "one", Link(0.0, float("inf")), Link(0.0, float("inf"))))
    ring = shlex.join(mpirun(layout, [sys.executable, "ring.py"]))
    command = ["exec", "--nodes", 2, "--ranks-per-node", 2, "--", "sh", "-c", f"{ring} && {CARDS}"]
    out, err = started(*command).communicate(timeout=60)
    sent = list(map(int, out.split()))
    assert len(sent) == 4, err
    # 0 -> 1 and 2 -> 3 go through memory; 1 -> 2 and 3 -> 0 by the senders' cards
    assert [size > 3_200_000 for size in sent] == [False, True, False, True], sent
