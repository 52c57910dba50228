"""Where a method rests, as its paper's algebra has it: a claim that its code can be held to, not told by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class Rest:
    """With full gradients of f_i(x) = x' H_i x / 2 - r_i' x, constant lr and a static W, read as W kron I:

        bias "none"    x* = (mean H)^-1 mean r, every worker
        bias "atc"     (I - W + rate W D) X = rate W r,      D = blkdiag(H_i),    rate = lr times / over
        bias "awc"     (I - W + rate D) X = rate r

    ``remixed``: beta of a momentum that is gossiped too, of bias "atc": W beside rate is W (I - beta W)^-1 then.
    ``changing``: how far workers are apart is known to first order in lr on a W that changes, too.
    """

    bias: Literal["none", "atc", "awc"]
    times: float = 1.0
    over: float = 1.0
    remixed: float = 0.0
    changing: bool = False


@runtime_checkable
class Resting(Protocol):
    """What a method has besides whose rest is known."""

    def rest(self) -> Rest | None:
        """Where it rests with these settings; None where that is not known."""


def rest_of(method: object) -> Rest | None:
    """Where the method rests; None where that is not known."""
    return method.rest() if isinstance(method, Resting) else None
