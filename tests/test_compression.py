"""Compression: what is decoded is what the sender believes, the bytes are those of the formula, theory holds."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from decentral.comm.compression import (
    COMPRESSORS,
    QSGD,
    AdaComp,
    ErrorFeedback,
    Layout,
    LowRank,
    MomentumCorrection,
    RandomK,
    Sign,
    Span,
    TopK,
)
from decentral.comm.compression.bits import code_type, pack, packed_bytes, unpack
from decentral.comm.compression.marks import positions_of
from decentral.comm.compression.noise import Noise
from decentral.comm.compression.positions import pack_positions, position_bytes, take_positions
from decentral.errors import UserError
from topologies.streams import stream

ALL = [
    TopK(), TopK(0.4), RandomK(), RandomK(0.4), RandomK(0.4, unbiased=True), QSGD(), QSGD(1, 7), QSGD(300, 1000),
    Sign(), AdaComp(), AdaComp(3, 64), AdaComp(64, 3), LowRank(), LowRank(1), ErrorFeedback(TopK(0.1)),
    ErrorFeedback(LowRank(1)), MomentumCorrection(TopK(0.1)),
]  # fmt: skip


def layers(*shapes):
    """Spans of these shapes; two axes are dense, three a convolution, one other."""
    spans, start = [], 0
    for shape in shapes:
        kind = {1: "other", 2: "dense", 3: "convolution"}[len(shape)]
        spans.append(Span(str(start), start, start + math.prod(shape), shape, kind))
        start = spans[-1].stop
    return Layout(tuple(spans))


LAYERED = layers((13, 4, 3), (13,), (30, 41), (1, 5), (1,))


def bits(x):
    return x.numpy().tobytes()


def play(compressor, vectors, layout):
    """Encoded of each vector, after checking that the receiver gets the sender's view, in bits."""
    state, out = compressor.init(vectors[0], layout), []
    for t, x in enumerate(vectors):
        before = x.clone()
        one = compressor.encode(x, state, layout, stream(0, "test", t))
        assert bits(before) == bits(x)
        assert one.packet.dtype == torch.uint8
        assert one.packet.dim() == 1
        padded = torch.cat([torch.zeros(1, dtype=torch.uint8), one.packet])[
            1:
        ]  # a receiver's buffer, not aligned
        assert bits(compressor.decode(padded, layout, x.dtype, stream(0, "test", t))) == bits(one.sent)
        state = one.state
        out.append(one._replace(state=copy.deepcopy(state)))  # a state is consumed
    return out


def normal(d, rounds=1, dtype=torch.float64, seed=0):
    return [
        torch.from_numpy(np.random.default_rng((seed, t)).standard_normal(d)).to(dtype) for t in range(rounds)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_the_receiver_decodes_the_bits_that_the_sender_believes_were_sent(compressor, dtype):
    for layout in [*map(Layout.whole, [*range(1, 11), 127, 128, 501, 66_001]), LAYERED]:
        play(compressor, normal(layout.d, 3, dtype), layout)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ALL),
    st.lists(
        st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=40
    ),
    st.integers(1, 39),
)
def test_any_finite_vector_makes_the_round_trip_also_across_a_border(compressor, values, border):
    d = len(values)
    layout = layers((border,), (d - border, 1)) if border < d else Layout.whole(d)
    play(compressor, [torch.tensor(values, dtype=torch.float32)] * 2, layout)


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_zeros_are_sent_as_zeros_and_do_no_harm_later(compressor):
    zeros, x = torch.zeros(LAYERED.d), normal(LAYERED.d, dtype=torch.float32)[0]
    encoded = play(compressor, [zeros, zeros, x, zeros, x], LAYERED)
    assert all(not one.sent.any() for one in encoded[:2])
    assert encoded[2].sent.any()
    assert encoded[4].sent.any()
    assert all(one.sent.isfinite().all() for one in encoded)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_what_is_not_finite_is_refused_by_name(compressor, bad):
    x = torch.zeros(LAYERED.d)
    x[70] = bad
    with pytest.raises(
        UserError, match=rf"^{compressor.name}: 1 of \d+ numbers to be sent are NaN or infinite"
    ):
        compressor.encode(x, compressor.init(x, LAYERED), LAYERED, stream(0))


