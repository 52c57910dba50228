"""Batch norms as integers: equal to exact arithmetic at every x, with the fewest bits that any integers can have."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from decentral.quantised.shared_shift import FixedPoint, fixed_point
from decentral.quantised.staircase import staircase

RNG = np.random.default_rng(14)


def exact(alpha, beta, reach, lowest=None, highest=None):
    """floor(alpha x + beta + 1/2), clipped, at all x in [-R, R], of the exact numbers that these floats are."""
    (p, q), (r, s) = Fraction(alpha).as_integer_ratio(), Fraction(beta).as_integer_ratio()
    values = [(2 * (p * s * x + r * q) + q * s) // (2 * q * s) for x in range(-reach, reach + 1)]
    if lowest is not None:
        values = [max(lowest, y) for y in values]
    return np.array([y if highest is None else min(highest, y) for y in values], dtype=np.int64)


def integers(found, channel, reach, lowest=None, highest=None):
    x = np.arange(-reach, reach + 1)
    y = (found.scale[channel] * x + found.shift[channel]) >> found.bits
    return np.clip(y, lowest, highest) if lowest is not None or highest is not None else y


def can(wanted, reach, n, lowest, highest):
    """Whether any A and B have these values with n bits: all of them tried."""
    x, span = np.arange(-reach, reach + 1), int(wanted.max() - wanted.min() + 2)
    most = span << n
    floors = wanted * 2**n
    for scale in range(-most, most + 1):
        least, greatest = floors - scale * x, floors + 2**n - 1 - scale * x
        if lowest is not None:
            least = least[wanted > lowest]
        if highest is not None:
            greatest = greatest[wanted < highest]
        if not least.size or not greatest.size or least.max() <= greatest.min():
            return True
    return False


def drawn(count):
    """Maps of both signs, from flat to steep."""
    for _ in range(count):
        yield float(RNG.normal() * 10 ** RNG.uniform(-1.5, 0.5)), float(RNG.normal() * 3)


@pytest.mark.parametrize(("lowest", "highest"), [(None, None), (0, 3), (0, None)])
def test_the_fewest_bits_are_those_of_all_scales_and_shifts_tried(lowest, highest):
    reach = 9
    for alpha, beta in drawn(60):
        found = fixed_point([alpha], [beta], reach, lowest, highest)
        wanted = exact(alpha, beta, reach, lowest, highest)
        np.testing.assert_array_equal(integers(found, 0, reach, lowest, highest), wanted)
        assert can(wanted, reach, found.bits, lowest, highest)
        assert found.bits == 0 or not can(wanted, reach, found.bits - 1, lowest, highest)


@pytest.mark.parametrize(("reach", "lowest", "highest"), [(127, None, None), (1023, 0, 15), (4095, -8, 7)])
def test_a_layer_is_exact_at_every_sum_and_shares_the_bits_of_its_hardest_channel(reach, lowest, highest):
    maps = list(drawn(60))
    alpha, beta = [a * 127 / reach for a, _ in maps], [b for _, b in maps]
    found = fixed_point(alpha, beta, reach, lowest, highest)
    for c, (a, b) in enumerate(zip(alpha, beta, strict=True)):
        np.testing.assert_array_equal(
            integers(found, c, reach, lowest, highest), exact(a, b, reach, lowest, highest)
        )
    alone = [fixed_point([a], [b], reach, lowest, highest).bits for a, b in zip(alpha, beta, strict=True)]
    assert found.bits == max(alone)
    assert max(alone) <= 2 * log2(2 * reach + 1) + 1
    assert any(a < 0 for a in found.scale)
    assert any(a > 0 for a in found.scale)


def test_ties_go_up_and_flat_channels_are_constants():
    found = fixed_point([0.5, -0.5, 0.0, 1e-12, 1, -1], [0, 0, 2.5, -0.5, 0.5, 0.5], 8)
    for c, (a, b) in enumerate([(0.5, 0), (-0.5, 0), (0, 2.5), (1e-12, -0.5), (1, 0.5), (-1, 0.5)]):
        np.testing.assert_array_equal(integers(found, c, 8), exact(a, b, 8))
    assert integers(found, 1, 8)[[5, 7, 9]].tolist() == [2, 1, 0]  # x = -3, -1, 1: 1.5, 0.5 and -0.5
    assert fixed_point([0.0], [2.5], 8) == FixedPoint((0,), (3,), 0)
    assert fixed_point([2.0], [0.0], 0) == FixedPoint((0,), (0,), 0)
    assert fixed_point([], [], 5).bits == 0


def test_numbers_that_floats_cannot_tell_apart_are_told_apart():
    """floor(x / 6 +- 2^-80 + 1/2): in doubles both are the same."""
    sixth, little = Fraction(1, 6), Fraction(1, 2**80)
    above, below = fixed_point([sixth], [little], 9), fixed_point([sixth], [-little], 9)
    assert integers(above, 0, 9)[12] == 1  # x = 3: floor(1 + 2^-80)
    assert integers(below, 0, 9)[12] == 0
    assert float(sixth * 3 + little) == float(sixth * 3 - little)


def test_the_corners_of_a_long_staircase_are_few():
    stairs = staircase(Fraction(0.7312), Fraction(0.1234), 4095)
    assert len(stairs.above) + len(stairs.below) < 40


def test_what_is_no_layer_is_refused():
    for alpha, beta, reach in (
        ([1.0], [], 3),
        ([float("nan")], [0.0], 3),
        ([1.0], [float("inf")], 3),
        ([], [], -1),
    ):
        with pytest.raises(ValueError, match=r"no layer|finite"):
            fixed_point(alpha, beta, reach)
