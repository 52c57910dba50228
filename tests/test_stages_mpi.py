"""Stages on real ranks: the bits and bytes of the virtual clock, every kind of message, ends that do not hang."""

import random

import pytest
import torch
from ranks import run_ranks

from decentral.runtime import Channel, Span, Trace
from decentral.runtime.packing import flattened, pack, packed_bytes, restored
from decentral.runtime.pauses import common, cut_out

BEGIN = """
import sys, time, numpy as np, torch
from mpi4py import MPI
from decentral.comm.mpi_world import MPIWorld
from decentral.runtime import *
from decentral.runtime.mpi import MPIDriver, gathered
torch.set_num_threads(1)
world = MPI.COMM_WORLD
rank, ranks = world.rank, world.size
def drive(programs, host, **more):
    mine = {k: run() for k, run in enumerate(programs) if host[k] == rank}
    return MPIDriver(mine, host, **more).run()
"""


def succeed(ranks, text):
    script = BEGIN + text + "\nprint('fine', flush=True)"
    done = run_ranks(
        ranks, "-m", "mpi4py", "-c", script, timeout=60
    )  # -m mpi4py: an error on one rank ends all
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine") == ranks, done.stdout + done.stderr


PARITY = """
from collections import Counter
from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.gpipe import GPipe
from decentral.stages.programs.one_forward_one_backward import OneForwardOneBackward
from decentral.stages.cut import cut_evenly
from decentral.stages.layers import network_of
from decentral.stages.stage import Stage
torch.set_default_dtype(torch.float64)
STEPS, BATCH, WIDTH = 6, 10, 16  # 10 samples in 4 micro-batches: of 3, 3, 2 and 2
X, Y = torch.randn(STEPS, BATCH, 20), torch.randint(5, (STEPS, BATCH))
X, Y = world.bcast((X, Y))
class Momentum:  # torch.optim takes a second to import, on each rank
    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.momenta = [torch.zeros_like(p) for p in self.parameters]
    @torch.no_grad()
    def step(self):
        for p, m in zip(self.parameters, self.momenta, strict=True):
            p.sub_(m.mul_(0.9).add_(p.grad), alpha=0.1)
    def zero_grad(self, set_to_none):
        for p in self.parameters:
            p.grad = None
def stages(count):
    torch.manual_seed(0)
    linear = [torch.nn.Linear(a, WIDTH) for a in [20] + [WIDTH] * 5]
    net = torch.nn.Sequential(*(m for l in linear for m in (l, torch.nn.Tanh())), torch.nn.Linear(WIDTH, 5))
    network, spans = network_of(net), cut_evenly(6, count)
    return [Stage(k, spans, network, Momentum, lambda t: (X[t], Y[t]), STEPS) for k in range(count)]
cases = [(2, [0, 1]), (4, [0, 0, 1, 1]), (4, [1, 0, 0, 1])]
if ranks == 4:
    cases = [(4, [0, 1, 2, 3]), (2, [3, 1])]  # two ranks without a stage
for program in (BackProp(), GPipe(4), OneForwardOneBackward(4)):
    for count, host in cases:
        here, clocked = stages(count), stages(count)
        trace = gathered(drive([lambda s=s: program.run(s) for s in here], host))
        expected = VirtualClock({s.index: program.run(s) for s in clocked}, lambda k, kind: 1.0).run()
        start = stages(count)
        for k in range(count):
            if host[k] != rank:
                continue
            for a, b, c in zip(*(s[k].modules.parameters() for s in (here, clocked, start)), strict=True):
                assert torch.equal(a, b) and not torch.equal(a, c)
        assert (trace is None) == (rank > 0)
        if trace is None:
            continue
        assert trace.channel_bytes == expected.channel_bytes
        assert trace.channel_messages == expected.channel_messages
        assert len(trace.channel_bytes) == 2 * (count - 1)
        assert set(trace.channel_bytes.values()) == {STEPS * BATCH * WIDTH * 8}
        assert trace.clock == "measured"
        work = [s for s in trace.spans if s.kind != "wait"]
        assert Counter((s.stage, s.kind, s.tag) for s in work) == Counter((s.stage, s.kind, s.tag)
            for s in expected.spans if s.kind != "wait")
        assert any(s.kind == "wait" for s in trace.spans)
        for r in range(ranks):  # a rank does one thing at a time
            own = sorted((s.start_s, s.end_s) for s in work if host[s.stage] == r)
            assert all(0 <= a < b <= c < d for (a, b), (c, d) in zip(own, own[1:]))
        assert trace.makespan_s >= max(s.end_s for s in work)
"""