@pytest.mark.parametrize("compressor", [Sign(), QSGD(), RandomK(0.1, unbiased=True)], ids=str)
def test_what_is_sent_must_be_finite_too(compressor):
    x = torch.full((100,), 3e38)
    with pytest.raises(UserError, match=compressor.name):
        compressor.encode(x, (), Layout.whole(100), stream(0))


def test_a_large_sum_of_finite_numbers_is_no_error():
    x = torch.full((100,), 3e38)
    assert TopK(0.5).encode(x, (), Layout.whole(100), stream(0)).sent.count_nonzero() == 50


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_a_packet_of_another_length_is_refused(compressor):
    x = normal(LAYERED.d)[0]
    packet = compressor.encode(x, compressor.init(x, LAYERED), LAYERED, stream(0)).packet
    for wrong in (packet[:-1], torch.cat([packet, torch.zeros(1, dtype=torch.uint8)])):
        with pytest.raises(ValueError, match="packet"):
            compressor.decode(wrong, LAYERED, x.dtype, stream(0))


@pytest.mark.parametrize(
    ("compressor", "layout", "dtype", "expected"),
    [
        (TopK(0.01), Layout.whole(1000), torch.float32, 10 * 4 + 10 * 2),
        (TopK(0.01), Layout.whole(1000), torch.float64, 10 * 8 + 10 * 2),
        (TopK(0.5), Layout.whole(1001), torch.float32, 500 * 4 + 126),  # a bitmap
        (TopK(0.01), Layout.whole(200_000), torch.float32, 2000 * 4 + 2000 * 2 + 3 * 4),  # 4 blocks
        (TopK(1e-5), Layout.whole(200_000), torch.float32, 2 * 4 + 2 * 4),  # a list
        (RandomK(0.01), Layout.whole(1000), torch.float32, 10 * 4),
        (QSGD(15, 128), Layout.whole(1000), torch.float32, 8 * 4 + 5 * 125),
        (QSGD(1, 64), Layout.whole(1001), torch.float64, 16 * 8 + 2 * 126),
        (QSGD(255, 1024), Layout.whole(1024), torch.float32, 4 + 9 * 128),
        (Sign(), LAYERED, torch.float32, 5 * 4 + (156 + 13 + 1230 + 5 + 1 + 7) // 8),
        (LowRank(1), LAYERED, torch.float32, 4 * (13 + 12 + 13 + 30 + 41 + 5 + 1)),
        (LowRank(2), layers((9, 4)), torch.float64, 8 * 2 * 13),
        (LowRank(3), layers((9, 4)), torch.float64, 8 * 36),  # (9 + 4) 3 > 36: sent whole
    ],
    ids=str,
)
def test_a_packet_has_the_bytes_of_the_formula(compressor, layout, dtype, expected):
    assert len(play(compressor, normal(layout.d, dtype=dtype), layout)[0].packet) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300_000), st.floats(0, 1), st.integers(0, 100))
