"""Layer parallelism: a network cut into stages, programs that say what a stage does, and drivers that grant it."""

from decentral.stages.clock import VirtualClock
from decentral.stages.requests import (
    Channel,
    Compute,
    DeadlockError,
    Done,
    NonFiniteError,
    Program,
    Recv,
    RecvAny,
    Request,
    Send,
    StageError,
)
from decentral.stages.trace import Span, Trace

__all__ = [
    "Channel",
    "Compute",
    "DeadlockError",
    "Done",
    "NonFiniteError",
    "Program",
    "Recv",
    "RecvAny",
    "Request",
    "Send",
    "Span",
    "StageError",
    "Trace",
    "VirtualClock",
]
