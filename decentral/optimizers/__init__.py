"""Update rules, one file each, and schedules of the learning rate; these tables are all that knows them by name.

A rule is a frozen dataclass, a :class:`decentral.optimizers.rule.Rule`; its fields are its keys under ``[optimizer]``.
A schedule is a :class:`decentral.optimizers.schedules.Schedule`, likewise under ``[schedule]``; one that has
to know its run first is an :class:`decentral.optimizers.of_run.OfRun` too. Nothing imports torch.
"""

from typing import TYPE_CHECKING, Any

from decentral.optimizers.decays import DECAYS
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

SCHEDULES: dict[str, type[Schedule]] = DECAYS | all_loaded(
    {
        "linear-scaling": "decentral.optimizers.batch_scaling:LinearScaling",
        "legew": "decentral.optimizers.batch_scaling:LEGW",
        "autowu": "decentral.optimizers.autowu:AutoWU",
    }
)
"""By name, as ``[schedule] name = ...`` has it: those that go by the round alone, and those that go by their run."""
globals().update({kind.__name__: kind for kind in (*OPTIMIZERS.values(), *SCHEDULES.values())})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The class of a rule or a schedule can be imported from here."""


__all__ = ["OPTIMIZERS", "SCHEDULES", "Rule", "Schedule"]
