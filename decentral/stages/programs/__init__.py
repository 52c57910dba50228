"""Programs: what each stage of a network does, one file a paper. Both drivers run the same text."""

from typing import Any

from decentral.stages.programs.backprop import BackProp
from decentral.stages.programs.block_admm import BlockADMM
from decentral.stages.programs.decoupled import Decoupled
from decentral.stages.programs.gpipe import GPipe
from decentral.stages.programs.interlocking import Interlocking
from decentral.stages.programs.last_layers import LastLayers
from decentral.stages.programs.local import Local
from decentral.stages.programs.one_forward_one_backward import OneForwardOneBackward
from decentral.stages.programs.penalty import AugmentedLagrangian, Penalty
from decentral.stages.programs.stale_pipeline import StalePipeline

PROGRAMS: dict[str, type[Any]] = {
    "backprop": BackProp,
    "gpipe": GPipe,
    "1f1b": OneForwardOneBackward,
    "local": Local,
    "interlocking": Interlocking,
    "last-layers": LastLayers,
    "decoupled": Decoupled,
    "stale-pipeline": StalePipeline,
    "penalty": Penalty,
    "augmented-lagrangian": AugmentedLagrangian,
    "block-admm": BlockADMM,
}
"""By name, as ``[program] name = ...`` has it."""

__all__ = [
    "PROGRAMS",
    "AugmentedLagrangian",
    "BackProp",
    "BlockADMM",
    "Decoupled",
    "GPipe",
    "Interlocking",
    "LastLayers",
    "Local",
    "OneForwardOneBackward",
    "Penalty",
    "StalePipeline",
]
