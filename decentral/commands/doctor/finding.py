"""What is told of one thing that `decentral doctor` has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its state, what was seen, and what to do about it ('' if nothing)."""

    topic: str
    state: State
    text: str
    remedy: str = ""
