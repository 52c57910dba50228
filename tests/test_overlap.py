"""Which messages are ready before the gradient: told by the methods themselves, against a table made by hand."""

import math
from dataclasses import dataclass

import pytest

from decentral.algorithms import ALGORITHMS, DSGD, EXTRA, DiLoCo, DmSGD, LocalSGD, RelaySGD, SlowMo
from decentral.commands.advise_methods import candidates
from decentral.rounds.trials.gradient_step import outer_step
from decentral.rounds.trials.messages import Messages, early_messages, messages_a_round, sends_model_first

LATE = dict.fromkeys(
    ("dsgd", "dmsgd", "decentlam", "quasi-global", "d2", "exact-diffusion", "relay-sgd", "push-sum"),
    (0, 1, 0),
)
BYTES_DEPEND = dict.fromkeys(("choco", "power-gossip", "matcha"), (0, 1, 0))
TABLE = {
    **LATE,
    **BYTES_DEPEND,
    "dsgd awc": (1, 0, 0),
    "dmsgd awc": (1, 0, 0),
    "extra": (1, 0, 0),
    "gradient-tracking": (0, 2, 0),
    "diging": (1, 1, 0),
    "momentum-tracking": (1, 1, 0),
    "push-diging": (0, 2, 0),
    "gossip-pga": (0, 1 - 1 / 6, 1 / 6),
    "slowmo": (0, 1, 1 / 12),
    "pmsgd": (0, 0, 1),
    "local-sgd": (0, 0, 1 / 10),
    "diloco": (0, 0, 1 / 500),
}
"""Gossip that is ready before the gradient, gossip that is not, and all-reduces, a round in the mean: made by hand."""


def test_advise_has_every_method_whose_bytes_depend_on_nothing_else():
    ranked = {one.label for one in candidates()}
    assert ranked >= TABLE.keys() - BYTES_DEPEND.keys()
    assert {label.split()[0] for label in ranked} == ALGORITHMS.keys() - BYTES_DEPEND.keys()


@pytest.mark.parametrize("label", TABLE)
def test_early_and_late_messages_are_those_of_the_hand_made_table(label):
    name, *variant = label.split()
    method = ALGORITHMS[name](**dict(zip(["variant"], variant, strict=False)))
    early, late, averages = TABLE[label]
    found = early_messages(method)
    assert found.count(True) == early
    assert found.count(False) == math.ceil(round(late + averages, 9))
    assert messages_a_round(method) == Messages(early, late, averages)


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (DmSGD(variant="nesterov"), (False,)),
        (DmSGD(variant="doubly-averaged"), (False, False)),
        (RelaySGD(form="gradient"), (False,)),
        (SlowMo(base="extra"), (True, False)),
        (LocalSGD(every=300), (False,)),
    ],
)
def test_variants_differ(method, found):
    assert early_messages(method) == found


@dataclass(frozen=True)
class Turns:
    """Adapt while combine, but adapt then combine in every ``every``-th round."""

    every: int = 9
    copies: bool = False

    def init(self, x, comm):
        return ()

    def step(self, x, state, g, comm, lr):
        if (comm.t + 1) % self.every == 0:
            return comm.mix(x.sub(g, alpha=lr)), state
        return comm.mix(x * 2 if self.copies else x).sub(g, alpha=lr), state


def test_a_message_is_early_only_if_it_is_in_every_round():
    assert early_messages(Turns(every=10**6)) == (True,)
    assert early_messages(Turns(every=9)) == (False,)


def test_what_is_early_may_be_something_else_than_the_models():
    assert early_messages(Turns(every=10**6, copies=True)) == (True,)
    assert not sends_model_first(Turns(every=10**6, copies=True))
    assert not sends_model_first(Turns(every=9))
    assert not sends_model_first(DiLoCo(every=3))
    assert sends_model_first(EXTRA())
    assert sends_model_first(DSGD("awc"))
    assert not sends_model_first(DSGD())


def test_the_number_of_workers_does_not_matter():
    assert {early_messages(ALGORITHMS["diging"](), n) for n in (2, 3, 4, 9)} == {(True, False)}


def test_methods_whose_gradient_step_an_optimizer_can_make():
    found = {name: outer_step(method()) for name, method in ALGORITHMS.items()}
    first = {"dsgd", "d2", "exact-diffusion", "relay-sgd", "choco", "power-gossip"}
    assert {name for name, place in found.items() if place == "first"} == first
    assert {name for name, place in found.items() if place is None} == found.keys() - first
    assert outer_step(DSGD("awc")) == "last"
    assert outer_step(RelaySGD(form="gradient")) is None
    assert outer_step(Turns()) is None


@dataclass(frozen=True)
class Hidden(DSGD):
    """Takes None for a gradient, but uses the gradient in the ninth round otherwise than DSGD."""

    every: int = 9

    def step(self, x, state, g, comm, lr):
        if g is not None and comm.t == self.every - 1:
            g = g * 2
        return super().step(x, state, g, comm, lr)


def test_an_outer_step_must_be_the_same_in_every_round():
    assert outer_step(Hidden()) is None
    assert outer_step(Hidden(every=10**9)) is not None
