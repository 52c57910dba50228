"""A method's round in one pass over memory, where that can be had and is worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from decentral.algorithms.state import tensors_of, with_tensors
from decentral.comm.local import LocalComm
from decentral.rounds.fused.agreement import kernel_for
from decentral.rounds.fused.kernel import Kernel
from decentral.rounds.fused.program import Recorded, recorded

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.algorithms.traits import Method
    from decentral.comm import Mixer

_CALLS = 4  # of each thread in a round, so that none waits long for another's last
_MUCH = 1 << 19  # numbers that a call is worth its own
_LARGE = 1 << 21  # numbers of x, from which a round gains more than looking at the step costs


class FusedRound:
    """A round of which blocks of columns are done by ``kernel``. ``state``: what the method will be given next."""

    def __init__(self, kernel: Kernel, seen: Recorded, tensors: list[Tensor], comm: LocalComm) -> None:
        self.kernel, self.state = kernel, with_tensors(seen.state, tensors[1:])
        self.numbers = torch.tensor([*seen.numbers, 0.0], dtype=kernel.dtype)
        self.x, *self.others = tensors
        plan = comm.plan
        self.order, self.weights = kernel.order(plan), self.numbers
        if kernel.mixes:
            self.weights = plan.bags.weights if kernel.dtype is torch.float64 else plan.bags32.weights

    def width(self, threads: int) -> int:
        """Columns a call: at least a tile, or what is much to do; where there are more, some calls for each thread."""
        h, d = self.x.shape
        return max(min(self.kernel.tile(self.order), -(-_MUCH // h)), -(-d // (_CALLS * threads)))

    def step(self, block: slice, g: Tensor) -> None:
        """The columns ``block`` of x and of the state, with the gradients g (h, b)."""
        if g.dtype is not self.x.dtype or g.stride(1) != 1:
            g = g.to(self.x.dtype).contiguous()
        self.kernel(
            [self.x[:, block], g, *[s[:, block] for s in self.others]], self.numbers, self.order, self.weights
        )


def fused_round(
    method: Method[Any], x: Tensor, state: Any, comm: Mixer, t: int, lr: float, weight_decay: float
) -> FusedRound | None:
    """Round t of ``method`` from x (h, d), billed; None where it is done as well or must be done another way."""
    tensors = [x, *tensors_of(state)]
    if x.numel() < _LARGE or type(comm) is not LocalComm or getattr(method, "joins_rows", False):
        return None
    if not all(_fits(s, x) for s in tensors) or len({s.data_ptr() for s in tensors}) < len(tensors):
        return None

    def step(inputs: list[Tensor], mixer: Mixer) -> tuple[Tensor, Any]:
        x, g, *rest = inputs
        if weight_decay:
            g = g.add(x, alpha=weight_decay)
        return method.step(x, with_tensors(state, rest), g, mixer, lr)

    now = comm.at(t)
    try:
        seen = recorded(step, [x, x, *tensors[1:]], now)
    except Exception:  # whatever a method does with tensors without values; then it is asked as ever
        return None
    kernel = kernel_for(seen.program, x.dtype)
    if kernel is None or (kernel.means and kernel.mixes):
        return None
    for _ in range(seen.mixes):
        now.bill_gossip(x)
    for _ in range(seen.means):
        now.bill_all_reduce(x)
    return FusedRound(kernel, seen, tensors, now)


def _fits(s: Tensor, x: Tensor) -> bool:
    return (
        s.shape == x.shape
        and s.dtype is x.dtype
        and s.dtype in (torch.float32, torch.float64)
        and s.device.type == "cpu"
        and s.stride(1) == 1
        and not s.requires_grad
    )
