"""Weight rescaling in stages: each has its own layers, and a weight and its batch norm must be in one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.optimizers.before_norms import before_norms
from decentral.optimizers.rescaling import Rescaling
from decentral.runs.kind import name_of
from decentral.runs.rescaling import SAMPLES, made
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decentral.optimizers.before_norms import Normed
    from decentral.runs.stages.config import StageRun
    from decentral.stages.layers import Network


class StagesRescaling:
    """Of each stage of ``network``, cut into ``spans``, what is rescaled; ``note``: what is not, or "".

    ``inputs``: training samples. Raises UserError where nothing is left to rescale, or the program may not have it.
    """

    def __init__(self, config: StageRun, network: Network, spans: Sequence[range], inputs: Tensor) -> None:
        rule = config.optimizer
        assert rule is not None
        key = f"optimizer.rescale = {rule.rescale!r}"
        if config.program.goes_by_steps:
            program = name_of(config.program, "decentral.stages.programs:PROGRAMS")
            raise UserError(
                f"{key} changes weights beside the optimizer's steps, by which program.name = {program!r} goes as it "
                "is set; use another correction, or remove the key"
            )
        self.spans = list(spans)
        found = before_norms(network.modules(), lambda: network(inputs[:SAMPLES]))
        apart = [one for one in found if self._stage(one.weight) != self._stage(one.norm)]
        kept = [one for one in found if one not in apart]
        if not kept:
            raise UserError(
                f"{key} needs a weight and its batch norm in one stage, and every cut goes between them; cut elsewhere "
                "by stages.cut, or remove the key"
            )
        self.whole = made(rule, kept)
        self.note = ""
        if apart:
            self.note = (
                f"{len(apart)} weight(s), the first of them {shown(apart[0].weight)}, are not rescaled: their batch "
                "norm is in the next stage"
            )

    def of(self, stage: int) -> Rescaling:
        """Of one stage; it may have no layers."""
        own: list[Normed] = [one for one in self.whole.layers if self._stage(one.weight) == stage]
        return replace(self.whole, layers=own)

    def spared(self, network: Network) -> set[int]:
        """The ids of the parameters of a copy of the network that have no weight decay."""
        modules: nn.ModuleList = network.modules()
        return {id(modules.get_parameter(name)) for name in self.whole.spared}

    def names_in(self, stage: int) -> Collection[str]:
        """The names of those of one stage, as a stage that gossips has them: its layers are the first that learn."""
        names = [name.partition(".") for name in self.of(stage).spared]
        return frozenset(f"0.{int(layer) - self.spans[stage].start}.{rest}" for layer, _, rest in names)

    def _stage(self, name: str) -> int:
        """Of a parameter or a module of the network: the head is the last stage's."""
        layer = int(name.partition(".")[0])
        return next((k for k, span in enumerate(self.spans) if layer in span), len(self.spans) - 1)
