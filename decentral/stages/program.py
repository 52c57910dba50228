"""What a stage program is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from decentral.runtime.requests import Program
    from decentral.stages.layers import Network
    from decentral.stages.stage import Stage


class StageProgram(ABC):
    """A frozen dataclass whose fields are its keys under ``[program]``: what each stage of a network does.

    ``lockstep``: all stages make an update in each step; only then can stages of several workers gossip.
    ``of_one_loss``: a step makes one update, by the gradient of the network's own loss, which is noted before it; only
    then can an update rule be told the loss.
    ``across``: each stage has a part of every layer, not layers of its own.
    """

    lockstep: ClassVar[bool] = True
    of_one_loss: ClassVar[bool] = True
    across: ClassVar[bool] = False

    @abstractmethod
    def run(self, stage: Stage) -> Program:
        """The program of one stage: its requests, and Done(t) after each step t."""

    @property
    def local_head(self) -> str:
        """The name of the heads that it puts on layers, to be tried first; "" if it has none."""
        return ""

    @property
    def goes_by_steps(self) -> bool:
        """Whether it takes what an update changes for the optimizer's step: nothing else may change weights."""
        return False

    def part(self, network: Network, index: int, count: int) -> Network:
        """What stage ``index`` of ``count`` has layers of: the network, or its own part where it is cut ``across``."""
        del index, count
        return network

    def check(self, spans: Sequence[range], layers: Sequence[nn.Module]) -> None:  # noqa: B027 - most can train all
        """Raise ValueError for a network of these layers, cut so, that it cannot train."""
