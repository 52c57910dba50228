"""Which line of a LIBSVM text is wrong, and why: scikit-learn's parser does not say."""

from __future__ import annotations

import re
from pathlib import Path

from topologies.wording import shown

_FEATURE = re.compile(r"([0-9]{1,40}):([^:]{1,400})")
_LARGEST = 3.4028234e38
"""Of float32."""


def first_wrong_line(path: Path, features: int) -> str:
    """The first line that is no example of ``features`` features at most, in words; "" where there is none."""
    with path.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split("#")[0].split()
            if words and (why := _label(words[0]) or _features(words[1:], features)):
                return f"line {number} is {shown(line.strip())}: {why}"
    return ""


def _label(word: str) -> str:
    return "" if _number(word) in (-1, 1) else "expected the label -1 or +1 first"


def _features(words: list[str], features: int) -> str:
    last = 0
    for word in words:
        found = _FEATURE.fullmatch(word)
        value = _number(found[2]) if found else None
        if found is None or value is None:
            return "expected index:value after the label"
        index = int(found[1])
        if not 0 < index <= features:
            return f"Invalid index {index}, indices are 1 to {features}"
        if index <= last:
            return f"index {index} follows {last}, indices ascend"
        if not abs(value) <= _LARGEST:
            return f"the value {shown(found[2])} is not finite in float32"
        last = index
    return ""


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
