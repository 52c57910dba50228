"""Update rules, one file each, and schedules of the learning rate; these tables are all that knows them by name.

A rule is a frozen dataclass, a :class:`decentral.optimizers.rule.Rule`; its fields are its keys under ``[optimizer]``.
A schedule is a :class:`decentral.optimizers.schedules.Schedule`, likewise under ``[schedule]``. Nothing imports torch.
"""

from typing import TYPE_CHECKING, Any

from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from topologies.places import all_loaded

OPTIMIZERS: dict[str, type[Rule]] = all_loaded(
    {
        "sgd": "decentral.optimizers.sgd:SGD",
        "adam": "decentral.optimizers.adam:Adam",
        "adamw": "decentral.optimizers.adam:AdamW",
        "lars": "decentral.optimizers.lars:LARS",
        "larc": "decentral.optimizers.lars:LARC",
        "lamb": "decentral.optimizers.lamb:LAMB",
        "lambc": "decentral.optimizers.lamb:LAMBC",
        "novograd": "decentral.optimizers.novograd:NovoGrad",
        "rsg": "decentral.optimizers.rsg:RSG",
        "arsg": "decentral.optimizers.rsg:ARSG",
        "nlcg": "decentral.optimizers.nlcg:NLCG",
        "muon": "decentral.optimizers.muon:Muon",
    }
)
"""By name, as ``[optimizer] name = ...`` has it."""

SCHEDULES: dict[str, type[Schedule]] = all_loaded(
    {
        "constant": "decentral.optimizers.schedules:Constant",
        "step": "decentral.optimizers.schedules:Step",
        "cosine": "decentral.optimizers.schedules:Cosine",
    }
)
"""By name, as ``[schedule] name = ...`` has it."""
globals().update({kind.__name__: kind for kind in (*OPTIMIZERS.values(), *SCHEDULES.values())})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The class of a rule or a schedule can be imported from here."""


__all__ = ["OPTIMIZERS", "SCHEDULES", "Rule", "Schedule"]
