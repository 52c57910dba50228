"""The decoder of keywords against brute force over all paths, in float64."""

import itertools
import math

import pytest
import torch
from torch.func import grad, vmap

from decentral.problems.models.decoder import Chain

STAY = 0.7


def paths(states, end):
    """All (start, states of frames start .. end) that begin in state 0, end in the last and go up by one at a time."""
    for start in range(end + 1):
        length = end - start + 1
        for ups in itertools.combinations(range(1, length), states - 1):
            yield start, [sum(t >= up for up in ups) for t in range(length)]


def by_force(e, end, temperature):
    """Score, expected duration and occupancy (T, S) of the paths of one example that end there."""
    frames, states = e.shape
    found = []
    for start, path in paths(states, end):
        score = sum(float(e[start + k, s]) for k, s in enumerate(path))
        moves = states - 1
        score += moves * math.log(1 - STAY) + (len(path) - 1 - moves) * math.log(STAY)
        taken = torch.zeros(frames, states, dtype=torch.float64)
        for k, s in enumerate(path):
            taken[start + k, s] = 1
        found.append((score, len(path), taken))
    scores = torch.tensor([score for score, _, _ in found], dtype=torch.float64)
    if temperature:
        value, shares = (
            temperature * torch.logsumexp(scores / temperature, 0),
            torch.softmax(scores / temperature, 0),
        )
    else:
        value, shares = scores.max(), torch.nn.functional.one_hot(scores.argmax(), len(scores)).double()
    occupied = sum(share * taken for share, (_, _, taken) in zip(shares, found, strict=True))
    duration = sum(share * length for share, (_, length, _) in zip(shares, found, strict=True))
    return float(value), float(duration), occupied


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("states", [1, 3, 4])
def test_scores_durations_and_gradients_are_those_of_all_paths(states, temperature):
    torch.manual_seed(states)
    e = torch.randn(3, 7, states, dtype=torch.float64, requires_grad=True)
    score, duration = Chain(states, STAY, temperature)(e)
    assert not duration.requires_grad
    for b, end in itertools.product(range(3), range(states - 1, 7)):
        value, length, occupied = by_force(e[b].detach(), end, temperature)
        assert score[b, end].item() == pytest.approx(value, abs=1e-10)
        assert duration[b, end].item() == pytest.approx(length, abs=1e-10)
        (g,) = torch.autograd.grad(score[b, end], e, retain_graph=True)
        torch.testing.assert_close(g[b], occupied, atol=1e-10, rtol=0)
        assert g.abs().sum() == pytest.approx(float(g[b].sum()), abs=1e-10)  # of no other example
    assert (score[:, : states - 1] < -1e20).all()


def test_gradients_of_many_ends_add_up_and_soft_ones_are_derivatives():
    torch.manual_seed(0)
    e = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: (Chain(3, STAY, 0.5)(x).score[:, 2:] * weights).sum(), e)
    assert torch.autograd.gradcheck(lambda x: (Chain(3, STAY)(x).score[:, 2:] * weights).sum(), e)


def test_the_soft_score_is_above_the_hard_one_and_tends_to_it():
    torch.manual_seed(1)
    e = torch.randn(4, 12, 4, dtype=torch.float64)
    hard = Chain(4, STAY)(e).score[:, 3:]
    gaps = [(Chain(4, STAY, tau)(e).score[:, 3:] - hard) for tau in (1.0, 0.1, 1e-3)]
    assert all((gap >= 0).all() for gap in gaps)
    assert gaps[0].max() > gaps[1].max() > gaps[2].max()
    assert gaps[2].max() < 0.01


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_vmap_gives_what_one_after_the_other_gives(temperature):
    torch.manual_seed(2)
    e, chain = torch.randn(3, 4, 9, 4), Chain(4, STAY, temperature)

    def loss(x):
        score, duration = chain(x)
        return (score / duration.clamp(min=1))[:, 3:].max(1).values.relu().sum()

    batched, looped = vmap(grad(loss))(e), torch.stack([grad(loss)(one) for one in e])
    assert batched.abs().sum() > 0
    # exp has other last bits at other places of a vector; the hard path has none of it
    torch.testing.assert_close(batched, looped, atol=1e-6 if temperature else 0, rtol=0)
    assert torch.equal(grad(loss)(e[0]), torch.autograd.functional.vjp(loss, e[0])[1])


@pytest.mark.parametrize(("states", "stay", "temperature"), [(0, 0.5, 0), (2, 1.0, 0), (2, 0.5, -1.0)])
def test_chains_that_are_none_are_refused(states, stay, temperature):
    with pytest.raises(ValueError, match="temperature of at least 0"):
        Chain(states, stay, temperature)
