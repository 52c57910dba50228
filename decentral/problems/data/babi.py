"""bAbI task 15, basic deduction: stories as graphs, and questions answered by two steps along their edges.

A story is numbered lines of text: rules ("Mice are afraid of wolves."), facts ("Emily is a mouse.") and questions
("What is emily afraid of?", tab, "wolf", tab, the numbers of the fact's and the rule's line). Nodes are persons and
species, these by their singular; the fact is an edge from emily to mouse, the rule one from mouse to wolf.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file, text_of
from topologies.streams import stream
from topologies.wording import shown

BABI_HOME = "https://research.facebook.com/downloads/babi/"
IS_A, HAS_FEAR = range(2)
PERSONS = ("Emily", "Gertrude", "Jessica", "Winona")
PLURALS = {"cat": "cats", "mouse": "mice", "sheep": "sheep", "wolf": "wolves"}
SINGULARS = {plural: singular for singular, plural in PLURALS.items()}

ONE, MANY = f"({'|'.join(PLURALS)})", f"({'|'.join(SINGULARS)})"
CASELESS = re.IGNORECASE | re.ASCII
RULE = re.compile(rf"{MANY} are afraid of {MANY}\.", CASELESS)
FACT = re.compile(rf"([a-z]+) is a {ONE}\.", CASELESS)
QUESTION = re.compile(rf"what is ([a-z]+) afraid of\? ?\t{ONE}\t([0-9]{{1,9}}(?: [0-9]{{1,9}})*)", CASELESS)


@dataclass(frozen=True)
class Deduction:
    """One question, and the graph of what its story says before it.

    ``nodes``: names in lower case, by first mention. ``edges``: (source, type, target) by line, nodes as indices,
    types `IS_A` and `HAS_FEAR`. ``start``: the node asked about. ``answer``: the node to find. ``supporting``: indices
    of the edges that lead there.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, int], ...]
    start: int
    answer: int
    supporting: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Deductions:
    """Questions by part, in the order of the text."""

    train: tuple[Deduction, ...]
    test: tuple[Deduction, ...]


def parse_stories(lines: Iterable[str], where: str = "stories") -> tuple[Deduction, ...]:
    """All questions in ``lines``; line number 1 opens a story.

    Raises UserError with ``where``, the line and what was expected there: the next number, one of the three sentences,
    and in a question only names and lines of facts and rules that its story has had before.
    """
    questions: list[Deduction] = []
    number, nodes, edges = 0, dict[str, int](), dict[int, tuple[int, int, int]]()
    for place, line in enumerate(lines, 1):
        head, _, sentence = line.rstrip("\r\n").partition(" ")
        if head == "1":
            number, nodes, edges = 0, {}, {}
        number += 1
        try:
            if head != str(number):
                raise ValueError(f"line number {number}, or 1 for a new story")
            if asked := QUESTION.fullmatch(sentence):
                questions.append(_question(asked, nodes, edges))
            else:
                source, kind, target = _statement(sentence)
                start, end = (nodes.setdefault(name, len(nodes)) for name in (source, target))
                edges[number] = (start, kind, end)
        except ValueError as expected:
            raise UserError(
                f"{where}, line {place}: expected {expected}, found {shown(line.rstrip())}"
            ) from None
    return tuple(questions)


def story_lines(part: str, stories: int) -> Iterator[str]:
    """Lines of the first ``stories`` stories of the stream (0, "deductions", part), in the form of bAbI's files.

    Each species fears one other, each of four persons is of one species, all uniform; these eight lines come in uniform
    order, then four questions, each about a uniform person.
    """
    draw = stream(0, "deductions", part)
    species, plurals = tuple(PLURALS), tuple(PLURALS.values())
    for _ in range(stories):
        fears = [(i + int(draw.integers(1, 4))) % 4 for i in range(4)]
        kinds = draw.integers(4, size=4).tolist()
        rules = [f"{plurals[i].capitalize()} are afraid of {plurals[fears[i]]}." for i in range(4)]
        facts = [f"{person} is a {species[kind]}." for person, kind in zip(PERSONS, kinds, strict=True)]
        order = draw.permutation(8).tolist()
        yield from (f"{n} {(rules + facts)[i]}" for n, i in enumerate(order, 1))
        for n, i in enumerate(draw.integers(4, size=4).tolist(), 9):
            lines = f"{1 + order.index(4 + i)} {1 + order.index(kinds[i])}"
            yield f"{n} What is {PERSONS[i].lower()} afraid of?\t{species[fears[kinds[i]]]}\t{lines}"


@functools.cache
def generated(root: Path | None = None) -> Deductions:
    """Stories of `story_lines`: 250 for training and 250 for testing, four questions each."""
    del root
    return Deductions(parse_stories(story_lines("train", 250)), parse_stories(story_lines("test", 250)))


@functools.cache
def babi15(root: Path | None, folder: str = "en") -> Deductions:
    """bAbI's folder ``en`` with 1,000 questions for training, or ``en-10k`` with 10,000; the same 1,000 for testing."""

    def questions(part: str) -> tuple[Deduction, ...]:
        path = find_file(root, "babi", [f"{folder}/qa15_basic-deduction_{part}.txt"], BABI_HOME)
        return parse_stories(text_of(path).removesuffix("\n").split("\n"), str(path))

    return Deductions(questions("train"), questions("test"))


babi15_10k = functools.partial(babi15, folder="en-10k")


def _statement(sentence: str) -> tuple[str, int, str]:
    if rule := RULE.fullmatch(sentence):
        source, target = (SINGULARS[word.lower()] for word in rule.groups())
        return source, HAS_FEAR, target
    if fact := FACT.fullmatch(sentence):
        return fact[1].lower(), IS_A, fact[2].lower()
    raise ValueError(f"a rule, a fact or a question of bAbI task 15 on {', '.join(PLURALS.values())}")


def _question(
    asked: re.Match[str], nodes: dict[str, int], edges: dict[int, tuple[int, int, int]]
) -> Deduction:
    start, answer = (nodes.get(asked[group].lower()) for group in (1, 2))
    support = [int(line) for line in asked[3].split()]
    if start is None or answer is None or not edges.keys() >= set(support):
        raise ValueError("names, and numbers of rules and facts, that the story has had before")
    places = tuple(list(edges).index(line) for line in support)
    return Deduction(tuple(nodes), tuple(edges.values()), start, answer, places)