def test_positions_come_back_in_the_shortest_form(d, share, seed):
    k = max(1, round(share**4 * d))
    positions = np.sort(np.random.default_rng(seed).choice(d, k, replace=False))
    packed = pack_positions(positions, d)
    assert len(packed) == position_bytes(k, d) == min(4 * k, (d + 7) // 8, 2 * k + 4 * ((d - 1) // 65536))
    found, rest = take_positions(packed, k, d)
    assert not len(rest)
    assert np.array_equal(found, positions)


@pytest.mark.parametrize("d", [1, 2, 5, 999, 20_000, 100_003])
@pytest.mark.parametrize("fraction", [1e-4, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "equal", "sparse", "sorted", "periodic"])
def test_top_k_is_that_of_sorting_and_contracts(kind, fraction, d):
    x = normal(d)[0]
    x = {
        "normal": lambda: x,
        "heavy tail": lambda: x**9,
        "equal": lambda: x.sign(),
        "sparse": lambda: x * (torch.arange(d) % 5000 == 0),
        "sorted": lambda: x.sort().values,
        "periodic": lambda: (
            25 - torch.arange(d, dtype=x.dtype) % 25
        ),  # at d = 100,003 the sample sees 25 only
    }[kind]()
    k = max(1, round(fraction * d))
    sent = play(TopK(fraction), [x], Layout.whole(d))[0].sent
    order = np.argsort(-x.abs().numpy(), kind="stable")[:k]
    expected = np.zeros(d)
    expected[order] = x.numpy()[order]
    assert np.array_equal(sent.numpy(), expected)
    assert ((x - sent) ** 2).sum() <= (1 - k / d) * (x**2).sum() * (1 + 1e-12)


def mean_and_variance(compressor, x, rounds):
    """E C(x), and E |C(x) - x|^2 / |x|^2."""
    layout = Layout.whole(len(x))
    sent = [compressor.encode(x, (), layout, stream(1, "draw", t)).sent.double() for t in range(rounds)]
    variance = sum(((one - x.double()) ** 2).sum() for one in sent) / rounds / (x.double() ** 2).sum()
    return sum(sent) / rounds, float(variance)


def qsgd_variances(x, levels, bucket):
    """Of each entry: rounding up with the probability of the fractional part."""
    found = []
    for one in x.double().split(bucket):
        y = levels * one.abs() / one.norm()
        part = y - y.floor()
        found.append(part * (1 - part) * (one.norm() / levels) ** 2)
    return torch.cat(found)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "compressor", [RandomK(0.1, unbiased=True), QSGD(1, 64), QSGD(4, 99), QSGD(200, 300)], ids=str
)
def test_unbiased_compressors_are_unbiased(compressor, dtype):
    x, rounds = normal(300, dtype=dtype)[0], 1500
    mean, variance = mean_and_variance(compressor, x, rounds)
    if isinstance(compressor, RandomK):
        expected = 9 * x.double() ** 2
    else:
        expected = qsgd_variances(x, compressor.levels, compressor.bucket)
    away = (mean - x.double()) / (expected / rounds) ** 0.5
    # of 300 sums of 1500 the largest deviation, but for those that few draws decide, and their mean square, 1 +- 0.08
    assert away[expected > 0.02 * expected.mean()].abs().max() < 4.5
    assert 0.7 < (away**2).mean() < 1.3
    assert variance == pytest.approx(float(expected.sum() / (x.double() ** 2).sum()), rel=0.05)


def test_random_k_sends_every_entry_equally_often_and_leaves_out_what_theory_says():
    x = torch.ones(50)
    mean, left_out = mean_and_variance(RandomK(0.2), x, 4000)
    assert left_out == pytest.approx(1 - 10 / 50, abs=1e-12)  # exact, as all entries are equal
    assert (mean - 0.2).abs().max() < 4.5 * (0.2 * 0.8 / 4000) ** 0.5
    assert mean_and_variance(RandomK(0.2, unbiased=True), x, 10)[1] == pytest.approx(50 / 10 - 1, rel=1e-6)


@pytest.mark.parametrize(("s", "measured"), [(1, 23.97), (4, 5.34), (16, 0.668), (255, 0.00266)])
def test_the_variance_of_qsgd_is_that_of_rounding_and_within_its_bound(s, measured):
    found = []
    for seed in range(20):
        x = normal(1024, dtype=torch.float32, seed=seed)[0]
        found.append(mean_and_variance(QSGD(s, 1024), x, 10)[1])
        exact = float(qsgd_variances(x, s, 1024).sum() / (x.double() ** 2).sum())
        assert found[-1] == pytest.approx(exact, rel=0.25)
        assert exact <= QSGD(s, 1024).variance_bound == min(1024 / s**2, 32 / s)
    assert np.mean(found) == pytest.approx(measured, rel=0.04)


