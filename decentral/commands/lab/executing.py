"""``decentral lab exec``: any command in a lab, in which ``mpirun`` spreads ranks over the nodes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from decentral.commands.lab.asked import Asked
from decentral.commands.lab.making import lab, say
from decentral.network.lab.layout import Layout


def execute(asked: Asked, command: Sequence[str]) -> int:
    """The exit code of ``command``, or of a shell."""
    made = lab(Layout(asked.cluster()))
    return made.around(command or [os.environ.get("SHELL", "sh")], _tell)


def _tell(sent: dict[str, int]) -> None:
    say("cards sent " + ", ".join(f"{name} {size:,} B" for name, size in sent.items()))
