"""A user's module is tried before it is trusted: two workers, two rounds, against plain torch.

Hosted workers share one module, so their passes take turns. In plain torch each worker has a module of its own. Both
must give the same losses, gradients and buffers.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from decentral.errors import UserError
from decentral.problems.models.difference import difference
from decentral.problems.models.draws import GENERATORS
from decentral.problems.models.worker_state import stacked_buffers
from decentral.problems.oracles import BatchedOracle, LoopOracle
from decentral.problems.plain_passes import SEED, PlainPasses
from topologies.wording import shown


def check_loop(plain: PlainPasses) -> None:
    """Raise UserError unless workers that take turns are as in plain torch."""
    module = plain.make()
    rows = stacked_buffers(module, 2)
    oracle = LoopOracle(module, plain.layout, rows, range(2), SEED, GENERATORS)
    differ = _differs(plain, oracle, rows, 0, 1e-4) or _differs(plain, oracle, rows, 1, 1e-4)
    if differ == "parameters":
        raise UserError(
            f"{plain.what} puts others in the place of its parameters in a pass; let it write to them in place, "
            "under torch.no_grad()"
        )
    if differ:
        raise UserError(
            f"{plain.what} gives other results where another worker's pass came before: it keeps state outside its "
            "buffers, or has a generator of its own; use register_buffer, and torch's global generator"
        )


def looped(plain: PlainPasses) -> str:
    """Why ``vmap`` need not be tried, in words, or ""."""
    if plain.draws:
        return "the model draws random numbers (dropout)"
    if plain.caches:  # a tensor of vmap's would stay there
        return "the model fills a buffer in its first pass"
    if plain.counting:  # what it will do later is not known
        return "the model changes an attribute of its own in each pass"
    return ""


def unbatchable(plain: PlainPasses) -> str:
    """Why ``vmap`` is not for it, in words, or "" where it gives what plain torch gives."""
    module = plain.make()
    rows = stacked_buffers(module, 2)
    try:
        oracle = BatchedOracle(module, plain.layout, rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "There is a performance drop")  # vmap would loop, and say so
            differ = _differs(plain, oracle, rows, 0, 1e-3) or _differs(plain, oracle, rows, 1, 1e-3)
    except Exception as error:
        return f"torch's vmap cannot batch the model ({shown(str(error.__cause__ or error))})"
    return f"torch's vmap gives other {differ} than one worker after the other" if differ else ""


def _differs(
    plain: PlainPasses, oracle: LoopOracle | BatchedOracle, rows: dict[str, Tensor], t: int, rtol: float
) -> str:
    """What of round t is not as in plain torch, or ""; ``rows``: the oracle's buffers."""
    inputs, labels = (list(part) for part in zip(*plain.batches, strict=True))
    x = torch.stack([plain.point(worker, t) for worker in range(2)])
    if len(inputs[0]) == len(inputs[1]):
        losses, blocks = oracle.gradient(x, torch.stack(inputs), torch.stack(labels), t)
    else:
        losses, blocks = oracle.gradient(x, inputs, labels, t)
    g = torch.cat([block for _, block in blocks], dim=1)
    for worker in range(2):
        own, left = plain.layout.views(g[worker]), plain.layout.views(x[worker])
        kept = {name: row[worker] for name, row in rows.items()}
        if other := difference(plain.passes[2 * t + worker], losses[worker], own, left, kept, rtol):
            return other
    return ""