class LargestDraw:
    """In place of a generator: all bits of u are set."""

    def integers(self, low, high, size, dtype, endpoint):
        words = np.full(size, high, dtype)
        words[-1] = 0  # with this the table is xored
        return words


def test_qsgd_never_rounds_beyond_the_norm():
    x = torch.tensor([1.5, 2.0, 0.25])
    assert QSGD(1, 1).encode(x, (), Layout.whole(3), LargestDraw()).sent.tolist() == [1.5, 2.0, 0.25]


class EveryDraw:
    """In place of a generator: of 2^19 numbers each has another u, a multiple of 2^-19."""

    def integers(self, low, high, size, dtype, endpoint):
        return np.concatenate([np.arange(4096), np.arange(size - 4096) << 12]).astype(dtype)


def test_qsgd_is_unbiased_up_to_rounding():
    one = normal(8, dtype=torch.float32)[0]
    d = 1 << 19
    sent = QSGD(15, 8).encode(one.repeat(d // 8), (), Layout.whole(d), EveryDraw()).sent
    away = (sent.view(-1, 8).double().mean(0) - one.double()).abs().max() / one.norm()
    assert away < (10 + 8 * 2) * 2**-23  # of one entry only every eighth u was drawn


def test_noise_is_uniform_and_any_three_are_independent():
    where = torch.tensor([0, 1, 4096, 4097, 8191])
    drawn = torch.stack([
        Noise(9000, 4, np.dtype(np.float32), stream(0, "noise", t)).of(0, 9000)[where] - 4 for t in range(3000)
    ])  # fmt: skip
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = (drawn * 10).long().flatten().bincount(minlength=10)
    assert ((counts - 1500) ** 2 / 1500).sum() < 30  # chi squared, 9 degrees of freedom
    signs = (drawn < 0.5) * 2.0 - 1
    for n in (1, 2, 3):
        for chosen in itertools.combinations(range(5), n):
            assert abs(signs[:, chosen].prod(1).mean()) < 4.5 / 3000**0.5
    assert signs[:, :4].prod(1).mean() == 1  # four are not
    window = Noise(9000, 4, np.dtype(np.float32), stream(0, "noise", 0)).of(4000, 200)
    assert torch.equal(window[96:98] - 4, drawn[0, 2:4])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 100), st.integers(0, 100))
def test_numbers_come_back_from_their_bits(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(code_type(bits))
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert len(packed) == packed_bytes(count, bits) == bits * math.ceil(count / 8)
    assert np.array_equal(unpack(packed, count, bits), codes)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, 70_001])
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.06, 0.07, 0.5, 1])
def test_positions_of_marks_are_those_of_numpy(n, share):
    marks = np.random.default_rng(n).random(n) < share
    assert np.array_equal(positions_of(marks), np.flatnonzero(marks))


def test_qsgd_sends_zeros_for_a_bucket_of_zeros_and_for_what_is_smaller_than_numbers_go():
    x = torch.cat([torch.zeros(8), torch.full((8,), 1e-44), torch.ones(8)])
    sent = play(QSGD(4, 8), [x], Layout.whole(24))[0].sent
    assert not sent[:16].any()
    assert sent[16:].any()


def test_qsgd_does_not_lose_squares_that_float32_has_not():
    for size in (1e-25, 1e25):
        x = torch.full((64,), size)
        assert play(QSGD(8, 64), [x], Layout.whole(64))[0].sent.tolist() == pytest.approx(
            [size] * 64, rel=1e-6
        )


