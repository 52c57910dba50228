"""Whether workers can take turns at a torch optimizer of anybody's is tried: two of them, on small parameters."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.optimizers.path_rule import ByPath, shapes, turns_of

if TYPE_CHECKING:
    from decentral.comm.layout import Layout


@functools.lru_cache(maxsize=32)
def refuse_unfit(rule: ByPath) -> None:
    """Raise UserError where two workers that take turns at an optimizer do not step as each does with one of its own.

    On a matrix and a vector; on one of the two, for an optimizer that takes no others.
    """
    from decentral.comm.layout import Layout, Span

    rule = rule.without_rescaling()
    matrix, vector = Span("matrix", 0, 12, (4, 3)), Span("vector", 12, 15, (3,))
    first: UserError | None = None
    for spans in ((matrix, vector), (matrix,), (vector._replace(start=0, stop=3),)):
        layout = Layout(spans)
        try:
            with rule.telling(f"a trial on {shapes(layout)}"):
                _refuse_hidden(rule, layout)
            return
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _refuse_hidden(rule: ByPath, layout: Layout) -> None:
    import torch
    from torch import nn

    from decentral.optimizers.turns import RATES, STEPS, apart

    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2, layout.d, generator=draw)
    apart_x, numbers = x.clone(), torch.float32
    own = [[nn.Parameter(view) for view in layout.views(row).values()] for row in apart_x]
    with apart():
        before = torch.get_rng_state()
        optimizers = [rule.build(parameters, RATES[0], 0.0) for parameters in own]
        turns = turns_of(rule, layout, numbers, x.device)
        rows = turns.begun(x)
        for t in range(STEPS):
            g, lr = torch.randn(x.shape, generator=draw), RATES[t % len(RATES)]
            turns.step(x, rows, g, lr)
            for optimizer, parameters, row in zip(optimizers, own, g, strict=True):
                optimizer.param_groups[0]["lr"] = lr
                for p, grad in zip(parameters, layout.views(row.clone()).values(), strict=True):
                    p.grad = grad
                optimizer.step()
        if not torch.equal(before, torch.get_rng_state()):
            raise UserError(
                "it draws from torch's global generator, and workers' draws would depend on the ranks"
            )
    found = torch.stack([torch.cat([p.detach().reshape(-1) for p in parameters]) for parameters in own])
    if not torch.equal(found.nan_to_num(), x.nan_to_num()):
        raise UserError(
            "two workers that take turns at it do not step as each does with one of its own: it keeps something "
            "outside of state and param_groups, or the lr that it was constructed with"
        )
