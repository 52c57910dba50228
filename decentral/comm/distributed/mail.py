"""Values from rank to rank by the store at which they met: few and small, as news and copies to measure are."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decentral.comm.distributed.requests import Request, lost


class Mail:
    """Letter n to a rank under a tag has the key RANK/TAG/n, whoever sends it; ``store``: torch's, of these ranks."""

    def __init__(self, store: Any, rank: int) -> None:
        self._store, self._rank = store, rank
        self._read: Counter[int] = Counter()  # by tag

    def send(self, value: Any, rank: int, tag: int) -> Request:
        """On its way when this returns."""
        with _reaching():
            number = self._store.add(f"{rank}/{tag}", 1) - 1
            self._store.set(f"{rank}/{tag}/{number}", pickle.dumps(value))
        return Request()

    def is_there(self, tag: int) -> bool:
        """Whether a letter has come."""
        with _reaching():
            there: bool = self._store.check([self._next(tag)])
        return there

    def take(self, tag: int) -> Any:
        """The next letter, which must be there."""
        with _reaching():
            letter = self._store.get(self._next(tag))
            self._store.delete_key(self._next(tag))
        self._read[tag] += 1
        return pickle.loads(letter)

    def _next(self, tag: int) -> str:
        return f"{self._rank}/{tag}/{self._read[tag]}"


@contextmanager
def _reaching() -> Iterator[None]:
    """The store is a part of rank 0, and ends with it."""
    try:
        yield
    except RuntimeError as error:
        lost(error)
