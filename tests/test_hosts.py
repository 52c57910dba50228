"""Which rank hosts which part, and what is said where there are too many ranks: in the words of that kind's file."""

from types import SimpleNamespace

import pytest

from decentral.errors import UserError
from decentral.runs.hosts import hosts
from decentral.runs.kinds import run_of, training_of

MLP = {"name": "mlp", "data": "digits"}
TRAIN = {"lr": 0.1, "rounds": 2}
RING = {"topology": {"name": "ring", "workers": 4}, "algorithm": {"name": "dsgd"}}


def test_neighbouring_parts_share_a_rank():
    assert hosts(8, 4, "") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert hosts(8, 8, "") == list(range(8))
    assert hosts(3, 2, "") == [0, 0, 1]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"stages": {"count": 2}, "program": {"name": "backprop"}},
            "stages.count = 2 but MPI has 9 ranks; launch 2",
        ),
        (
            {"stages": {"count": 2}, "program": {"name": "backprop"}, **RING},
            "stages.count = 2 of 4 workers but MPI has 9 ranks; launch 8",
        ),
        ({"dataflow": {"workers": 3}}, "dataflow.workers = 3 but MPI has 9 ranks; launch 3"),
    ],
    ids=["stages", "stages of workers", "nodes"],
)
def test_more_ranks_than_parts_are_refused(sections, words):
    run = run_of({"name": "a", "seeds": [0], "problem": MLP, "train": TRAIN, **sections})
    with pytest.raises(UserError, match=words):
        training_of(run).check(run, SimpleNamespace(ranks=9))
