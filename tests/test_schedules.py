"""Schedules of large batches, against numbers worked out by hand and loops of the papers' rules."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.optim import SGD, lr_scheduler

from decentral.optimizers import LEGW, SCHEDULES, AutoWU, LinearScaling, Polynomial
from decentral.optimizers.of_run import Facts
from decentral.optimizers.past_minimum import _fitted_kernel, _predicted, past_minimum
from topologies.streams import stream

N, B0, LR, EPOCHS = 60_000, 128, 0.1, 25
# k -> peak, epochs of warm-up, as they were worked out for B0 = 128, lr 0.1 and 0.25 epochs
TABLE = {1: (0.1, 0.25), 2: (0.1414, 0.5), 4: (0.2, 1), 8: (0.2828, 2), 16: (0.4, 4), 64: (0.8, 16)}


def facts(batch, rounds, lr=LR, **more):
    return Facts(rounds, lr, 0, batch, Fraction(N, batch), **{"hears": True, **more})


def lrs(schedule, rounds, base=LR):
    return np.array([schedule.lr(t, rounds, base) for t in range(rounds)])


def legw(k, decay="constant"):
    """(lr of each round of 25 epochs, rounds of an epoch)."""
    rounds = EPOCHS * N // (k * B0)
    schedule = LEGW(B0, 0.25, decay=decay).fitted(facts(k * B0, rounds))
    return lrs(schedule, rounds), N / (k * B0)


@pytest.mark.parametrize("k", TABLE)
def test_legw_warms_up_over_as_many_rounds_whatever_the_batch(k):
    rates, epoch = legw(k)
    peak, epochs = TABLE[k]
    assert rates.max() == pytest.approx(peak, abs=5e-5)
    warming = np.flatnonzero(rates < rates.max())
    assert len(warming) == 118  # 117.19, and all of them the first ones
    assert warming[-1] == 117
    assert abs(len(warming) / epoch - epochs) < 1 / epoch
    slopes = np.diff(rates[:118])
    np.testing.assert_allclose(slopes, math.sqrt(k) * LR / (0.25 * N / B0 + 1), rtol=1e-10)


@pytest.mark.parametrize("k", [2, 8])
def test_legw_decays_in_the_epoch_in_which_the_tuned_run_does(k):
    decay = {"name": "step", "milestones": [0.4, 0.8], "factor": 0.5}
    (rates, epoch), (tuned, of_tuned) = legw(k, decay), legw(1, decay)
    for passed in (0.5, 0.25):
        drops = [np.flatnonzero(some <= passed * some.max() * (1 + 1e-12)) for some in (rates, tuned)]
        late = [drop[drop > 200][0] for drop in drops]
        assert late[0] / epoch == pytest.approx(late[1] / of_tuned, abs=1 / epoch)


def test_legw_whose_warm_up_is_as_long_as_the_run_is_refused_with_both_numbers():
    schedule, batch = LEGW(B0, 0.25), 64 * B0
    assert schedule.fitted(facts(batch, 118)).lr(117, 118, 1.0) < 8
    with pytest.raises(ValueError, match=r"of 16 epochs .*run's 15\.9744 epochs \(train\.rounds = 117\)"):
        schedule.fitted(facts(batch, 117))
    assert LEGW(B0, 0.0).fitted(facts(batch, 1)).lr(0, 1, 1.0) == 8


def test_linear_scaling_climbs_from_the_tuned_rate_by_equal_steps():
    k, batch = 8, 8 * B0
    warm = 2 * N / batch
    rounds = 6 * N // batch
    rates = lrs(LinearScaling(B0, warmup_epochs=2.0, decay="cosine").fitted(facts(batch, rounds)), rounds)
    expected, lr = [], LR
    for t in range(rounds):  # gradual warm-up: a constant is added in each round
        expected.append(min(lr, k * LR) * (1 + math.cos(math.pi * t / rounds)) / 2)
        lr += (k * LR - LR) / warm
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert rates[0] == pytest.approx(LR)


def test_a_smaller_batch_than_the_tuned_one_needs_no_warm_up():
    schedule = LinearScaling(B0, warmup_epochs=50.0).fitted(facts(B0 // 4, 3))
    np.testing.assert_allclose(lrs(schedule, 3), LR / 4)
    with pytest.raises(ValueError, match="of 50 epochs"):
        LinearScaling(B0, warmup_epochs=50.0).fitted(facts(4 * B0, 3))


def test_the_polynomial_is_torchs_and_by_hand():
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    scheduler, expected = lr_scheduler.PolynomialLR(optimizer, 20, 3.0), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(lrs(Polynomial(power=3.0), 20, 0.7), expected, rtol=1e-12)
    rates = lrs(Polynomial(final=0.2, warmup_rounds=1), 4, 1.0)
    np.testing.assert_allclose(rates, [0.5, 0.2 + 0.8 * 0.5625, 0.4, 0.2 + 0.8 * 0.0625], rtol=1e-12)


def test_a_schedule_of_a_run_gives_no_rate_before_it_knows_the_run():
    for schedule in (LEGW(B0, 1.0), LinearScaling(B0), AutoWU()):
        with pytest.raises(ValueError, match="fitted"):
            schedule.lr(0, 10, 0.1)


def test_decays_are_written_out_whole_and_read_again():
    schedule = LEGW(B0, 1.0, decay="step")
    assert schedule.decay == {"name": "step", "milestones": [0.5, 0.75], "factor": 0.1, "warmup_rounds": 0}
    assert LEGW(B0, 1.0, decay=schedule.decay) == schedule
    assert {"polynomial", "linear-scaling", "legew", "autowu"} < SCHEDULES.keys()


# AutoWU: T rounds of 20 to an epoch, S = 300
T, EPOCH = 600, 20


def warmup(settings=None, epoch=EPOCH):
    return (settings or AutoWU()).fitted(Facts(T, 1.0, 3, 10, Fraction(epoch), "", True))


def driven(schedule, loss):
    """The state after all rounds of these losses, heard a few at a time; rounds after which it decided."""
    state, decided, heard = schedule.begin(), [], 0
    for t in range(1, T + 1):
        if schedule.decides(state, t) or t % 7 == 0:
            state = schedule.heard(state, [loss(s) for s in range(heard, t)])
            heard = t
        if schedule.decides(state, t):
            state = schedule.decided(state, t)
            decided.append(t)
    return state, decided


def noise(t):
    return 0.05 * stream(11, "noise", t).standard_normal()


def test_the_rate_grows_by_the_same_factor_in_each_round():
    rates = lrs(AutoWU().fitted(Facts(1000, 1.0, 0, 10, Fraction(EPOCH), "", True)), 1000)
    np.testing.assert_allclose(rates[1:501] / rates[:500], 1.023293, rtol=1e-6)
    assert rates[0] == 1e-5
    assert rates[250] == pytest.approx(3.1623e-3, rel=1e-4)
    np.testing.assert_allclose(
        rates[500:], [(1 + math.cos(math.pi * s / 500)) / 2 for s in range(500)], atol=1e-12
    )


def test_falling_losses_are_followed_to_the_longest_warm_up():
    schedule = warmup(epoch=60)
    state, decided = driven(schedule, lambda t: 3 - t / 150 + noise(t))
    assert decided == [60, 120, 180, 240, 300]
    assert state["switch"] == [300, 1.0]
    np.testing.assert_allclose([schedule.lr_after(state, t) for t in range(T)], lrs(schedule, T), rtol=1e-12)
    assert schedule.note(state)["lr_before"] == pytest.approx(1.0)


@pytest.mark.parametrize("cooldown", ["cosine", "constant-then-cosine"])
def test_losses_that_rise_again_end_the_warm_up_with_the_rate_of_their_minimum(cooldown):
    schedule, least = warmup(AutoWU(lr_min=1e-4, cooldown=cooldown)), 90
    state, decided = driven(schedule, lambda t: 1 + ((t - least) / 60) ** 2 + noise(t))
    end, lr = state["switch"]
    assert decided[-1] == end == 160  # 80 and 100 are no more than the bottom; 120, 140 and 160 are above it
    in_force = least + 60 * np.array([-0.2, 0.2])
    assert 1e-4 * 1e4 ** (in_force[0] / 300) < lr < 1e-4 * 1e4 ** (in_force[1] / 300)
    told = schedule.note(state)
    assert (told["round"], told["lr_after"]) == (end, lr)
    assert told["lr_before"] == pytest.approx(1e-4 * 1e4 ** (160 / 300))
    rates = [schedule.lr_after(state, t) for t in range(T)]
    np.testing.assert_allclose(rates[:end], [1e-4 * 1e4 ** (t / 300) for t in range(end)], rtol=1e-12)
    begin = end if cooldown == "cosine" else 480
    after = [
        lr if t < begin else lr * (1 + math.cos(math.pi * (t - begin) / (T - begin))) / 2
        for t in range(end, T)
    ]
    np.testing.assert_allclose(rates[end:], after, rtol=1e-9)


def test_three_epochs_one_after_the_other_are_waited_for(monkeypatch):
    votes = iter([True, True, False, True, False, True, True, True])

    def past(losses, rng):
        return type("Verdict", (), {"passed": next(votes), "minima": (0.25, 0.75)})

    monkeypatch.setattr("decentral.optimizers.autowu.past_minimum", past)
    state, decided = driven(warmup(), lambda t: 1.0)
    assert decided == list(range(EPOCH, 8 * EPOCH + 1, EPOCH))
    at = 8 * EPOCH / 300
    assert state["switch"] == [160, pytest.approx((1e-5 * 1e5 ** (at / 4) + 1e-5 * 1e5 ** (3 * at / 4)) / 2)]


def test_a_flat_loss_does_not_pass_and_what_is_not_finite_is_left_out():
    draw = stream(5, "flat").standard_normal(200)
    assert not past_minimum(1 + 0.1 * draw, stream(0, "a")).passed
    assert not past_minimum(np.ones(50), stream(0, "a")).passed
    bowl = 1 + 2 * (np.arange(200) / 200 - 0.6) ** 2 + 0.05 * draw
    holes = bowl.copy()
    holes[::17] = np.inf
    one, other = (past_minimum(some, stream(0, "a")) for some in (bowl, holes))
    assert one.passed
    assert other.passed
    np.testing.assert_allclose([np.mean(one.minima), np.mean(other.minima)], 0.6, atol=0.05)


def test_the_process_is_fitted_and_conditioned_as_the_formulas_say():
    rng = np.random.default_rng(2)
    x = np.sort(rng.uniform(size=60))
    z = np.cos(4 * x) + 0.3 * rng.standard_normal(60)
    z = (z - z.mean()) / z.std()

    def k(a, b):
        return np.exp(-((a[:, None] - b) ** 2) / (2 * 0.2**2))

    def likelihood(signal, noise):
        c = signal * k(x, x) + noise * np.eye(60)
        return -0.5 * z @ np.linalg.solve(c, z) - 0.5 * np.linalg.slogdet(c)[1]

    kernel = _fitted_kernel(x, z)
    signal, white = kernel.k1.k1.constant_value, kernel.k2.noise_level
    best = likelihood(signal, white)
    for factor in (0.8, 0.97, 1.03, 1.25):
        assert likelihood(signal * factor, white) < best
        assert likelihood(signal, white * factor) < best
    mean, covariance = _predicted(kernel, x, z)
    grid = np.linspace(0, 1, 500)
    c, across = signal * k(x, x) + white * np.eye(60), signal * k(grid, x)
    np.testing.assert_allclose(mean, across @ np.linalg.solve(c, z), atol=1e-8)
    expected = signal * k(grid, grid) - across @ np.linalg.solve(c, across.T)
    np.testing.assert_allclose(covariance, expected, atol=1e-8)
