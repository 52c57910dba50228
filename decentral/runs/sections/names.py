"""Where the names are that sections of several kinds of run choose from, for :class:`decentral.runs.kind.Named`."""

PROBLEMS = "decentral.problems:PROBLEMS"
METHODS = "decentral.algorithms:ALGORITHMS"
# for the kinds that a method's name chooses between, so that a mistyped one is looked for on both shelves
ALL_METHODS = f"{METHODS} decentral.algorithms.asynchronous:ASYNCHRONOUS"
OPTIMIZERS = "decentral.optimizers:OPTIMIZERS"
SCHEDULES = "decentral.optimizers:SCHEDULES"
