"""Problems whose instances differ in structure: the settings of three, for networks of nodes only ([dataflow])."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from decentral.problems.data import DEDUCTIONS, TREEBANKS, load_deductions, load_trees
from decentral.problems.objective import check_positive
from decentral.problems.sizes import check_layers, refuse_size
from decentral.tables import OneOf
from topologies.wording import shown


@dataclass(frozen=True)
class ListReduction:
    """Lists of digits to be reduced by the operation in front; an RNN of ``width`` units (see list_reduction.py)."""

    train: int = 100_000
    validation: int = 10_000
    longest: int = 9
    width: int = 128

    def __post_init__(self) -> None:
        check_positive(train=self.train, validation=self.validation, longest=self.longest, width=self.width)
        _refuse_width(self.width)
        numbers = 8.0 * max(self.train, self.validation) * (self.longest + 2)
        refuse_size(
            numbers, f"lists with train = {shown(self.train)}, validation = {shown(self.validation)} and longest = "
            f"{shown(self.longest)}", "draw fewer or shorter ones",
        )  # fmt: skip

    def prepare(self, workers: int, seed: int) -> None:
        """Nothing to read: lists are drawn."""


@dataclass(frozen=True)
class SentimentTrees:
    """Binary trees of words with a class at the root; a tree LSTM of ``width`` cells.

    ``trees``: see ``decentral list data``; those that are not embedded are read below ``data_root`` (or the environment
    variable DECENTRAL_DATA). ``binary``: neutral sentences are left out, and two classes remain.
    ``every_node``: the loss is the mean over all phrases of a sentence that have a label, and not the sentence's own.
    """

    trees: Annotated[str, OneOf(TREEBANKS)] = "signed-words"
    data_root: str = ""
    binary: bool = False
    every_node: bool = False
    width: int = 128

    def __post_init__(self) -> None:
        check_positive(width=self.width)
        _refuse_width(self.width)

    def prepare(self, workers: int, seed: int) -> object:
        """Read the trees once, so that every mistake is found before any run starts."""
        return load_trees(self.trees, self.data_root or None)


@dataclass(frozen=True)
class BasicDeduction:
    """bAbI task 15, stories as graphs; a gated graph network of ``width`` units and ``steps`` steps along the edges.

    ``stories``: see ``decentral list data``; those that are not embedded are read below ``data_root`` (or the
    environment variable DECENTRAL_DATA).
    """

    stories: Annotated[str, OneOf(DEDUCTIONS)] = "generated"
    data_root: str = ""
    width: int = 8
    steps: int = 2

    def __post_init__(self) -> None:
        check_positive(width=self.width, steps=self.steps)
        check_layers(steps=self.steps)
        _refuse_width(self.width)

    def prepare(self, workers: int, seed: int) -> object:
        """Read the stories once, so that every mistake is found before any run starts."""
        return load_deductions(self.stories, self.data_root or None)


def _refuse_width(width: int) -> None:
    """Each of these networks has a square matrix of it, in four bytes a number."""
    refuse_size(4.0 * width * width, f"width = {shown(width)}", "make it smaller")
