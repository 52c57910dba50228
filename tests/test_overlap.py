"""Which messages are ready before the gradient: told by the methods themselves, against a table made by hand."""

import math
from dataclasses import dataclass

import pytest

from decentral.algorithms import ALGORITHMS, DSGD, EXTRA, DiLoCo, DmSGD, LocalSGD, RelaySGD, SlowMo
from decentral.commands.advise import EVERY_ROUND, METHODS, NOW_AND_THEN
from decentral.rounds.trials.gradient_step import outer_step
from decentral.rounds.trials.messages import early_messages, sends_model_first

TABLE = (*METHODS, EVERY_ROUND, *NOW_AND_THEN)
ELSEWHERE = {"choco": (False,), "power-gossip": (False,), "matcha": (False,)}


def test_every_method_is_in_the_table_or_here():
    assert {row.name for row in TABLE} | ELSEWHERE.keys() == ALGORITHMS.keys()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.label)
def test_early_and_late_messages_are_those_of_the_hand_made_table(row):
    found = early_messages(row.build())
    assert found.count(True) == row.early
    assert found.count(False) == math.ceil(round(row.late + row.averages, 9))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_methods_whose_bytes_depend_on_more_send_late(name):
    assert early_messages(ALGORITHMS[name]()) == ELSEWHERE[name]


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
