"""Programs that ask to send, receive and compute, the two drivers that grant it, and what they did when."""

from decentral.runtime.clock import VirtualClock
from decentral.runtime.requests import (
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
from decentral.runtime.trace import Span, Trace

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
