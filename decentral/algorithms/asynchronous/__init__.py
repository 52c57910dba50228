"""Asynchronous gossip: workers without rounds; one file, one method; this table is all that knows them by name.

A method is a frozen dataclass whose fields are its keys under ``[algorithm]`` in TOML, with ``traits`` and
``side(x, neighbourhood) -> Side``: what one worker does. That is arithmetic alone: the worker of a run makes a program
of it, which a driver runs, on the virtual clock or over MPI. Nothing of a method imports torch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decentral.algorithms.asynchronous.side import AsynchronousMethod
from topologies.places import all_loaded

ASYNCHRONOUS: dict[str, Callable[..., AsynchronousMethod]] = all_loaded(
    {
        "ad-psgd": "decentral.algorithms.asynchronous.ad_psgd:ADPSGD",
        "async-push-sum": "decentral.algorithms.asynchronous.push_sum:AsyncPushSum",
        "async-local-sgd": "decentral.algorithms.asynchronous.local_sgd:AsyncLocalSGD",
    }
)
globals().update({method.__name__: method for method in ASYNCHRONOUS.values()})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A method's class can be imported from here."""


__all__ = ["ASYNCHRONOUS", "AsynchronousMethod"]
