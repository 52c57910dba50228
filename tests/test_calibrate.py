"""decentral calibrate and bench scaling: what is fitted, written and foretold; refusals; both commands on two ranks."""

import json
import math
import re
import tomllib
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from command import decentral as here
from ranks import decentral

from decentral.comm import LocalComm
from decentral.comm.world import LocalWorld
from decentral.commands.advise import advise
from decentral.commands.calibration import sampling
from decentral.commands.calibration.arithmetic import ring_matrix, rounds
from decentral.commands.calibration.links import WALKS, fit, host_size, partners, walk
from decentral.commands.calibration.sampling import Samples, sample
from decentral.commands.calibration.written import table_of, write
from decentral.commands.scaling import MODEL_BYTES, predicted_s, rank_counts, row
from decentral.errors import UserError
from decentral.network import Cluster, Link
from decentral.network.cluster_file import read_calibrated, read_cluster
from decentral.network.measured import Calibrated, Compute, Measured, curve, link_at

SIZES = (4_000, 64_000, 1_000_000, 4_000_000)
ALPHA, RATE = 20e-6, 5e9


def calibrated(ranks=4, between=None, **special):
    """A machine whose links and arithmetic are exactly affine: nothing that is measured."""
    seconds = tuple(ALPHA + size / RATE for size in SIZES)
    slow = tuple(10 * s for s in seconds) if between else ()
    sizes = (100_000, 1_000_000, 10_000_000)
    return Calibrated(
        Cluster(ranks, tuple(i // 2 if between else 0 for i in range(ranks)), "one", between, Link(ALPHA, RATE)),
        Compute(1e-5, 32, sizes, tuple(1e-6 + 1e-10 * s for s in sizes), tuple(3e-6 + 4e-10 * s for s in sizes)),
        Measured(
            "2026-01-02T03:04:05+00:00", ("a", "b") if between else ("a",), ranks, ranks, 0.25, 0.5, 9, "mlp on digits",
            SIZES, seconds, seconds, seconds, slow, slow, slow, *[(1e-6,) * 3, (1e-5,) * 3] * 2, 1e-6, 2e-5, **special,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("latency_s", "rate"), [(20e-6, 5e9), (1e-3, 1.25e8), (0.0, 1e9)])
def test_a_fit_finds_latency_and_bandwidth(latency_s, rate):
    seconds = [latency_s + size / rate for size in SIZES]
    found = fit(SIZES, seconds)
    np.testing.assert_allclose(
        [found.latency_s, 1 / found.bandwidth_bytes_s], [latency_s, 1 / rate], rtol=1e-9
    )


def test_a_fit_of_noisy_times_is_near_in_relative_error_at_every_size():
    generator = np.random.default_rng(0)
    seconds = np.array([ALPHA + size / RATE for size in SIZES]) * (1 + 0.02 * generator.standard_normal(4))
    found = fit(SIZES, seconds)
    again = [found.latency_s + size / found.bandwidth_bytes_s for size in SIZES]
    np.testing.assert_allclose(again, seconds, rtol=0.05)

    def error(link):
        return sum(
            (link.latency_s / s + m / link.bandwidth_bytes_s / s - 1) ** 2
            for m, s in zip(SIZES, seconds, strict=True)
        )

    for a in (0.99, 1.01):
        assert error(found) <= error(Link(a * found.latency_s, found.bandwidth_bytes_s))
        assert error(found) <= error(Link(found.latency_s, a * found.bandwidth_bytes_s))


def test_times_that_do_not_grow_have_no_finite_bandwidth_and_no_negative_one():
    assert fit(SIZES, [4e-5, 3e-5, 2e-5, 1e-5]).bandwidth_bytes_s == math.inf
    assert fit(SIZES, [0, 0, 0, 0]) == Link(0.0, math.inf)
    assert fit(SIZES, [0, 0, 1e-3, 4e-3]).bandwidth_bytes_s == pytest.approx(1e9)


def test_the_link_of_a_size_carries_it_in_the_measured_time():
    seconds = (1e-5, 3e-5, 2e-5, 9e-5)  # one fell by chance
    for size, expected in zip(SIZES, (1e-5, 3e-5, 3e-5, 9e-5), strict=True):
        link = link_at(size, SIZES, seconds)
        assert link.latency_s + size / link.bandwidth_bytes_s == pytest.approx(expected)
    link = link_at(2_500_000, SIZES, seconds)  # half way
    assert link.latency_s + 2_500_000 / link.bandwidth_bytes_s == pytest.approx(6e-5)
    assert link_at(0, SIZES, seconds).latency_s == 1e-5


@pytest.mark.parametrize("x", [1.0, 5_000.0, 300_000.0, 1e9])
def test_a_curve_through_points_of_a_line_is_that_line_everywhere(x):
    assert curve(x, SIZES, [3 + 2 * size for size in SIZES]) == pytest.approx(3 + 2 * x)
    assert curve(x, [7], [5]) == 5
    assert curve(0, [1, 2], [1, 10]) == 0  # no time is negative


def test_quantiles_are_of_undisturbed_samples_or_of_the_fastest():
    seconds = np.arange(1.0, 11.0)
    assert Samples(seconds, seconds > 7).mean_s == 4
    assert Samples(seconds, seconds > 7).quartiles_s == (2.5, 5.5)
    assert Samples(seconds[::-1], seconds > 2).mean_s == 3
    two_speeds = Samples(np.repeat([1.0, 4.0], [30, 20]), np.zeros(50, dtype=bool))
    assert two_speeds.mean_s == pytest.approx((25 * 1 + 15 * 4) / 40)


def test_sampling_goes_on_until_enough_is_undisturbed_and_counts_the_disturbed(monkeypatch):
    calls, worked = (
        [],
        iter(np.cumsum([0.0, *[1.0, 0.0, 1.0] * 10**5]).tolist()),
    )  # now and then time stands still
    monkeypatch.setattr(sampling.time, "process_time", lambda: next(worked))
    found = sample(
        LocalWorld(), {"a": lambda: calls.append(1), "b": lambda: None}, 30.0, lambda share: None, False
    )
    for one in found.values():
        assert (~one.disturbed).sum() >= 25
    assert sum(one.disturbed.sum() for one in found.values()) > 0
    assert calls
    crowded = sample(LocalWorld(), {"a": lambda: None}, 30.0, lambda share: None, True)
    assert len(crowded["a"].kept) == len(crowded["a"].seconds) == 25


def test_sampling_ends_in_time_and_has_five_of_each(monkeypatch):
    monkeypatch.setattr(sampling, "_timed", lambda work, repeats: (1.0, True))
    shares = []
    found = sample(LocalWorld(), {"a": lambda: None}, 1e-9, shares.append, False)
    assert len(found["a"].seconds) == 5
    assert shares[-1] == 1


def test_partners_are_each_others_and_in_their_place():
    assert partners(2, 2) == {"inside": [1, 0]}
    assert partners(3, 3) == {"inside": [1, 0, None]}
    assert partners(4, 1) == {"between": [1, 0, 3, 2]}
    assert partners(6, 3) == {"inside": [1, 0, None, 4, 3, None], "between": [3, 4, 5, 0, 1, 2]}
    assert partners(5, 2)["between"] == [2, 3, 0, 1, None]
    for ranks, size in ((7, 2), (9, 3), (12, 4), (11, 4)):
        for where, others in partners(ranks, size).items():
            for i, j in enumerate(others):
                assert j is None or (others[j] == i and i != j)
                assert j is None or (i // size == j // size) == (where == "inside")


def test_hosts_must_be_in_blocks():
    assert host_size(["a", "a", "b", "b"]) == 2
    assert host_size(["a", "a", "a", "b"]) == 3
    for names in (["a", "b", "a", "b"], ["a", "b", "b"], ["a", "a", "b", "c", "c"]):
        with pytest.raises(UserError, match="host by host"):
            host_size(names)


@pytest.mark.parametrize("between", [None, Link(1e-4, 1e9)])
def test_a_written_file_says_what_was_measured_and_advise_takes_it(tmp_path, between):
    one = calibrated(between=between)
    write(tmp_path / "c.toml", one)
    again = read_calibrated(tmp_path / "c.toml")
    for wrote, read in ((one.compute, again.compute), (one.measured, again.measured)):
        for key, value in asdict(wrote).items():
            words = isinstance(value, str) or key == "hosts"
            assert getattr(read, key) == (value if words else pytest.approx(value, rel=1e-3)), key
    assert (again.cluster.n, again.cluster.hosts, again.cluster.ports) == (4, one.cluster.hosts, "one")
    assert (again.cluster.inside, again.cluster.between) == (one.cluster.inside, between)
    assert advise(read_cluster(tmp_path / "c.toml"), 4e6, 0.01).rows
    assert "host: add [links]" in (tmp_path / "c.toml").read_text() or between


def test_units_are_read_in_compute(tmp_path):
    table = table_of(calibrated())
    path = tmp_path / "c.toml"
    write(path, calibrated())
    path.write_text(path.read_text().replace("sample_s = 1e-05", 'sample_s = "20 us"'))
    assert table["compute"]["sample_s"] == 1e-5
    assert read_calibrated(path).compute.sample_s == 20e-6


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bandwidth_bytes_s = 5000000000.0", "bandwidth_bytes_s = -5e9", "bandwidth_bytes_s = -5000000000.0 must"),
        ("bandwidth_bytes_s = 5000000000.0", 'bandwidth_bytes_s = "5 GB/h"', "unknown unit 'GB/h'"),
        ("sample_s = 1e-05", 'sample_s = "1 parsec"', "compute.sample_s = '1 parsec' has the unknown unit"),
        ("sample_s = 1e-05", "sample_s = -1.0", "compute.sample_s = -1.0"),
        ("batch_size = 32", "batch_size = 0", "compute.batch_size = 0"),
        ("batch_size = 32", "bach_size = 32", "unknown key compute.bach_size; did you mean 'batch_size'"),
        ("gossip_s = [", "gossip_s = [\n 1.0,", "gossip_s has 4 numbers for 3"),
        ("100000,", "-100000,", "compute.round_bytes"),
        ("    1000000,\n    10000000,", "    10000000,\n    1000000,", "ascending"),
        ("inside_s = [", "inside_s = [ nan, ", "inside_s has 5 numbers"),
        ("ranks = 4", "rank = 4", "unknown key measured.rank"),
        ("ranks = 4", 'ranks = "4"', "measured.ranks = '4'"),
        ("undisturbed = 0.5", "undisturbed = 1.5", "measured.undisturbed = 1.5 must be in"),
        ("load_average = 0.25", "load_average = -1", "measured.load_average"),
        ("\n[compute]\n", "\n[computing]\n", "unknown key cluster.computing"),
        ("workers = 4\nports", "workers = 8\nports", "describes no links"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say_is_named(tmp_path, old, new, said):
    path = tmp_path / "c.toml"
    write(path, calibrated())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as refusal:
        read_calibrated(path)
    assert str(refusal.value).startswith(str(path))
    assert said in str(refusal.value)


def test_a_round_is_its_arithmetic_and_its_messages():
    machine = calibrated()

    def a_gossip(size):
        return 1e-6 + 1e-10 * size

    def a_mean(size):
        return 3e-6 + 4e-10 * size

    # 4 MB go in two blocks of 2 MB, 40 MB in twenty; the links are affine here, so every size has its own time
    for size, blocks in ((400_000, 1), (4_000_000, 2), (40_000_000, 20)):
        message_s = ALPHA + size / blocks / RATE
        assert predicted_s(machine, "gossip", 1, size) == pytest.approx((a_gossip(size), a_gossip(size)))
        assert predicted_s(machine, "gossip", 2, size)[0] == pytest.approx(
            a_gossip(size) + blocks * message_s
        )
        assert predicted_s(machine, "gossip", 4, size)[0] == pytest.approx(
            a_gossip(size) + 2 * blocks * message_s
        )
        for ranks in (2, 4):
            part_s = ALPHA + size / blocks / ranks / RATE
            expected = a_mean(size) + blocks * 2 * (ranks - 1) * part_s
            assert predicted_s(machine, "all_reduce", ranks, size)[0] == pytest.approx(expected)


def test_messages_of_blocks_and_copies_have_times_of_their_own():
    posted = {"posted_bytes": (1_000_000, 2_000_000), "inside_posted_s": (1e-4, 3e-4)}
    copied = {"copied_bytes": (100_000, 1_000_000), "inside_copied_s": (5e-4, 7e-4)}
    machine = calibrated(**posted, **copied)
    for size, blocks in ((400_000, 1), (4_000_000, 2), (40_000_000, 20)):
        alone_s = ALPHA + size / blocks / RATE
        expected = 1e-6 + 1e-10 * size + alone_s + (blocks - 1) * 3e-4
        assert predicted_s(machine, "gossip", 2, size)[0] == pytest.approx(expected)
        copied_s = np.interp(size / blocks / 2, *copied.values())
        expected = 3e-6 + 4e-10 * size + blocks * 2 * copied_s
        assert predicted_s(machine, "all_reduce", 2, size)[0] == pytest.approx(expected)
    assert machine.cluster_for(1_000_000).inside == calibrated().cluster_for(1_000_000).inside
    with pytest.raises(
        UserError, match=r"measured.inside_posted_s has 1 numbers for 2 of measured.posted_bytes"
    ):
        calibrated(posted_bytes=(1, 2), inside_posted_s=(1.0,))
    with pytest.raises(UserError, match=r"measured.copied_bytes = \[2, 1\] must be positive"):
        calibrated(copied_bytes=(2, 1), inside_copied_s=(1.0, 1.0))


class Echo(LocalWorld):
    """A partner who sends back twice what it gets, when that is waited for."""

    def __init__(self):
        self.under_way = self.most = 0
        self.left = []

    def exchange(self, outgoing, incoming, partner):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.left.append(outgoing.data_ptr())

        def wait():
            self.under_way -= 1
            incoming.copy_(2 * outgoing)

        return wait


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_has_so_many_messages_under_way_and_sends_blocks_or_copies(name):
    way, world = replace(WALKS[name], sizes=(64,)), Echo()
    work = walk(world, 1, 64, True, way)
    for _ in range(2):
        work()
    assert (world.most, world.under_way, len(world.left)) == (way.ahead, 0, 2 * way.blocks)
    blocks_of_one_row = set(np.diff(world.left[: way.blocks])) == {64}
    assert blocks_of_one_row != way.copies
    walk(Echo(), None, 64, True, way)()
    silent = Echo()
    walk(silent, 1, 64, False, way)()
    assert not silent.left


def test_links_between_hosts_slow_a_round():
    machine = calibrated(between=Link(10 * ALPHA, RATE / 10))
    fast, slow = (predicted_s(machine, "all_reduce", ranks, 400_000) for ranks in (2, 4))
    assert slow[0] - slow[1] == pytest.approx(3 * 10 * (2 * ALPHA + 2 * 100_000 / RATE))
    assert fast[0] - fast[1] == pytest.approx(2 * ALPHA + 400_000 / RATE)


def test_the_error_is_of_the_measured_time():
    found = Samples(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.zeros(5, dtype=bool))
    one = row(calibrated(), 1, "gossip", 400_000, found)
    assert (one.measured_s, one.lower_s, one.upper_s, one.undisturbed, one.samples) == (3, 2, 4, 1, 5)
    assert replace(one, predicted_s=3.3).error_percent == pytest.approx(10)


def test_rank_counts_double_and_end_at_all():
    assert [rank_counts(n) for n in (2, 3, 4, 6)] == [[1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6]]


@pytest.mark.parametrize("kind", ["gossip", "all_reduce"])
def test_a_timed_round_is_one_of_a_run(kind):
    comm = LocalComm(ring_matrix(1))
    work = rounds(comm, kind, 4_000)
    for _ in range(3):
        work()
    sent = comm.ledger.messages
    assert np.asarray(sent).sum() == 0
    two = LocalComm(ring_matrix(2))
    work = rounds(two, kind, 4_000)
    work()
    assert two.ledger.bytes_sent.tolist() == [4_000, 4_000]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calibrate",), "mpirun -n 2 decentral calibrate"),
        (("bench", "scaling"), "mpirun -n 2 decentral bench scaling"),
    ],
)
def test_one_process_is_refused_with_the_remedy(arguments, said):
    done = here(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.mpi
@pytest.mark.alone
def test_two_ranks_calibrate_and_advise_takes_the_file(tmp_path):
    path = tmp_path / "here.toml"
    done = decentral("calibrate", "--out", path, "--seconds", "0.5", ranks=2)
    assert done.returncode == 0, done.stderr
    assert "Load average before" in done.stdout
    lines = re.sub("\x1b\\[[0-9;]*m", "", done.stdout).splitlines()  # mpirun gives its ranks a terminal
    assert max(len(line) for line in lines if str(path) not in line) <= 80
    table = tomllib.loads(path.read_text())
    assert list(table) == ["workers", "ports", "hosts", "compute", "measured"]
    assert (table["workers"], table["measured"]["ranks"], table["hosts"]["workers"]) == (2, 2, 2)
    found = read_calibrated(path)
    assert found.compute.sample_s > 0
    assert all(s > 0 for s in (*found.compute.gossip_s, *found.compute.all_reduce_s))
    for name, way in WALKS.items():
        assert len(getattr(found.measured, f"inside{name}_s")) == len(way.sizes)
    advice = here("advise", path, "--model-bytes", "4e6", "--compute-s", "0.01", "--json")
    assert advice.code == 0, advice.err
    assert json.loads(advice.out)["workers"] == 2

    done = decentral("bench", "scaling", path, "--json", "--seconds", "0.5", ranks=2)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(r["ranks"], r["kind"], r["model_bytes"]) for r in answer["rows"]] == [
        (ranks, kind, size) for ranks in (1, 2) for kind in ("gossip", "all_reduce") for size in MODEL_BYTES
    ]
    for one in answer["rows"]:
        assert 0 < one["lower_s"] <= one["upper_s"]
        assert one["measured_s"] > 0
        assert one["error_percent"] == pytest.approx(100 * (one["predicted_s"] / one["measured_s"] - 1))
        assert math.isfinite(one["error_percent"])
        assert 0 < one["arithmetic_s"] <= one["predicted_s"]
    assert any("calibration of" in text for text in answer["sentences"])


@pytest.mark.mpi
@pytest.mark.alone
def test_mistakes_on_two_ranks_are_one_line_each_time(tmp_path):
    (tmp_path / "c.toml").write_text("workers = 2\n[links]\nlatency_s = 0\nbandwidth_bytes_s = 1e9\n")
    for arguments, said in (
        (("calibrate", tmp_path / "none.toml"), "does not exist"),
        (("bench", "scaling", tmp_path / "c.toml"), "has no [compute]"),
    ):
        done = decentral(*arguments, ranks=2)
        assert done.returncode == 2
        assert [said in line for line in done.stderr.splitlines() if line.startswith("decentral:")] == [True]


def test_the_default_gradient_is_timed_without_mpi():
    from decentral.commands.calibration.command import _checked
    from decentral.commands.calibration.machine import Machine

    class Two(LocalWorld):
        ranks = 2

    config = _checked(Two(), None, None, 1.0)
    works = Machine.of(LocalWorld()).works(config)
    assert {key[0] for key in works} == {"gossip", "all_reduce", "gradient"}
    works["gradient",]()
    assert torch.get_num_threads() >= 1
