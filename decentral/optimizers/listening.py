"""A schedule that goes by the losses of its run: what it is told, when, and what it remembers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from decentral.optimizers.schedules import Schedule


@runtime_checkable
class Listening(Schedule, Protocol):
    """A frozen value; what it has heard is a state that travels, which it consumes.

    A state is made of numbers, texts, lists and dictionaries, so that a checkpoint may hold it. ``lr`` is what it says
    in a run of which it hears nothing that makes it decide.
    """

    def begin(self) -> dict[str, Any]:
        """The state before the first round."""

    def decides(self, state: dict[str, Any], t: int) -> bool:
        """Whether it has to be told of all losses when t rounds are done, and asked to decide."""

    def heard(self, state: dict[str, Any], losses: list[float]) -> dict[str, Any]:
        """With the mean losses of all workers in the next rounds."""

    def decided(self, state: dict[str, Any], t: int) -> dict[str, Any]:
        """After t rounds, of which it has heard. Not for all ranks, which might differ: one decides for all."""

    def lr_after(self, state: dict[str, Any], t: int) -> float:
        """The learning rate of round t."""

    def note(self, state: dict[str, Any]) -> dict[str, Any]:
        """What it has decided, for people; empty as long as that is nothing."""
