"""The one kind of error that is the user's to repair: one line, exit code 2, nothing written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A value the user gave breaks a rule; the message names the value, the rule and the remedy."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest valid name, else the list of valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names)}"
