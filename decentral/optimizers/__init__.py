"""Update rules, one file each, and schedules of the learning rate; these tables are all that knows them by name.

A rule is a frozen dataclass, a :class:`decentral.optimizers.rule.Rule`; its fields are its keys under ``[optimizer]``.
A schedule is a :class:`decentral.optimizers.schedules.Schedule`, likewise under ``[schedule]``; one that has
to know its run first is an :class:`decentral.optimizers.of_run.OfRun` too. Nothing imports torch.
"""

import importlib
import pkgutil
from typing import Any

from decentral.optimizers.decays import DECAYS
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import Schedule
from decentral.optimizers.seboost import SEBOOST
from topologies.places import all_loaded


class Rules(dict[str, type[Rule]]):
    """Rules by name. Of a path, "module:Class", which is not listed: what makes the rule of that torch optimizer."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and ":" in name)

    def __missing__(self, name: str) -> Any:
        if ":" not in name:
            raise KeyError(name)
        return pkgutil.resolve_name("decentral.optimizers.by_path:rule_of")(name)


OPTIMIZERS = Rules(
    all_loaded(
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
            "seboost": "decentral.optimizers.seboost:SEBOOST",
        }
    )
)
"""By name or path, as ``[optimizer] name = ...`` has it."""
SEBOOST.bases = OPTIMIZERS

SCHEDULES: dict[str, type[Schedule]] = DECAYS | all_loaded(
    {
        "linear-scaling": "decentral.optimizers.batch_scaling:LinearScaling",
        "legew": "decentral.optimizers.batch_scaling:LEGW",
        "autowu": "decentral.optimizers.autowu:AutoWU",
    }
)
"""By name, as ``[schedule] name = ...`` has it: those that go by the round alone, and those that go by their run."""
globals().update({kind.__name__: kind for kind in (*OPTIMIZERS.values(), *SCHEDULES.values())})


def __getattr__(name: str) -> Any:
    """:func:`decentral.optimizers.rescaling_hook.rescaled`, which needs torch, when it is first asked for."""
    if name == "rescaled":
        return importlib.import_module("decentral.optimizers.rescaling_hook").rescaled
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["OPTIMIZERS", "SCHEDULES", "Rule", "Schedule", "rescaled"]
