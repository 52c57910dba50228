"""Sentences as binary trees with a class at every node: the Stanford Sentiment Treebank, and random trees."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file, text_of
from topologies.streams import stream

SST_HOME = "https://nlp.stanford.edu/sentiment/"
NO_LABEL = -1
POLARITY = (0, 0, NO_LABEL, 1, 1)
UNKNOWN = "<unknown>"
RAREST = (
    2  # words that the training trees hold less often are unknown, so that the unknown word is trained too
)
SIGNED_WORDS = {f"{value:+d}": i for i, value in enumerate(range(-2, 3), 1)}
LONGEST_LINE = 100_000
TOKEN = re.compile(r"[()]|[^ ()\n]+")  # not \s: some words of the treebank hold a no-break space


@dataclass(frozen=True, slots=True)
class Node:
    """``word``: index into the vocabulary, -1 at an inner node. ``label``: a class, or `NO_LABEL`.

    ``left``, ``right``: the children's places in the tree, -1 at a leaf.
    """

    word: int
    left: int
    right: int
    label: int


Tree = tuple[Node, ...]  # in post-order: a node after its children, the root last


@dataclass(frozen=True, eq=False)
class Treebank:
    """Trees by part; word i is ``vocabulary[i]``, word 0 the unknown one; labels are 0..classes-1."""

    train: tuple[Tree, ...]
    validation: tuple[Tree, ...]
    test: tuple[Tree, ...]
    vocabulary: tuple[str, ...]
    classes: int = len(POLARITY)

    def binary(self) -> Treebank:
        """The view in two classes, 0 for labels 0 and 1, 1 for labels 3 and 4, without trees whose root is neutral.

        Neutral nodes below other roots have `NO_LABEL`. Raises UserError if this is a binary view already.
        """
        if self.classes != len(POLARITY):
            raise UserError(f"a binary view is made of {len(POLARITY)} classes, not of {self.classes}")

        def polar(trees: tuple[Tree, ...]) -> tuple[Tree, ...]:
            kept = (tree for tree in trees if POLARITY[tree[-1].label] != NO_LABEL)
            return tuple(tuple(replace(node, label=POLARITY[node.label]) for node in tree) for tree in kept)

        return Treebank(polar(self.train), polar(self.validation), polar(self.test), self.vocabulary, 2)


def parse_tree(line: str, word_ids: Mapping[str, int], where: str = "tree") -> Tree:
    """The tree of ``(label word)`` or ``(label tree tree)``, labels 0 to 4; a word without an id is word 0.

    Words stay as written, case and escapes too. Raises UserError with ``where`` and what was expected.
    """
    wrong = f"{where}: expected one tree, (label word) or (label tree tree), labels 0 to 4, found"
    if len(line) > LONGEST_LINE:
        raise UserError(
            f"{where}: a line of {len(line):,} characters; the most is {LONGEST_LINE:,}, one sentence"
        )
    nodes: list[Node] = []
    unclosed: list[tuple[int, list[str | int]]] = []
    for token in TOKEN.finditer(line):
        if not unclosed and (nodes or token[0] != "("):
            raise UserError(f"{wrong} {line[token.start() :].strip()!r:.80} outside of it")
        if token[0] == "(":
            unclosed.append((token.start(), []))
        elif token[0] != ")":
            unclosed[-1][1].append(token[0])
        else:
            start, parts = unclosed.pop()
            match parts:
                case ["0" | "1" | "2" | "3" | "4" as label, str() as word]:
                    nodes.append(Node(word_ids.get(word, 0), -1, -1, int(label)))
                case ["0" | "1" | "2" | "3" | "4" as label, int() as left, int() as right]:
                    nodes.append(Node(-1, left, right, int(label)))
                case _:
                    raise UserError(f"{wrong} {line[start : token.end()]!r:.80}")
            if unclosed:
                unclosed[-1][1].append(len(nodes) - 1)
    if unclosed or not nodes:
        raise UserError(f"{wrong} the end of the line after {line.strip()[-40:]!r}")
    return tuple(nodes)


def random_trees(part: str, count: int, mean_leaves: int = 10) -> tuple[Tree, ...]:
    """The first ``count`` trees of the stream (0, "random-trees", part), of 1 to 2 ``mean_leaves`` - 1 words, uniform.

    A node of m words splits after its first 1 to m - 1, uniform. Words are the numbers -2 to 2, uniform; an inner node
    is the sum of its children, cut off at -2 and 2, so it matters which are summed first; labels are the values plus 2.
    """
    draw = stream(0, "random-trees", part)

    def grow(leaves: int) -> tuple[int, str]:
        if leaves == 1:
            value = int(draw.integers(-2, 3))
            return value, f"({value + 2} {value:+d})"
        split = int(draw.integers(1, leaves))
        (a, left), (b, right) = grow(split), grow(leaves - split)
        value = min(max(a + b, -2), 2)
        return value, f"({value + 2} {left} {right})"

    sizes = (int(draw.integers(1, 2 * mean_leaves)) for _ in range(count))
    return tuple(parse_tree(grow(leaves)[1], SIGNED_WORDS) for leaves in sizes)


@functools.cache
def signed_words(root: Path | None = None) -> Treebank:
    """`random_trees` of 10 words on average: 2,000 for training, 500 for validation, 500 for testing."""
    del root
    train, validation = random_trees("train", 2_000), random_trees("validation", 500)
    return Treebank(train, validation, random_trees("test", 500), (UNKNOWN, *SIGNED_WORDS))


@functools.cache
def sst(root: Path | None) -> Treebank:
    """The Stanford Sentiment Treebank in its standard split, 8,544 / 1,101 / 2,210 sentences.

    The vocabulary is of words that the training trees hold at least `RAREST` times, ascending by code point.
    """
    files: list[tuple[Path, list[str]]] = []
    for part in ("train", "dev", "test"):
        path = find_file(root, "sst", [f"trees/{part}.txt"], SST_HOME)
        files.append((path, text_of(path).removesuffix("\n").split("\n")))
    counts = Counter(word for line in files[0][1] for word in _words(line))
    vocabulary = (UNKNOWN, *sorted(word for word, count in counts.items() if count >= RAREST))
    ids = {word: i for i, word in enumerate(vocabulary)}
    train, validation, test = (
        tuple(parse_tree(line, ids, f"{path}, line {number}") for number, line in enumerate(lines, 1))
        for path, lines in files
    )
    return Treebank(train, validation, test, vocabulary)


def _words(line: str) -> Iterator[str]:
    tokens = TOKEN.findall(line[:LONGEST_LINE])
    return (word for word, end in pairwise(tokens) if end == ")" and word not in "()")