def test_sign_sends_the_mean_magnitude_of_each_layer():
    x = torch.tensor([3.0, -1.0, 0.0, -0.0, 5.0])
    layout = layers((4,), (1,))
    assert play(Sign(), [x], layout)[0].sent.tolist() == [1.0, -1.0, 1.0, -1.0, 5.0]
    x = normal(LAYERED.d)[0]
    left = x - play(Sign(), [x], LAYERED)[0].sent
    for _, a, b, *_ in LAYERED.spans:
        norm1, n = x[a:b].abs().sum(), b - a
        torch.testing.assert_close((left[a:b] ** 2).sum(), (x[a:b] ** 2).sum() - norm1**2 / n)


TOY_R = torch.tensor([0.10, -0.30, 0.05, 0, 0.20, 0, 0, -0.02], dtype=torch.float64)
TOY_DW = torch.tensor([0.10, 0.05, -0.20, 0.01, -0.05, 0.10, 0, 0.01], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8,), (2, 4), (2, 2, 2)], ids=str)
def test_adacomp_on_the_toy_example(shape):
    layout = layers(shape)
    _, sent, residue = AdaComp(4, 4).encode(TOY_DW, TOY_R.clone(), layout, stream(0))
    assert sent.tolist() == pytest.approx([0.2, 0, -0.2, 0, 0, 0.2, 0, 0], abs=1e-15)
    assert residue.tolist() == pytest.approx([0, -0.25, 0.05, 0.01, 0.15, -0.1, 0, -0.01], abs=1e-15)


def test_adacomp_never_sends_where_residue_and_gradient_cancel():
    residue = torch.tensor([0.5, 0.0, 0.25, 0.0])
    packet, sent, residue = AdaComp(2, 2).encode(
        torch.tensor([-0.5, 0.25, 0.0, 0.0]), residue, layers((4, 1)), stream(0)
    )
    assert sent.tolist() == [0, 0.25, 0.25, 0]  # H = -.5, .5 | .25, 0 and max |G| = .25, .25
    assert len(packet) == 4 + 2


def adacomp_by_loops(residue, dw, layout, compressor):
    """Gq, the new residue and the bytes, entry by entry."""
    total, ahead, sent, n_bytes = residue + dw, residue + 2 * dw, np.zeros(len(dw)), 0
    for _, start, stop, _, kind in layout.spans:
        width = compressor.convolution_bin if kind == "convolution" else compressor.dense_bin
        bins = [range(b, min(b + width, stop)) for b in range(start, stop, width)]
        most = [max(abs(total[i]) for i in one) for one in bins]
        n_bytes += 8
        for one, top in zip(bins, most, strict=True):
            chosen = [i for i in one if top > 0 and total[i] != 0 and abs(ahead[i]) >= top]
            sent[chosen] = np.sign(total[chosen]) * np.mean(most)
            n_bytes += max(1, len(chosen)) * (1 if width < 64 else 2)
    return sent, total - sent, n_bytes


@pytest.mark.parametrize("compressor", [AdaComp(), AdaComp(63, 64), AdaComp(7, 11), AdaComp(1, 1)], ids=str)
def test_adacomp_is_that_of_loops_with_dead_units_and_empty_bins(compressor):
    vectors = normal(LAYERED.d, 8)
    for x in vectors:
        x[200:900] = 0  # whole bins of zeros
        x[::3] = 0
    vectors[3] = -vectors[2]  # residue against gradient: bins that send nothing
    residue = np.zeros(LAYERED.d)
    for x, one in zip(vectors, play(compressor, vectors, LAYERED), strict=True):
        sent, _, n_bytes = adacomp_by_loops(residue, x.numpy(), LAYERED, compressor)
        np.testing.assert_allclose(one.sent.numpy(), sent, rtol=0, atol=1e-13)
        assert len(one.packet) == n_bytes
        residue = residue + x.numpy() - one.sent.numpy()


