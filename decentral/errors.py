"""The one kind of error that is the user's to repair: one line, exit code 2, nothing written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import accumulate

from topologies.wording import LONGEST_VALUE, one_line


class UserError(ValueError):
    """A value the user gave breaks a rule; the message names the value, the rule and the remedy.

    It is one line of less than 300 characters, whatever it is made of; a value in it is best written by
    :func:`topologies.wording.shown`, so that the rule and the remedy are not what is cut.
    """

    code = 2
    """The exit code of a process that ends so."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class AgreedError(UserError):
    """A mistake that all ranks know of: each ends by itself, and rank 0 says why."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def nearest(name: str, valid: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest valid name, else the list of valid names, or its beginning."""
    names = sorted(valid)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    room = accumulate((len(each) + 2 for each in names), initial=0)
    few = [each for each, before in zip(names, room, strict=False) if before < 2 * LONGEST_VALUE]
    return f"valid: {', '.join(few)}" + (f", and {rest} more" if (rest := len(names) - len(few)) else "")
