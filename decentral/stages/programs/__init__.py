"""Programs: what each stage of a network does, one file a paper. Both drivers run the same text."""

from typing import TYPE_CHECKING, Any

from decentral.stages.program import StageProgram
from topologies.places import all_loaded

PROGRAMS: dict[str, type[StageProgram]] = all_loaded(
    {
        "backprop": "decentral.stages.programs.backprop:BackProp",
        "gpipe": "decentral.stages.programs.gpipe:GPipe",
        "1f1b": "decentral.stages.programs.one_forward_one_backward:OneForwardOneBackward",
        "groups": "decentral.stages.programs.groups:Groups",
        "local": "decentral.stages.programs.local:Local",
        "interlocking": "decentral.stages.programs.interlocking:Interlocking",
        "last-layers": "decentral.stages.programs.last_layers:LastLayers",
        "decoupled": "decentral.stages.programs.decoupled:Decoupled",
        "stale-pipeline": "decentral.stages.programs.stale_pipeline:StalePipeline",
        "penalty": "decentral.stages.programs.penalty:Penalty",
        "augmented-lagrangian": "decentral.stages.programs.penalty:AugmentedLagrangian",
        "block-admm": "decentral.stages.programs.block_admm:BlockADMM",
    }
)
"""By name, as ``[program] name = ...`` has it."""
globals().update({program.__name__: program for program in PROGRAMS.values()})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A program's class can be imported from here."""


__all__ = ["PROGRAMS", "StageProgram"]
