"""Asynchronous gossip: workers without rounds; one file, one method; this table is all that knows them by name.

A method is a frozen dataclass whose fields are its keys under ``[algorithm]`` in TOML, with ``traits`` and
``side(x, neighbourhood) -> Side``: what one worker does. That is arithmetic alone: the worker of a run makes a program
of it, which a driver runs, on the virtual clock or over MPI. Nothing of a method imports torch.
"""

from collections.abc import Callable

from decentral.algorithms.asynchronous.ad_psgd import ADPSGD
from decentral.algorithms.asynchronous.local_sgd import AsyncLocalSGD
from decentral.algorithms.asynchronous.push_sum import AsyncPushSum
from decentral.algorithms.asynchronous.side import AsynchronousMethod

ASYNCHRONOUS: dict[str, Callable[..., AsynchronousMethod]] = {
    "ad-psgd": ADPSGD,
    "async-push-sum": AsyncPushSum,
    "async-local-sgd": AsyncLocalSGD,
}

__all__ = ["ADPSGD", "ASYNCHRONOUS", "AsyncLocalSGD", "AsyncPushSum", "AsynchronousMethod"]
