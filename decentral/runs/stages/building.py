"""From a configuration to stages: the data, the network, where it is cut, and each stage with its optimizer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from scipy import sparse
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import topologies
from decentral.errors import UserError
from decentral.optimizers.rescaling_hook import spare
from decentral.problems.capabilities import is_ours
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.rounds.ruled import Ruled, ruled
from decentral.rounds.spared import Spared
from decentral.runs.stages.rescaling import StagesRescaling
from decentral.runs.stages.samples import Samples
from decentral.runtime.clock import VirtualClock
from decentral.runtime.requests import StageError
from decentral.stages.cut import check_ties, cut_at, cut_by_cost, cut_evenly
from decentral.stages.drawing import begun
from decentral.stages.heads.head_maker import head_maker
from decentral.stages.layers import Network, network_of
from decentral.stages.peers import Peers, PeerStage
from decentral.stages.profile import layer_flops
from decentral.stages.shapes import boundary_shapes
from decentral.stages.stage import Stage
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.algorithms.traits import Method
    from decentral.runs.stages.config import StageRun


class Plan:
    """The network as it was initialised, its data, and its cut; ``stages`` makes fresh stages of it.

    Raises UserError for a cut, a program or heads that do not fit the network.
    """

    def __init__(self, config: StageRun, device: torch.device) -> None:
        self.config, self.device = config, device
        self.samples = Samples(config, device)
        self.generators = Generators(self.samples.objective.draws, device)
        self.network = network_of(self.samples.objective.evaluation.module)
        self.spare = _copied(self.network)  # what passes leave in its buffers is in no stage's
        self.shapes = boundary_shapes(self.spare, self.samples.example)
        objective = self.samples.objective
        self.make_head = head_maker(
            self.shapes,
            self.samples.example.shape,
            objective.classes,
            config.seed,
            config.stages.heads,
            objective.loss if objective.train_y.is_floating_point() else None,
        )
        self.spans = self._cut()
        check_ties(self.network, self.spans)
        self.rescaling: StagesRescaling | None = None
        if config.optimizer is not None and config.optimizer.rescale is not None:
            with Generators(GENERATORS, device).kept():
                inputs = self.samples.objective.train_x
                self.rescaling = StagesRescaling(config, self.spare, self.spans, inputs)
        try:
            config.program.check(self.spans, self.network.layers)
        except ValueError as error:
            raise UserError(f"[program] {error}") from error
        if name := config.program.local_head:
            for layer in range(len(self.shapes) - 1):
                self.head(name, layer)

    def rehearse(self) -> None:
        """Run two steps of the program, where the model is a user's. Raises UserError for what fails in parts."""
        if is_ours(self.config.problem):
            return
        programs = {s.index: begun(self.config.program, s, self.generators) for s in self.trial(2)}
        try:
            # as they are profiled
            VirtualClock(programs, lambda *_: 1.0, around=lambda *_: FlopCounterMode(display=False)).run()
        except StageError as error:
            raise UserError(f"the network, cut into {len(self.spans)} stages: {error}") from error

    def trial(self, steps: int) -> list[Stage]:
        """All stages of worker 0 as if it were alone, with the learning rate 0: to find out what a program costs."""
        made = self._stages(
            0, range(len(self.spans)), steps, topologies.constant(sparse.eye_array(1, format="csr"))
        )
        for stage in made:
            stage.lr = lambda _: 0.0
        return made

    def stages(self, steps: int, numbers: Sequence[int], mixing: topologies.Schedule | None) -> list[Stage]:
        """Stages that train for ``steps``, by their numbers; a worker's are of one fresh copy of the network.

        ``mixing``: of the workers; None where there is one.
        """
        count = len(self.spans)
        of_worker = {
            i: [p % count for p in numbers if p // count == i] for i in {p // count: None for p in numbers}
        }
        return [s for i, indices in of_worker.items() for s in self._stages(i, indices, steps, mixing)]

    def _stages(self, worker: int, indices: Sequence[int], steps: int, mixing: Any) -> list[Stage]:
        config, network = self.config, copy.deepcopy(self.network)
        network.modules().train()
        shared: dict[str, Any] = {
            "batches": functools.partial(self.samples.batch, worker),
            "steps": steps,
            "lr": config.lr,
            "loss": self.samples.objective.loss,
            "make_head": self.head,
            "clip_norm": config.train.clip_norm or 0.0,
        }
        part = functools.partial(config.program.part, network, count=len(self.spans))
        if config.topology is None:
            make = functools.partial(
                self._optimizer, self.rescaling.spared(network) if self.rescaling else set()
            )
            return [self._rescaled(Stage(k, self.spans, part(k), make, **shared)) for k in indices]
        peers = Peers(mixing, *self._ruled)
        made = [PeerStage(worker, peers, k, self.spans, part(k), **shared) for k in indices]
        for stage in made:
            self._rescaled(stage)
            if isinstance(stage.method, Ruled):
                stage.method = stage.method.told(stage.updating_loss)
        return [*made]

    def _rescaled(self, stage: Stage) -> Stage:
        """The stage, with what it is to rescale; a rule before its method leaves that out of its weight decay."""
        if self.rescaling is None:
            return stage
        stage.rescaling = self.rescaling.of(stage.index)
        if (
            isinstance(stage, PeerStage)
            and isinstance(stage.method, Ruled)
            and self.config.train.weight_decay
        ):
            names = self.rescaling.names_in(stage.index)
            stage.method = stage.method.under(Spared(stage.method.rule, names))
        return stage

    @functools.cached_property
    def _ruled(self) -> tuple[Method[Any], float]:
        """The algorithm behind its rule, of all workers: to look where in a round it steps takes some rounds."""
        assert self.config.algorithm is not None
        return ruled(self.config.algorithm, self.config.optimizer, self.config.train.weight_decay)

    def head(self, name: str, layer: int) -> nn.Module:
        """A local head on the outputs of a layer, initialised from the seed and the layer."""
        head: nn.Module = self.make_head(name, layer)
        return head.to(self.device, next(iter(self.network.modules().parameters())).dtype)

    def _optimizer(self, spared: set[int], parameters: Any) -> torch.optim.Optimizer:
        """``spared``: the ids of the parameters without weight decay."""
        train = self.config.train
        assert self.config.optimizer is not None
        optimizer = self.config.optimizer.without_rescaling().build(parameters, train.lr, train.weight_decay)
        spare(optimizer, spared)
        return optimizer

    def _cut(self) -> list[range]:
        wish, depth = self.config.stages, len(self.network.layers)
        if self.config.program.across:
            if wish.cut != "even":
                raise UserError(
                    f"stages.cut = {shown(wish.cut)} is between layers, and this program has a part of each on every "
                    "stage; remove the key"
                )
            return [range(depth)] * wish.count
        if isinstance(wish.cut, list):
            return cut_at(depth, wish.cut)
        if wish.cut == "even":
            return cut_evenly(depth, wish.count)
        return cut_by_cost(
            layer_flops(list(self.spare.layers), self.samples.objective.train_x[:2]), wish.count
        )


def _copied(network: Network) -> Network:
    """A copy, as each worker has one. Raises UserError where torch cannot copy it, or all of it."""
    hooked = [p for p in network.modules().parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]
    if hooked:
        raise UserError(
            f"a parameter of shape {tuple(hooked[0].shape)} has hooks, which copies for stages would not have; hook "
            "modules instead, or train it without [stages]"
        )
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise UserError(
            f"the network cannot be copied, as stages must be ({type(error).__name__}: {shown(str(error))}); compute "
            "weights from others by torch.nn.utils.parametrizations, or train it without [stages]"
        ) from error
