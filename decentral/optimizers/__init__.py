"""Update rules, one file each, and schedules of the learning rate; this table is all that knows the rules by name.

A rule is a frozen dataclass, a :class:`decentral.optimizers.rule.Rule`; its fields are its keys under ``[optimizer]``.
Nothing here imports torch.
"""

from decentral.optimizers.adam import Adam, AdamW
from decentral.optimizers.rule import Rule
from decentral.optimizers.schedules import SCHEDULES
from decentral.optimizers.sgd import SGD

OPTIMIZERS: dict[str, type[Rule]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""By name, as ``[optimizer] name = ...`` has it."""

__all__ = ["OPTIMIZERS", "SCHEDULES", "SGD", "Adam", "AdamW", "Rule"]
