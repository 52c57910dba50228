"""A value or a text as a message may hold it: short, on one line, in characters that any terminal shows."""

from __future__ import annotations

import re
import reprlib

LONGEST_VALUE, LONGEST_LINE = 80, 280
"""Characters at most of a value inside a message, and of a message: its line, with who says it, stays below 300."""

_CUT = "..."
_short = reprlib.Repr()
_short.maxlevel, _short.maxdict = 4, 4
_short.maxstring = _short.maxlong = _short.maxother = LONGEST_VALUE


def shown(value: object) -> str:
    """``repr(value)`` in at most 80 characters, its middle cut out; cheap for a value of any size and depth."""
    try:
        text = _short.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"<{type(value).__name__} that is too long to be written>"
    return cut(_escaped(text), LONGEST_VALUE)


def one_line(text: str) -> str:
    """``text`` on one line of at most 280 characters: control characters escaped, the longest words cut first."""
    words = _escaped(" ".join(text[:100_000].split())).split(" ")
    while sum(map(len, words)) + len(words) - 1 > LONGEST_LINE:
        longest = max(
            range(len(words)), key=lambda i: len(words[i]) * ("://" not in words[i])
        )  # not the remedy
        if len(words[longest]) <= LONGEST_VALUE:
            break
        words[longest] = cut(words[longest], LONGEST_VALUE)
    return cut(" ".join(words), LONGEST_LINE)


def reason(error: BaseException) -> str:
    """Why a library's parser failed on a file of a user, in words that fit a message about the file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    text = " ".join(str(error).split())
    if text.startswith("Exceeds the limit"):  # Python's own words for integers, with a remedy in Python
        return "it holds an integer of more than 4,300 digits"
    if isinstance(error, ValueError | OSError) or (text and type(error).__module__ != "builtins"):
        return text or type(error).__name__
    return f"it is damaged ({type(error).__name__})"


def cut(text: str, most: int) -> str:
    """``text``, or where it is longer its first two thirds and its end, in ``most`` characters."""
    if len(text) <= most:
        return text
    end = (most - len(_CUT)) // 3
    return text[: most - len(_CUT) - end] + _CUT + text[-end:]


def _escaped(text: str) -> str:
    """Control characters, halves of surrogate pairs and marks of direction as Python would write them."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda found: found[0].encode("unicode_escape").decode("ascii"),
        text,
    )
