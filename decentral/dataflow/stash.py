"""Old parameters, for the backward passes of messages whose forward passes had them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


class Stash:
    """A copy of the parameters for each version that messages under way have seen."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.versions: dict[int, list[Tensor]] = {}
        self.messages: Counter[int] = Counter()  # under way, by version

    def keep(self, version: int, messages: int) -> None:
        """The parameters as they are, for so many messages."""
        if version not in self.versions:
            self.versions[version] = [p.detach().clone() for p in self.parameters]
        self.messages[version] += messages

    def forget(self, versions: Iterable[int]) -> None:
        """Messages of these versions, one each, have come back."""
        self.messages.subtract(versions)
        for version in [version for version, many in self.messages.items() if not many]:
            del self.messages[version], self.versions[version]

    @contextmanager
    def weights_of(self, version: int) -> Iterator[None]:
        """Within it the parameters are those of the version."""
        current = [p.data for p in self.parameters]
        for p, old in zip(self.parameters, self.versions[version], strict=True):
            p.data = old
        try:
            yield
        finally:
            for p, now in zip(self.parameters, current, strict=True):
                p.data = now
