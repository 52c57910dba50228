"""Stages of several workers: a worker has a network of its own, and a stage gossips with the same stage of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from decentral.algorithms.traits import Method
from decentral.comm.layout import Layout
from decentral.comm.schedule import Mixing
from decentral.runtime.requests import Program, StageNumber
from decentral.stages.layers import Network
from decentral.stages.peer_comm import PeerComm, interruptible
from decentral.stages.stage import Stage


@dataclass(frozen=True)
class Peers:
    """The workers that a stage gossips among: ``mixing``, a matrix (n, n) or a Schedule, and a decentralized method.

    The method may be behind an update rule (:class:`decentral.rounds.ruled.Ruled`), which then has the weight decay.
    """

    mixing: Mixing
    method: Method[Any]
    weight_decay: float = 0.0


class PeerStage(Stage):
    """Stage ``index`` of worker ``worker``: a step of the decentralized method is its update.

        x_k, state <- method.step(x_k, state, g_k, comm, lr)        instead of an optimizer's step

    x_k: the P_k parameters of its layers and local heads, g_k the gradient that the program has put there (with weight
    decay). The communicator's workers are the same stage of all workers, so each stage mixes by itself, as soon as its
    own neighbours have come as far. Rounds count the stage's updates. Batch-norm statistics stay a worker's own.
    Cost: the method's own, in vectors of P_k; over all stages that is what the whole model would cost.
    """

    def __init__(
        self,
        worker: int,
        peers: Peers,
        index: int,
        spans: Sequence[range],
        network: Network,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.worker, self.peers = worker, peers
        super().__init__(index, spans, network, _no_optimizer, *args, **kwargs)
        self.comm = PeerComm(peers.mixing, worker, lambda i: StageNumber(i, index, self.count))
        self.state: Any = None
        self.round = 0

    def number_of(self, index: int) -> int:
        """Stages are numbered through, worker after worker."""
        return StageNumber(self.worker, index, self.count)

    def learns(self, module: nn.Module) -> None:
        """From now on the module's parameters change in the stage's updates."""
        self.learners.append(module)

    def learn(self, t: int, tag: Any = None) -> Program:
        """Step t's update: the method's arithmetic, and its messages."""
        yield from interruptible("update", self.update, t, tag=t if tag is None else tag)

    def update(self, t: int) -> None:
        """One round of the method; to be called inside :func:`interruptible` work."""
        self.begin_update(t)
        if self.lr is None:
            raise ValueError("a stage that gossips needs lr(t); methods have no learning rate of their own")
        learning = [p for p in self.learning if p.requires_grad]
        if not learning:  # all is frozen, on all workers alike
            return
        x = torch.cat([p.detach().flatten() for p in learning])[None]
        g = torch.cat([_gradient(p) for p in learning])[None]
        if self.peers.weight_decay:
            g.add_(x, alpha=self.peers.weight_decay)
        method = self.peers.method
        if self.round == 0:
            self.comm.layout = Layout.of(nn.ModuleList(self.learners))
            self.state = method.init(x, self.comm)
        x, self.state = method.step(x, self.state, g, self.comm.at(self.round), self.lr(t))
        self.round += 1
        for p, part in zip(learning, x[0].split_with_sizes([p.numel() for p in learning]), strict=True):
            p.data.copy_(part.view_as(p))
            p.grad = None


def _no_optimizer(parameters: Any) -> NoReturn:
    raise NotImplementedError("the method makes the update")


def _gradient(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