@pytest.mark.parametrize(("width", "first", "sixtieth"), [(50, 11.0, 4.97), (500, 54.0, 6.19)])
def test_adacomp_sends_of_normal_gradients_what_it_should(width, first, sixtieth):
    d = 400 * width
    layout, compressor, rng = Layout.whole(d), AdaComp(width, width), np.random.default_rng(0)
    state, sent = torch.zeros(d), []
    for _ in range(60):
        x = torch.from_numpy(rng.standard_normal(d, np.float32))
        _, q, state = compressor.encode(x, state, layout, stream(0))
        sent.append(int(q.count_nonzero()) / 400)
    assert sent[0] == pytest.approx(first, rel=0.1)
    assert np.mean(sent[55:]) == pytest.approx(sixtieth, rel=0.1)


def test_low_rank_converges_to_the_best_approximation():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((30, 8)))[0], np.linalg.qr(rng.standard_normal((20, 8)))[0]
    matrix = left * 0.5 ** np.arange(8) @ right.T
    x = torch.from_numpy(np.ascontiguousarray(matrix)).flatten()
    sent = [one.sent.view(30, 20).numpy() for one in play(LowRank(2), [x] * 30, layers((30, 20)))]
    errors = [np.linalg.norm(matrix - one) for one in sent]
    assert errors == sorted(errors, reverse=True) or max(np.diff(errors)) < 1e-12
    u, s, v = np.linalg.svd(matrix)
    np.testing.assert_allclose(sent[-1], (u[:, :2] * s[:2]) @ v[:2], rtol=0, atol=1e-8)
    assert errors[0] < np.linalg.norm(matrix)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_low_rank_goes_on_alike_at_any_size(size):
    x = normal(48, dtype=torch.float32)[0]
    ones, sized = (play(LowRank(1), [one] * 4, layers((6, 8)))[-1].sent for one in (x, x * size))
    torch.testing.assert_close(sized / size, ones)


def test_low_rank_finds_rows_that_its_last_factor_is_blind_to():
    first, second = torch.zeros(6, 8), torch.zeros(6, 8)
    first[:, 0] = 1
    second[4:, 3] = 1  # orthogonal to what is kept of the first
    sent = play(LowRank(1), [first.flatten(), second.flatten()], layers((6, 8)))[1].sent
    torch.testing.assert_close(sent.view(6, 8), second)


@pytest.mark.parametrize("compressor", [TopK(0.1), RandomK(0.1), Sign(), QSGD(), LowRank(1)], ids=str)
def test_with_error_feedback_all_is_sent_in_time(compressor):
    vectors = normal(LAYERED.d, 400)
    encoded = play(ErrorFeedback(compressor), vectors, LAYERED)
    given = sum(vectors)
    torch.testing.assert_close(sum(one.sent for one in encoded) + encoded[-1].state.e, given)
    assert (
        encoded[-1].state.e.norm() < 3 * encoded[199].state.e.norm()
    )  # a bound, where a random walk would go on


