"""Who chooses the samples that are worth a gradient: assistants by name, a file each. Settings import no torch."""

from decentral.problems.assistants.assistant import Assistant
from topologies.places import all_loaded

ASSISTANTS: dict[str, type[Assistant]] = all_loaded(
    {
        "logistic": "decentral.problems.assistants.logistic:Logistic",
        "margin": "decentral.problems.assistants.margin:Margin",
        "none": "decentral.problems.assistants.nobody:Nobody",
    }
)
"""By name, as ``[assistant] name = ...`` has it."""

__all__ = ["ASSISTANTS", "Assistant"]