@pytest.mark.mpi
@pytest.mark.alone
@pytest.mark.parametrize("ranks", [2, 4])
def test_back_propagation_has_the_bits_and_the_bytes_of_the_virtual_clock(ranks):
    succeed(ranks, PARITY)


MESSAGES = """
def made(size, dtype=torch.float64):
    x = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return (100 * x).to(dtype)

# every shape and dtype, small and large, in order on one channel; what is changed after Send does not travel
sizes = [20_000, 20_000, 15_000, 3, 20_000, 60_000, 20_000, 60_000, 0, 1, 8_192, 8_193, 8_191, 300_000, 60_000]
dtypes = [torch.float64, torch.float32, torch.int64, torch.bfloat16, torch.bool, torch.uint8, torch.complex64]
one = Channel(0, 1, "one")
def sends():
    for dtype in dtypes:
        for size in sizes:
            x = made(size, dtype)
            yield Send(one, x)
            x.zero_()
    yield Send(one, made(60_000).view(200, 300).t())
    yield Send(one, made(7).requires_grad_() * 2)
    yield Send(one, torch.tensor(3.0))
def receives():
    for dtype in dtypes:
        for size in sizes:
            x = yield Recv(one)
            assert x.dtype == dtype and torch.equal(x, made(size, dtype)), (size, dtype)
    assert torch.equal((yield Recv(one)), made(60_000).view(200, 300).t())
    x = yield Recv(one)
    assert torch.equal(x, made(7) * 2) and not x.requires_grad
    assert torch.equal((yield Recv(one)), torch.tensor(3.0))
trace = gathered(drive([sends, receives], [0, 1]))
if trace is not None:
    numbers = sum(sizes) * sum(d.itemsize for d in dtypes)
    assert trace.channel_bytes == {one: numbers + 60_000 * 8 + 7 * 8 + 4}
    assert trace.channel_messages == {one: len(sizes) * len(dtypes) + 3}

# lists and tuples of tensors, and small values
two = Channel(1, 0, "two")
values = [(made(5), [made(9_000), None]), {"loss": 0.25}, "text", (), [made(2), (made(3), 7)], None]
def many():
    for value in values:
        yield Send(two, value)
def take():
    a, (b, nothing) = yield Recv(two)
    assert type(a) is torch.Tensor and torch.equal(a, made(5)) and torch.equal(b, made(9_000)) and nothing is None
    y = (a.requires_grad_() ** 2).sum()
    b.zero_()  # another tensor of the same message: the graph of a may stay
    y.backward()
    assert torch.equal(a.grad, 2 * made(5))
    for value in values[1:4]:
        got = yield Recv(two)
        assert got == value and type(got) is type(value)
    a, (b, seven) = yield Recv(two)
    assert torch.equal(a, made(2)) and torch.equal(b, made(3)) and seven == 7
    assert (yield Recv(two)) is None
drive([take, many], [0, 1])

# large messages over several channels in both directions at once, all sent before any is taken
def crossing(me):
    def run():
        for i in range(4):
            for c in range(3):
                yield Send(Channel(me, 1 - me, f"c{c}"), made(200_000 + 1000 * i + c))
        for c in range(3):
            for i in range(4):
                assert torch.equal((yield Recv(Channel(1 - me, me, f"c{c}"))), made(200_000 + 1000 * i + c))
    return run
drive([crossing(0), crossing(1)], [0, 1])

# RecvAny: none, the first of the named in their order, any; three stages, two ranks
a, b, m, go, then, done = (Channel(s, t, n) for s, t, n in
    [(0, 1, "a"), (0, 1, "b"), (0, 1, "marker"), (1, 0, "go"), (1, 2, "then"), (2, 1, "done")])
def zero():
    yield Recv(go)
    for channel in (a, b, m):
        yield Send(channel, channel.name)
def first():
    assert (yield RecvAny((a, b), wait=False)) is None
    assert (yield RecvAny(wait=False)) is None
    yield Send(go, None)
    yield Recv(m)  # sent last
    assert (yield RecvAny((b, a))) == (b, "b")
    assert (yield RecvAny((b, a))) == (a, "a")
    assert (yield RecvAny((b, a), wait=False)) is None
    yield Send(then, None)
    assert (yield RecvAny()) == (done, 5)
    while (yield RecvAny(wait=False)) is None:  # others on this rank go on meanwhile
        pass
def second():
    yield Recv(then)
    yield Compute("work", time.sleep, 0.05)
    yield Send(done, 5)
    yield Compute("work", time.sleep, 0.05)
    yield Send(done, 6)
drive([zero, first, second], [0, 1, 0])
drive([zero, first, second], [0, 1, 1])
if rank == 0:
    driver = MPIDriver({0: zero(), 1: first(), 2: second()}, [0, 0, 0], world=MPI.COMM_SELF)
    assert driver.run().makespan_s < driver.now
    assert driver.sent_by(2) == (0, 0, 0)  # what carries no tensor only steers
    assert driver.trace.channel_messages[done] == 2

# a bounded channel: the sender goes on only when one has been taken
for size in (1, 50_000):
    for host in ([0, 1], [0, 0]):
        held, told = Channel(0, 1, "held", 3), Channel(0, 1, "told")
        def fast():
            for i in range(10):
                yield Send(held, made(size) + i)
                yield Send(told, i)
        def slow():
            for i in range(10):
                while i == 0 and (yield Recv(told)) < 2:
                    pass
                if i < 8:
                    yield Compute("work", time.sleep, 0.02)
                    assert (yield RecvAny((told,), wait=False)) is None
                assert torch.equal((yield Recv(held)), made(size) + i)
                if i < 7:
                    assert (yield Recv(told)) == i + 3
        drive([fast, slow], host)

# stages of one rank take turns
order = []
def turns(name):
    def run():
        for i in range(3):
            yield Compute("work", order.append, (name, i))
    return run
drive([turns("x"), turns("y")], [1, 1])
assert order == ([(n, i) for i in range(3) for n in "xy"] if rank == 1 else [])

def leaks():
    with torch.no_grad():
        yield Recv(one)
try:
    MPIDriver({0: leaks()}, [0], world=MPI.COMM_SELF).run()
    raise SystemExit("not refused")
except StageError as error:
    assert "stage 0 yielded inside torch.no_grad()" in str(error) and torch.is_grad_enabled()

for host in ([0, 0], [0, 2]):
    try:
        MPIDriver({rank: crossing(rank)()}, host)
        raise SystemExit("not refused")
    except ValueError as error:
        assert "host = " in str(error)
"""


