"""Seconds of all-reduces: the formulas against their messages one by one, and against the sheet's table."""

import numpy as np
import pytest

from decentral.network.collectives import COLLECTIVES, direct, hierarchical, mean_bytes_sent

MESSAGE_BYTES, LATENCY_S, BANDWIDTH_BYTES_S = 100e6, 50e-6, 1.25e9

SHEET_MS = {  # n: 8, 16, 64
    "ring": (140.7, 151.5, 163.8),
    "halving-doubling": (140.3, 150.4, 158.1),
    "recursive-doubling": (240.2, 320.2, 480.3),
    "tree": (480.3, 640.4, 960.6),
    "parameter-server": (1120.7, 2401.5, 10086),
}


class Messages:
    """All workers' vectors in equal parts, and messages through one full-duplex port a worker, step by step.

    ``held[i, k]`` counts for each worker how often its k-th part is in what worker i has of part k.
    """

    def __init__(self, n, message_bytes, link, parts=None):
        self.n, self.link = n, link
        self.parts = range(parts or n)
        self.part_bytes = message_bytes / len(self.parts)
        self.held = np.repeat(np.eye(n, dtype=int)[:, None, :], len(self.parts), axis=1)
        self.now_s, self.sent_bytes = 0.0, np.zeros(n)

    def step(self, *sent):
        """Messages (sender, receiver, parts, "add" or "replace"), all with what was held before the step."""
        before, free_out, free_in = self.held.copy(), {}, {}
        end = self.now_s
        for i, j, parts, how in sent:
            parts = np.asarray(parts)
            latency_s, bandwidth_bytes_s = self.link(i, j)
            size = len(parts) * self.part_bytes
            start = max(free_out.get(i, self.now_s), free_in.get(j, self.now_s))
            arrived = start + latency_s + size / bandwidth_bytes_s
            free_out[i] = free_in[j] = arrived
            self.sent_bytes[i] += size
            self.held[j, parts] = before[i, parts] + (self.held[j, parts] if how == "add" else 0)
            end = max(end, arrived)
        self.now_s = end

    def done(self):
        return (self.held == 1).all()


def run_ring(m, members=None, parts=None):
    """Rings side by side, each of members (rings, size) over the groups of parts (rings, size, ...)."""
    members = np.arange(m.n)[None] if members is None else members
    parts = np.arange(m.n)[None, :, None] if parts is None else parts
    for how in ("add", "replace"):
        run_half_ring(m, members, parts, how)


def run_half_ring(m, members, parts, how):
    size = members.shape[1]
    shift = 0 if how == "add" else 1
    for t in range(size - 1):
        m.step(
            *(
                (ring[i], ring[(i + 1) % size], parts[r, (i + shift - t) % size], how)
                for r, ring in enumerate(members)
                for i in range(size)
            )
        )


def run_tree(m):
    every, levels = m.parts, (m.n - 1).bit_length()
    for k in range(levels):
        pairs = [(i + 2**k, i) for i in range(0, m.n, 2 ** (k + 1)) if i + 2**k < m.n]
        m.step(*((i, j, every, "add") for i, j in pairs))
    for k in reversed(range(levels)):
        pairs = [(i, i + 2**k) for i in range(0, m.n, 2 ** (k + 1)) if i + 2**k < m.n]
        m.step(*((i, j, every, "replace") for i, j in pairs))


def folded(inner):
    """What is left beyond a power of two hands its vectors over, and gets the sum in the end."""

    def run(m):
        p = 2 ** int(np.log2(m.n))
        rest = range(p, m.n)
        if rest:
            m.step(*((i, i - p, m.parts, "add") for i in rest))
        inner(m, p)
        if rest:
            m.step(*((i - p, i, m.parts, "replace") for i in rest))

    return run


@folded
def run_doubling(m, p):
    for k in range(int(np.log2(p))):
        m.step(*((i, i ^ 2**k, m.parts, "add") for i in range(p)))


@folded
def run_halving_doubling(m, p):
    owned = {i: list(range(p)) for i in range(p)}
    steps = [2**k for k in reversed(range(int(np.log2(p))))]
    for distance in steps:
        kept = {i: [b for b in owned[i] if (b ^ i) & distance == 0] for i in range(p)}
        m.step(*((i, i ^ distance, kept[i ^ distance], "add") for i in range(p)))
        owned = kept
    for distance in reversed(steps):
        m.step(*((i, i ^ distance, owned[i], "replace") for i in range(p)))
        owned = {i: owned[i] + owned[i ^ distance] for i in range(p)}


def run_server(m):
    m.step(*((i, 0, m.parts, "add") for i in range(1, m.n)))
    m.step(*((0, i, m.parts, "replace") for i in range(1, m.n)))


