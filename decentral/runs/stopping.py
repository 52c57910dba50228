"""Signals that ask a command to end: SIGINT, SIGTERM and SIGUSR1 (Slurm sends the last two before its time is up).

The first one raises :class:`Stopped` where the command is; rounds of workers, which can leave a checkpoint, put that
off to the end of a round (:func:`put_off`). A second signal ends the process at once, and so does the first when
nothing has come of it in time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

PATIENCE_S = {signal.SIGINT: 3.0, signal.SIGTERM: 20.0, signal.SIGUSR1: 20.0}
"""The signals, and for how long the end of a round is waited for."""
_TWICE_S = (
    0.2  # two signals within this time are one: launchers and timeout(1) send theirs to the group as well
)
_CLOSING_S = 10.0  # between Stopped and the end of the process


class Stopped(KeyboardInterrupt):
    """This process was asked to end, by the signal ``number``; ``by_all``: and every rank knows it.

    ``rank``: of the one that had the signal, where not all had it.
    """

    def __init__(self, number: int, by_all: bool = False, rank: int | None = None) -> None:
        super().__init__(number)
        self.number, self.by_all, self.rank = signal.Signals(number), by_all, rank


class _State:
    """Of this process: the signal that came (0: none) and when; whether it is put off."""

    asked, at_s, is_put_off = 0, 0.0, False


_state = _State()


def asked() -> int:
    """The number of the signal that has come, 0 if none has."""
    return _state.asked


def stop_if(numbers: Sequence[int]) -> None:
    """Raise :class:`Stopped` where a signal of some rank asks for it; ``numbers``: of all ranks, on each, 0 is none."""
    if number := max(numbers):
        raise Stopped(number, True, None if all(numbers) else numbers.index(number))


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as a shell counts: 130, 143, 138."""
    return 128 + signal_of(error)


def words(error: KeyboardInterrupt) -> str:
    """How a message begins: "interrupted", or by which signal."""
    number, rank = signal_of(error), getattr(error, "rank", None)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    return said if rank is None else f"{said} of rank {rank}"


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """The signal; a plain KeyboardInterrupt is SIGINT's."""
    return error.number if isinstance(error, Stopped) else signal.SIGINT


def is_known_to_all(error: KeyboardInterrupt) -> bool:
    """Whether all ranks end for this signal, each by itself."""
    return isinstance(error, Stopped) and error.by_all


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, the signals do what this file says. Those that are ignored from the start stay so (nohup, ``cmd &``)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.asked, _state.is_put_off = 0, False
    heard = [number for number in PATIENCE_S if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal) for number in heard}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _on_alarm)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _state.asked = 0
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Inside, a signal is only noted, for :func:`asked`, until its patience is at an end."""
    _state.is_put_off = True
    try:
        yield
    finally:
        _state.is_put_off = False


def _on_signal(number: int, _: FrameType | None) -> None:
    now_s = time.monotonic()
    if _state.asked:
        if now_s - _state.at_s < _TWICE_S:
            return
        _end_now()
    _state.asked, _state.at_s = number, now_s
    if _state.is_put_off:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S[signal.Signals(number)])
        return
    signal.setitimer(signal.ITIMER_REAL, _CLOSING_S)
    raise Stopped(number)


def _on_alarm(*_: object) -> None:
    if not _state.is_put_off:
        _end_now()
    _state.is_put_off = False
    signal.setitimer(signal.ITIMER_REAL, _CLOSING_S)
    raise Stopped(_state.asked)


def _end_now() -> None:
    name = signal.Signals(_state.asked).name
    with contextlib.suppress(OSError):
        os.write(2, f"\ndecentral: ended at once, after a second signal or none of the first ({name}) had an end; "
                 "the same command with --resume goes on from the last checkpoint\n".encode())  # fmt: skip
    os._exit(128 + _state.asked)