@pytest.mark.mpi
@pytest.mark.alone
def test_every_kind_of_message_and_request_over_two_ranks():
    succeed(2, MESSAGES)


ENDS = """
# a long computation is no deadlock, though all others have waited longer than timeout_s; rank 2 has no stage
c = Channel(0, 1, "c")
def long():
    yield Compute("work", time.sleep, 0.5)
    yield Send(c, 1)
def waits():
    assert (yield Recv(c)) == 1
    assert (yield Recv(c)) == 1
def twice():
    yield from long()
    yield from long()
trace = drive([twice, waits], [0, 1], timeout_s=0.05)
if rank == 1:
    waited = [s.end_s - s.start_s for s in trace.spans if s.kind == "wait"]
    assert len(waited) == 2 and sum(waited) > 0.5, waited  # of 1

# what nobody took does not keep the ranks from ending
def nothing():
    yield Compute("work", time.sleep, 0.01)
drive([lambda: (Send(c, torch.ones(50_000)) for _ in range(5)), nothing], [0, 1])

# measuring takes no time of the trace, on no rank
def steps(k):
    def run():
        for t in range(3):
            yield Compute("work", time.sleep, 0.02 + 0.05 * k)
            yield Done(t)
    return run
calls = []
def measure(stage, t):
    calls.append((stage, t))
    pair.Barrier()
    time.sleep(0.2)
    pair.Barrier()
pair = world.Split(rank < 2)
world.Barrier()
began = time.perf_counter()
trace = drive([steps(0), steps(1)], [0, 1], on_done=measure)
wall = time.perf_counter() - began
if rank < 2:
    assert calls == [(rank, t) for t in range(3)]
    assert 3 * (0.02 + 0.05 * rank) <= trace.makespan_s <= wall - 0.45, (trace.makespan_s, wall)  # of 0.6

# who waits for whom, over all ranks, on all ranks
bounded = Channel(3, 0, "full", 1)
def takes(*channels):
    def run():
        yield Compute("work", time.sleep, 0.1)
        if len(channels) == 1:
            yield Recv(channels[0])
        else:
            yield RecvAny(channels)
    return run
def fills():
    yield Send(bounded, torch.ones(20_000))
    yield Send(bounded, torch.ones(20_000))
ab, ba, bc = Channel(0, 1, "ab"), Channel(1, 0, "ba"), Channel(1, 2, "bc")
try:
    drive([takes(ba), takes(ab), takes(bc, ab), fills, steps(1)], [0, 1, 1, 2, 0], timeout_s=0.3)
    raise SystemExit("no deadlock was seen")
except DeadlockError as error:
    assert str(error) == (
        "stage 0 waits to receive 'ba' from stage 1 to stage 0; stage 1 waits to receive 'ab' from stage 0 to stage 1; "
        "stage 2 waits to receive any of 'bc' from stage 1 to stage 2, 'ab' from stage 0 to stage 1; "
        "stage 3 waits to send 'full' from stage 3 to stage 0, which holds 1"
    ), error

# the ranks can go on after it
drive([long, takes(c)], [0, 1])
"""