def test_momentum_correction_is_that_of_its_text():
    vectors, layout = normal(7, 20), Layout.whole(7)
    u, v = np.zeros(7), np.zeros(7)
    for x, one in zip(vectors, play(MomentumCorrection(TopK(0.3), 0.9), vectors, layout), strict=True):
        u = 0.9 * u + x.numpy()
        v = v + u
        chosen = np.argsort(-np.abs(v))[:2]
        expected = np.zeros(7)
        expected[chosen] = v[chosen]
        u[chosen] = v[chosen] = 0
        np.testing.assert_allclose(one.sent.numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.state.u.numpy(), u, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.state.v.numpy(), v, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: TopK(0.0), "fraction = 0.0 must"),
        (lambda: RandomK(1.5), "fraction = 1.5 must"),
        (lambda: TopK(math.nan), "fraction = nan must"),
        (lambda: QSGD(0), "levels = 0 must"),
        (lambda: QSGD(1 << 15), "levels = 32768 must"),
        (lambda: QSGD(4, 0), "bucket = 0 must"),
        (lambda: AdaComp(0), "convolution_bin = 0 must"),
        (lambda: AdaComp(50, 1 << 14), "dense_bin = 16384 must"),
        (lambda: LowRank(0), "rank = 0 must"),
        (lambda: MomentumCorrection(TopK(), 1.0), "momentum = 1.0 must"),
        (lambda: MomentumCorrection(Sign()), "sign does not send entries as they are"),
        (lambda: ErrorFeedback(RandomK(unbiased=True)), "set unbiased = false"),
        (lambda: ErrorFeedback(QSGD(4, 1024)), "may enlarge the error 8 times"),
        (lambda: ErrorFeedback(AdaComp()), "adacomp keeps a residue"),
        (lambda: ErrorFeedback(ErrorFeedback(TopK())), "has error feedback already"),
        (lambda: Layout(()), "must begin at column 0"),
        (lambda: Layout((Span("a", 0, 3, (3,)), Span("b", 4, 5, (1,)))), "must begin at 3"),
        (lambda: Layout((Span("a", 0, 3, (2,)),)), "as many columns as its shape"),
        (lambda: Layout((Span("a", 0, 3, (3,), "conv"),)), "kind = 'conv'"),
        (lambda: TopK().encode(torch.zeros(3), (), Layout.whole(4), stream(0)), "top-k got torch.float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make, rule):
    with pytest.raises(ValueError, match="(?m)" + rule) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_the_layout_of_a_module_knows_its_layers():
    module = nn.Sequential(
        nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3), nn.Linear(5, 6), nn.LSTM(2, 3), nn.Embedding(4, 2)
    )
    module[2].bias.requires_grad_(False)
    layout = Layout.of(module)
    assert layout.d == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert [span.kind for span in layout.spans] == (
        ["convolution"] * 2 + ["other"] * 2 + ["dense"] + ["recurrent"] * 4 + ["other"]
    )
    assert layout.spans[0].shape == (3, 2, 4)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    assert [span.name for span in layout.spans] == [name for name, _ in named]
    assert {span._replace(kind="other") for span in layout.spans} == set(Layout.of(named).spans)
    x = layout.flatten(module)
    for name, view in layout.views(torch.stack([x, -x])).items():
        assert torch.equal(view, torch.stack([dict(named)[name], -dict(named)[name]]))
    assert Layout.whole(3).views(x[:3])["x"].tolist() == x[:3].tolist()


def test_compressors_are_known_by_name():
    assert list(COMPRESSORS) == ["top-k", "random-k", "qsgd", "sign", "adacomp", "low-rank"]
    for name, compressor in COMPRESSORS.items():
        assert compressor.name == name
        assert compressor() == compressor()


def test_adacomp_tells_the_bytes_of_each_kind_of_layer():
    layout = Layout(
        (
            Span("0", 0, 120, (4, 30), "convolution"),
            Span("1", 120, 700, (580,), "other"),
            Span("2", 700, 2000, (1300,), "dense"),
            Span("3", 2000, 2100, (100,), "convolution"),
        )
    )
    x = torch.randn(2100, generator=torch.Generator().manual_seed(3))
    compressor = AdaComp()
    packet = compressor.encode(x, compressor.init(x, layout), layout, stream(0, "kinds")).packet
    alone = {}
    for span in layout.spans:  # each span as a vector of its own
        one = Layout((span._replace(start=0, stop=span.size),))
        part = x[span.columns]
        packed = compressor.encode(part, compressor.init(part, one), one, stream(0, "kinds")).packet
        alone[span.kind] = alone.get(span.kind, 0) + len(packed)
    assert compressor.bytes_by_kind(packet, layout, x.dtype) == alone
    assert sum(alone.values()) == len(packet)
