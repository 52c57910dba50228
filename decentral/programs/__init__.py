"""Programs: what each stage of a network does, one file a paper. Both drivers run the same text."""

from typing import Any

from decentral.programs.backprop import BackProp
from decentral.programs.gpipe import GPipe
from decentral.programs.interlocking import Interlocking
from decentral.programs.local import Local
from decentral.programs.one_forward_one_backward import OneForwardOneBackward

PROGRAMS: dict[str, type[Any]] = {
    "backprop": BackProp,
    "gpipe": GPipe,
    "1f1b": OneForwardOneBackward,
    "local": Local,
    "interlocking": Interlocking,
}
"""By name, as ``[program] name = ...`` has it."""

__all__ = ["PROGRAMS", "BackProp", "GPipe", "Interlocking", "Local", "OneForwardOneBackward"]