@pytest.mark.mpi
@pytest.mark.alone
def test_a_deadlock_is_told_from_a_long_computation_and_measuring_from_work():
    succeed(3, ENDS)


FAILS = """
c = Channel(0, 1, "c")
def burn(x):
    raise ValueError("caught fire")
def first():
    for i in range(100):
        yield Send(c, torch.ones(100_000))
    yield Recv(Channel(1, 0, "never"))
def second():
    x = yield Recv(c)
    yield Compute("forward", burn, x, tag=(0, 1))
try:
    drive([first, second], [0, 1])
except StageError as error:
    MPIWorld().abort(str(error))
"""


@pytest.mark.mpi
@pytest.mark.alone
def test_a_failing_stage_ends_all_ranks_with_its_message():
    done = run_ranks(2, "-c", BEGIN + FAILS, timeout=60)
    assert done.returncode != 0
    assert "rank 1: stage 1, forward (0, 1): ValueError: caught fire" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_packed_is_restored_and_owns_its_version():
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.arange(7)
    form, tensors = flattened([x.t(), (y, None), 4])
    room = torch.full((packed_bytes(tensors),), 255, dtype=torch.uint8)
    pack(tensors, room)
    (a, (b, nothing), four) = restored(form, room)
    assert torch.equal(a, x.t())
    assert torch.equal(b, y)
    assert (nothing, four) == (None, 4)
    b.add_(1)
    assert a._version == 0
    with pytest.raises(TypeError, match="cannot travel"):
        flattened([torch.eye(3).to_sparse()])


def random_intervals(draw):
    edges = sorted(draw.sample(range(60), 2 * draw.randrange(8)))
    return [(float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_common_pauses_are_cut_out_as_if_second_by_second():
    draw = random.Random(0)
    for _ in range(200):
        lists = [random_intervals(draw) for _ in range(draw.randrange(1, 4))]
        held = [all(any(a <= s and s + 1 <= b for a, b in one) for one in lists) for s in range(60)]
        shared = common(lists)
        assert sum(b - a for a, b in shared) == sum(held)
        trace = Trace("measured", makespan_s=60.0)
        trace.spans = [Span(0, "work", float(s), float(s + 1)) for s in range(60)]
        trace.channel_bytes[Channel(0, 1, "c")] = 5
        cut_out(trace, shared)
        assert trace.makespan_s == 60 - sum(held)
        for s, span in enumerate(trace.spans):
            assert span.start_s == s - sum(held[:s])
            assert span.end_s - span.start_s == (not held[s])