RUNS = {
    "ring": run_ring, "tree": run_tree, "recursive-doubling": run_doubling,
    "halving-doubling": run_halving_doubling, "parameter-server": run_server,
}  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 8, 13, 16])
@pytest.mark.parametrize("name", RUNS)
def test_the_formula_is_the_time_of_its_messages(name, n):
    parts = 2 ** int(np.log2(n)) if name == "halving-doubling" else n
    m = Messages(n, 3e6, lambda i, j: (2e-3, 1e9), parts)
    RUNS[name](m)
    assert m.done()
    assert COLLECTIVES[name](n, 3e6, 2e-3, 1e9) == pytest.approx(m.now_s, rel=1e-12)
    assert mean_bytes_sent(name, n, 3e6) == pytest.approx(m.sent_bytes.mean(), rel=1e-12)


@pytest.mark.parametrize(("hosts", "size"), [(1, 4), (4, 1), (2, 4), (3, 2), (4, 4)])
def test_hierarchical_reduces_inside_hosts_then_between_them(hosts, size):
    n, inside, between = hosts * size, (1e-6, 1e10), (2e-3, 1e9)
    m = Messages(n, 3e6, lambda i, j: inside if i // size == j // size else between)
    workers = np.arange(n).reshape(hosts, size)
    parts = np.tile(
        np.arange(n).reshape(size, hosts), (hosts, 1, 1)
    )  # the k-th of ``size`` parts is a host's k-th
    run_half_ring(m, workers, parts, "add")
    # after it, worker k of a host has summed part k + 1
    owned = np.roll(np.arange(size), -1)
    run_ring(m, workers.T, np.arange(n).reshape(size, hosts, 1)[owned])
    run_half_ring(m, workers, parts, "replace")
    assert m.done()
    seconds = hierarchical(
        n, 3e6, *between, host_size=size, inside_latency_s=inside[0], inside_bandwidth_bytes_s=inside[1]
    )
    assert seconds == pytest.approx(m.now_s, rel=1e-12)
    assert mean_bytes_sent("hierarchical", n, 3e6) == pytest.approx(m.sent_bytes.mean(), rel=1e-12)


@pytest.mark.parametrize(("hosts", "size"), [(1, 4), (4, 1), (2, 2), (3, 2), (2, 3)])
def test_direct_sends_parts_to_all_of_the_host_and_then_to_all_of_the_others(hosts, size):
    n, inside, between = hosts * size, (1e-6, 1e10), (2e-3, 1e9)
    m = Messages(n, 3e6, lambda i, j: inside if i // size == j // size else between)
    steps = [(a, b) for a in range(hosts) for b in range(size) if a or b]  # as many hosts and places further
    for how in ("add", "replace"):
        for a, b in steps:
            to = [(i // size + a) % hosts * size + (i + b) % size for i in range(n)]
            m.step(*((i, j, [j if how == "add" else i], how) for i, j in enumerate(to)))
    assert m.done()
    links = {"host_size": size, "inside_latency_s": inside[0], "inside_bandwidth_bytes_s": inside[1]}
    assert direct(n, 3e6, *between, **links) == pytest.approx(m.now_s, rel=1e-12)
    assert mean_bytes_sent("direct", n, 3e6) == pytest.approx(m.sent_bytes.mean(), rel=1e-12)


@pytest.mark.parametrize("name", SHEET_MS)
def test_the_sheet_s_table(name):
    for n, ms in zip((8, 16, 64), SHEET_MS[name], strict=True):
        seconds = COLLECTIVES[name](n, MESSAGE_BYTES, LATENCY_S, BANDWIDTH_BYTES_S)
        assert 1e3 * seconds == pytest.approx(ms, abs=0.0501 if ms < 1e4 else 0.5)  # the last digit shown


@pytest.mark.parametrize("name", ["hierarchical", "direct"])
def test_with_hosts_of_one_it_is_as_a_ring(name):
    assert COLLECTIVES[name](8, 3e6, 2e-3, 1e9) == pytest.approx(COLLECTIVES["ring"](8, 3e6, 2e-3, 1e9))


@pytest.mark.parametrize("name", COLLECTIVES)
def test_one_worker_sends_nothing_and_wrong_numbers_are_refused(name):
    seconds = COLLECTIVES[name]
    assert seconds(1, 3e6, 2e-3, 1e9) == 0
    for wrong in (
        (0, 1e6, 0, 1e9),
        (4, -1, 0, 1e9),
        (4, 1e6, -1, 1e9),
        (4, 1e6, float("nan"), 1e9),
        (4, 1e6, 0, 0),
    ):
        with pytest.raises(ValueError, match=r"n = 0|must be"):
            seconds(*wrong)


def test_hosts_must_divide_the_workers():
    with pytest.raises(ValueError, match="use a divisor of n"):
        hierarchical(10, 1e6, 0, 1e9, host_size=4)
