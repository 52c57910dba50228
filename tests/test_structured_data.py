"""Data whose instances differ in structure: lists, trees and graphs, by rules that are worked out here again."""

from __future__ import annotations

import os
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from decentral.errors import UserError
from decentral.problems.data import load_deductions, load_trees
from decentral.problems.data.babi import HAS_FEAR, IS_A, parse_stories, story_lines
from decentral.problems.data.list_reduction import PADDING, draw_lists, label, list_reduction
from decentral.problems.data.sentiment_trees import (
    NO_LABEL,
    Node,
    Treebank,
    parse_tree,
    random_trees,
)

ROOT = os.environ.get("DECENTRAL_DATA", "")
needs_files = [pytest.mark.data, pytest.mark.skipif(not ROOT, reason="DECENTRAL_DATA is not set")]


# lists


def mean(digits):
    return Fraction(sum(digits), len(digits)) if digits else Fraction(0)


def expected_label(operation, digits):
    result = [
        mean(digits),
        mean(digits[0::2]) - mean(digits[1::2]),
        Fraction(max(digits) - min(digits)),
        Fraction(len(digits)),
    ][operation - 10]
    nearest = max(k for k in range(-10, 20) if abs(k - result) <= Fraction(1, 2))  # of two, the upper
    return next(k for k in range(10) if (nearest - k) % 10 == 0)


@given(st.integers(10, 13), st.lists(st.integers(0, 9), min_size=1, max_size=9))
@settings(deadline=None)
def test_labels_are_those_of_exact_fractions(operation, digits):
    assert label([operation, *digits]) == expected_label(operation, digits)


@pytest.mark.parametrize(
    ("tokens", "answer"),
    [
        ([10, 2, 3], 3),  # 2.5; to even it were 2
        ([10, 0, 1], 1),  # 0.5; to even it were 0
        ([10, 1, 1, 2], 1),  # 4/3
        ([11, 7], 7),  # no digit at odd places: their mean is 0
        ([11, 0, 9], 1),  # -9
        ([11, 0, 2, 0, 3], 8),  # -2.5 to -2; away from zero it were -3, so 7
        ([11, 0, 0, 0, 1], 0),  # -0.5 to 0
        ([11, 0, 1, 0, 2], 9),  # -1.5 to -1
        ([12, 4], 0),
        ([12, 5, 0, 9], 9),
        ([13, 0, 0, 0], 3),
        ([13, *[1] * 10], 0),  # 10 mod 10
    ],
)
def test_the_conventions_of_list_reduction(tokens, answer):
    assert label(tokens) == answer


def test_drawn_instances_have_the_labels_of_their_tokens_and_padding_behind():
    lists = draw_lists("train", 2_000)
    assert {t.dtype for t in (lists.tokens, lists.lengths, lists.labels)} == {torch.int64}
    assert (len(lists), lists.tokens.shape) == (2_000, (2_000, 10))
    assert set(lists.lengths.tolist()) == set(range(2, 11))
    for i in range(len(lists)):
        instance = lists[i]
        operation, *digits = instance.tokens.tolist()
        assert len(digits) == lists.lengths[i] - 1
        assert set(digits) <= set(range(10))
        assert instance.label == lists.labels[i] == expected_label(operation, digits)
        assert (lists.tokens[i, lists.lengths[i] :] == PADDING).all()


def test_more_instances_go_on_where_fewer_stop_and_parts_are_streams_of_their_own():
    train, validation = list_reduction(300, 200)
    assert torch.equal(draw_lists("train", 100).tokens, train.tokens[:100])
    assert (len(train), len(validation)) == (300, 200)
    same = (train.tokens[:200] == validation.tokens).all(1)
    assert same.float().mean() < 0.02
    assert train[0].tokens.tolist() == [11, 6, 5, 9, 7]  # this data is the same in every version


def digit_sums(n):
    """P[sum of n uniform digits], exact up to rounding."""
    p = np.ones(1)
    for _ in range(n):
        p = np.convolve(p, np.full(10, 0.1))
    return p


def answer_probabilities(longest=9):
    """P[operation, label], (4, 10): from the laws of sums and of ranges, no sequence is drawn."""
    p = np.zeros((4, 10))
    for n in range(1, longest + 1):
        for total, q in enumerate(digit_sums(n)):
            p[0, expected_label(10, [Fraction(total, n)])] += q
        odd = max(n // 2, 1)
        q_odd = digit_sums(n // 2)
        for a, qa in enumerate(digit_sums((n + 1) // 2)):
            for b, qb in enumerate(q_odd):
                pair = [Fraction(a, (n + 1) // 2), Fraction(b, odd)]
                p[1, expected_label(11, pair)] += qa * qb
        p[2, 0] += 10 * 0.1**n
        for r in range(1, 10):
            p[2, r] += (10 - r) * ((r + 1) ** n - 2 * r**n + (r - 1) ** n) * 0.1**n
        p[3, n % 10] += 1
    return p / (4 * longest)


def test_operations_and_answers_come_as_often_as_their_laws_say():
    p = answer_probabilities()
    assert p.sum() == pytest.approx(1)
    lists = draw_lists("train", 20_000)
    cells = (lists.tokens[:, 0] - 10) * 10 + lists.labels
    found = np.bincount(cells.numpy(), minlength=40).reshape(4, 10)
    assert not found[p == 0].any()
    expected = 20_000 * p[p > 0]
    assert ((found[p > 0] - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(expected) - 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: label([]), "at least one digit"),
        (lambda: label([10]), "at least one digit"),
        (lambda: label([10, 11]), "digit 0 to 9"),
        (lambda: label([3, 4]), "token 3 is no operation"),
        (lambda: label([14, 4]), "token 14 is no operation"),
        (lambda: draw_lists("train", 0), "count = 0"),
        (lambda: draw_lists("train", 1, 0), "longest = 0"),
    ],
)
def test_what_is_no_list_is_refused(call, said):
    with pytest.raises(UserError, match=said):
        call()


# trees

words = st.text(st.characters(codec="utf-8", exclude_characters=" ()\n"), min_size=1, max_size=3)
labels = st.integers(0, 4)
nested = st.recursive(st.tuples(labels, words), lambda tree: st.tuples(labels, tree, tree), max_leaves=12)
"""(label, word) or (label, tree, tree)."""


def written(tree):
    return f"({tree[0]} {' '.join(map(written, tree[1:])) if len(tree) == 3 else tree[1]})"


def nest(tree, vocabulary, i=-1):
    """The nested form of a parsed tree, followed down from its root."""
    node = tree[i]
    if node.left < 0:
        assert node.right == -1
        return node.label, vocabulary[node.word]
    assert node.word == -1
    assert max(node.left, node.right) < i % len(tree)
    return node.label, nest(tree, vocabulary, node.left), nest(tree, vocabulary, node.right)


def leaf_words(tree):
    return [tree[1]] if len(tree) == 2 else leaf_words(tree[1]) + leaf_words(tree[2])


@pytest.mark.slow
@given(nested)
@settings(deadline=None)
def test_a_tree_that_is_written_and_read_is_the_same(tree):
    vocabulary = sorted(set(leaf_words(tree)))
    parsed = parse_tree(written(tree) + "\n", {word: i for i, word in enumerate(vocabulary)})
    assert len(parsed) == 2 * len(leaf_words(tree)) - 1
    assert nest(parsed, vocabulary) == tree
    assert [vocabulary[node.word] for node in parsed if node.left < 0] == leaf_words(tree)


def test_a_tree_by_hand():
    tree = parse_tree("(3 (2 It) (4 (1 not) (2 1\u00a01\\/2)))", {"It": 5, "1\u00a01\\/2": 7})
    assert tree == (
        Node(5, -1, -1, 2), Node(0, -1, -1, 1), Node(7, -1, -1, 2), Node(-1, 1, 2, 4), Node(-1, 0, 3, 3),
    )  # fmt: skip


def write_sst(root, train, dev="(2 a)\n", test="(2 a)\n"):
    (root / "sst" / "trees").mkdir(parents=True)
    for part, text in (("train", train), ("dev", dev), ("test", test)):
        (root / "sst" / "trees" / f"{part}.txt").write_bytes(text.encode("utf-8", "surrogateescape"))


def test_words_used_once_in_training_are_unknown_wherever_they_are(tmp_path):
    write_sst(
        tmp_path,
        "(3 (2 b) (2 B))\r\n(1 (1 b) (2 B))\n(0 (1 rare) (2 B))",
        "(4 (2 b) (2 new))\n",
        "(2 rare)\n",
    )
    bank = load_trees("sst", str(tmp_path))
    assert bank.vocabulary == ("<unknown>", "B", "b")
    assert [[node.word for node in tree] for tree in bank.train] == [[2, 1, -1], [2, 1, -1], [0, 1, -1]]
    assert [node.word for node in bank.validation[0] + bank.test[0]] == [2, 0, -1, 0]


def test_the_binary_view_drops_neutral_sentences_and_keeps_neutral_parts():
    trees = tuple(parse_tree(line, {}) for line in ("(3 (0 a) (2 b))", "(2 (4 a) (4 b))", "(0 (1 a) (4 b))"))
    bank = Treebank(trees, trees[1:2], (), ("<unknown>",))
    binary = bank.binary()
    assert [[node.label for node in tree] for tree in binary.train] == [[0, NO_LABEL, 1], [0, 1, 0]]
    assert (binary.validation, binary.test, binary.classes, bank.classes) == ((), (), 2, 5)
    assert binary.train[0][2] == Node(-1, 0, 1, 1)
    with pytest.raises(UserError, match="not of 2"):
        binary.binary()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "the end of the line"),
        ("(2 (1 a) (3 b)", "the end of the line"),
        ("(2 a))", r"'\)' outside"),
        ("(2 a) (2 b)", r"'\(2 b\)' outside"),
        ("a", "'a' outside"),
        ("(2 (5 a) (1 b))", r"'\(5 a\)'$"),
        ("(2 (-1 a) (1 b))", r"'\(-1 a\)'$"),
        ("(2 (1 a))", r"'\(2 \(1 a\)\)'$"),
        ("(2 (1 a) (1 b) (1 c))", r"\(1 c\)\)'$"),
        ("(2 (1 a b) (1 c))", r"'\(1 a b\)'$"),
        ("(2 (1 a) b)", r"'\(2 \(1 a\) b\)'$"),
        ("((1 a) 2 (1 b))", r"'\(\(1 a\) 2 \(1 b\)\)'$"),
        ("(2 )", r"'\(2 \)'$"),
    ],
)
def test_a_malformed_tree_is_named_by_file_and_line(tmp_path, line, found):
    write_sst(tmp_path, f"(2 a)\n{line}\n(1 b)\n")
    with pytest.raises(
        UserError, match=rf"train\.txt, line 2: expected one tree.*labels 0 to 4, found .*{found}"
    ):
        load_trees("sst", str(tmp_path))


def test_files_of_trees_that_are_not_there_or_no_text_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    with pytest.raises(UserError, match="DECENTRAL_DATA"):
        load_trees("sst")
    with pytest.raises(UserError, match=r"no file trees/train\.txt"):
        load_trees("sst", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'sst'"):
        load_trees("sts")
    write_sst(tmp_path, "(2 a)\n", "(2 \udcff)\n")
    with pytest.raises(UserError, match=r"dev\.txt: line 1 holds the byte 0xff, which is no UTF-8"):
        load_trees("sst", str(tmp_path))


def test_random_trees_have_the_labels_of_their_rule_and_the_size_asked_for():
    trees = random_trees("test", 1_000, 6)
    bag = 0
    for tree in trees:
        value = []
        for node in tree:
            value.append(
                node.word - 3 if node.left < 0 else np.clip(value[node.left] + value[node.right], -2, 2)
            )
            assert node.label == value[-1] + 2
        bag += np.clip(sum(node.word - 3 for node in tree if node.left < 0), -2, 2) == value[-1]
    sizes = [(len(tree) + 1) // 2 for tree in trees]
    assert set(sizes) == set(range(1, 12))
    error = np.sqrt((11**2 - 1) / 12 / len(trees))
    assert np.mean(sizes) == pytest.approx(6, abs=4 * error)
    assert bag < 950  # the words without the tree do not give the answer
    three = [tree[-1].left == 0 for tree in trees if len(tree) == 5]
    assert 0.25 < np.mean(three) < 0.75  # a root of three words splits after the first, or after the second
    assert random_trees("test", 10, 6) == trees[:10]
    assert random_trees("train", 10, 6) != trees[:10]
    assert Counter(len(tree) for tree in random_trees("test", 5, 1)) == {1: 5}


def test_the_embedded_trees_use_their_whole_vocabulary():
    bank = load_trees()
    assert (len(bank.train), len(bank.validation), len(bank.test), bank.classes) == (2_000, 500, 500, 5)
    used = {node.word for tree in bank.train for node in tree if node.left < 0}
    assert used == set(range(1, len(bank.vocabulary)))
    assert {bank.vocabulary[node.word]: node.label for tree in bank.train for node in tree if node.left < 0} == {
        "-2": 0, "-1": 1, "+0": 2, "+1": 3, "+2": 4,
    }  # fmt: skip
    assert load_trees() is bank


class TestStanfordSentimentTreebank:
    pytestmark = needs_files

    @pytest.mark.slow
    def test_the_counts_are_those_of_its_description(self):
        bank = load_trees("sst")
        parts = (bank.train, bank.validation, bank.test)
        assert [[sum(tree[-1].label == k for tree in part) for k in range(5)] for part in parts] == [
            [1092, 2218, 1624, 2322, 1288], [139, 289, 229, 279, 165], [279, 633, 389, 510, 399],
        ]  # fmt: skip
        assert [sum(map(len, part)) for part in parts] == [318_582, 41_447, 82_600]
        binary = bank.binary()
        parts = (binary.train, binary.validation, binary.test)
        assert [[sum(tree[-1].label == k for tree in part) for k in (1, 0)] for part in parts] == [
            [3610, 3310], [444, 428], [909, 912],
        ]  # fmt: skip

    def test_writing_the_trees_gives_the_file(self):
        lines = Path(ROOT, "sst", "trees", "dev.txt").read_text(encoding="utf-8").splitlines()
        for line in lines[:200]:
            vocabulary = sorted(set(re.findall(r"([^ ()]+)\)", line)))
            tree = parse_tree(line, {word: i for i, word in enumerate(vocabulary)})
            assert written(nest(tree, vocabulary)) == line


# deductions


def two_hops(question):
    """The node reached by "is a" and then "has fear"; both steps have to be the only ones."""
    at = question.start
    for kind in (IS_A, HAS_FEAR):
        (at,) = [end for start, edge, end in question.edges if (start, edge) == (at, kind)]
    return at


STORY = [
    "1 Mice are afraid of wolves.",
    "2 Gertrude is a mouse.",
    "3 What is gertrude afraid of?\twolf\t2 1",
    "4 Wolves are afraid of sheep.",
    "5 Emily is a wolf.",
    "6 What is emily afraid of? \tsheep\t5 4",
    "1 Sheep are afraid of cats.",
    "2 Emily is a sheep.",
    "3 What is emily afraid of?\tcat\t2 1",
]


def test_a_story_by_hand_becomes_graphs_of_what_was_said_before():
    first, second, third = parse_stories(STORY)
    assert first.nodes == ("mouse", "wolf", "gertrude")
    assert first.edges == ((0, HAS_FEAR, 1), (2, IS_A, 0))
    assert (first.start, first.answer, first.supporting) == (2, 1, (1, 0))
    assert second.nodes == ("mouse", "wolf", "gertrude", "sheep", "emily")
    assert second.edges == (*first.edges, (1, HAS_FEAR, 3), (4, IS_A, 1))
    assert (second.start, second.answer, second.supporting) == (4, 3, (3, 2))
    assert third.nodes == ("sheep", "cat", "emily")
    assert third.edges == ((0, HAS_FEAR, 1), (2, IS_A, 0))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "line number 3, or 1"),
        ("4 Emily is a cat.", "line number 3, or 1"),
        ("Emily is a cat.", "line number 3, or 1"),
        ("3 Emily is a dog.", "a rule, a fact or a question"),
        ("3 Emily is a mice.", "a rule, a fact or a question"),
        ("3 Mouse are afraid of cats.", "a rule, a fact or a question"),
        ("3 Mice are afraid of cats", "a rule, a fact or a question"),
        ("3 What is gertrude afraid of?", "a rule, a fact or a question"),
        ("3 What is gertrude afraid of?\twolf\t", "a rule, a fact or a question"),
        ("3 caf\u00e9 is a cat.", "a rule, a fact or a question"),
        ("3 What is emily afraid of?\twolf\t2 1", "the story has had before"),
        ("3 What is gertrude afraid of?\tcat\t2 1", "the story has had before"),
        ("3 What is gertrude afraid of?\twolf\t2 3", "the story has had before"),
    ],
)
def test_a_malformed_story_is_named_by_file_and_line(tmp_path, line, expected):
    for part, lines in (("train", STORY), ("test", [*STORY[:2], line, *STORY[3:]])):
        path = tmp_path / "babi" / "en" / f"qa15_basic-deduction_{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"deduction_test\.txt, line 3: expected .*{expected}.*, found '"):
        load_deductions("babi15", str(tmp_path))


def test_letters_that_only_fold_to_ascii_are_refused():
    with pytest.raises(UserError, match="stories, line 1: expected a rule"):
        parse_stories(["1 \u017fheep are afraid of cats."])  # a long s, whose upper case is S


def test_deductions_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file en-10k/qa15_basic-deduction_train\.txt"):
        load_deductions("babi15-10k", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'babi15'"):
        load_deductions("babi16")


def check(questions):
    """Whatever the source: four persons, four species, eight edges, and two steps that the supporting edges are."""
    for question in questions:
        assert (len(question.nodes), len(question.edges)) == (8, 8)
        assert sorted(kind for _, kind, _ in question.edges) == [IS_A] * 4 + [HAS_FEAR] * 4
        assert all(start != end for start, _, end in question.edges)
        assert two_hops(question) == question.answer
        fact, rule = (question.edges[i] for i in question.supporting)
        assert fact == (question.start, IS_A, rule[0])
        assert rule == (fact[2], HAS_FEAR, question.answer)


def test_generated_stories_are_answered_by_two_steps_and_vary():
    data = load_deductions()
    assert (len(data.train), len(data.test)) == (1_000, 1_000)
    assert list(story_lines("train", 2)) == list(story_lines("train", 5))[:24]
    assert list(story_lines("train", 2)) != list(story_lines("test", 2))
    check(data.train + data.test)
    asked = Counter(question.nodes[question.start] for question in data.train)
    found = np.array(list(asked.values()))
    assert len(found) == 4
    assert ((found - 250) ** 2 / 250).sum() < chi2.ppf(0.999, 3)
    species = {"cat", "mouse", "sheep", "wolf"}
    stories = data.train[::4]
    fears = Counter((q.nodes[a], q.nodes[b]) for q in stories for a, kind, b in q.edges if kind == HAS_FEAR)
    assert set(fears) == {(a, b) for a in species for b in species - {a}}
    expected = 4 * 250 / 12
    # each species fears once a story, so one of the twelve counts in each row of three is not free
    assert sum((count - expected) ** 2 / expected for count in fears.values()) < chi2.ppf(0.999, 8)
    assert {q.nodes[q.answer] for q in data.train} == species


@pytest.mark.data
@pytest.mark.skipif(not ROOT, reason="DECENTRAL_DATA is not set")
def test_babi_15_counts_are_those_of_its_description_and_two_steps_answer_all():
    def answers(questions):
        return Counter(question.nodes[question.answer] for question in questions)

    small, large = load_deductions("babi15"), load_deductions("babi15-10k")
    assert answers(small.train) == {"wolf": 216, "cat": 290, "sheep": 242, "mouse": 252}
    assert answers(small.test) == {"wolf": 341, "mouse": 239, "cat": 213, "sheep": 207}
    assert answers(large.train) == {"wolf": 2383, "cat": 2615, "sheep": 2462, "mouse": 2540}
    assert large.test == small.test
    check(small.train + small.test + large.train)
