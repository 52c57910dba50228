"""A torch optimizer at which workers take turns: it is lent a worker's parameters, and what it remembers of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decentral.errors import UserError
from decentral.optimizers.forms import Forms, Row, taken_apart

if TYPE_CHECKING:
    from decentral.comm.layout import Layout

Make = Callable[[Sequence[nn.Parameter]], Optimizer]
Rows = tuple[Tensor, Tensor]
"""tensors (h, K) and numbers (h, N), uint8: a :class:`decentral.optimizers.forms.Row` of each worker."""
STEPS = 12
"""Of a trial: what an optimizer remembers has had all its forms by then."""
RATES = (0.01, 0.02, 0.03, 0.005)
"""Of a trial, in turn."""
_LENT = ("params", "lr")  # of a group


class Turns:
    """Optimizers of one kind for models of one layout: a thread takes one, and puts it back.

    ``make`` gives one, of parameters. What it remembers is its ``state`` and what it writes in its groups; what it
    keeps elsewhere would be all workers' together. STEPS steps on a copy of the model x (d,) show the forms of it.
    Raises UserError for what cannot be kept in rows.
    """

    def __init__(self, make: Make, layout: Layout, x: Tensor) -> None:
        self.make, self.layout = make, layout
        self.forms = Forms(x.device.type == "cpu")
        self.written: list[str] = []  # keys of groups
        self._free: list[_Turn] = []
        with apart():
            self._learn(x.clone())

    def begun(self, x: Tensor) -> Rows:
        """The rows of workers with the models x (h, d) that have made no step."""
        tensors, numbers = self.forms.widths()
        rows = (
            torch.zeros(len(x), tensors, dtype=torch.uint8, device=x.device),
            torch.zeros(len(x), numbers, dtype=torch.uint8),
        )
        for k, one in enumerate(x):
            self.forms.write(Row(rows[0][k], rows[1][k]), _Turn(self, one.clone()).memory())
        return rows

    def step(self, x: Tensor, rows: Rows, g: Tensor, lr: float) -> None:
        """A step of each worker with g (h, d), on its model in x (h, d) and on its rows."""
        with self._one(x) as turn:
            for k in range(len(x)):
                row = Row(rows[0][k], rows[1][k])
                turn.lend(x[k], self.forms.read(row))
                turn.step(g[k], lr)
                self.forms.write(row, turn.memory())

    @contextmanager
    def _one(self, x: Tensor) -> Iterator[_Turn]:
        try:
            turn = self._free.pop()
        except IndexError:
            turn = _Turn(self, x[0].clone())
        yield turn
        self._free.append(turn)

    def _learn(self, x: Tensor) -> None:
        draw, turn = torch.Generator().manual_seed(0), _Turn(self, x)
        first, seen, written = copy.deepcopy(turn.settings()), [turn.trees()], dict[str, None]()
        for t in range(STEPS):
            turn.step(torch.randn(x.shape, generator=draw).to(x), RATES[t % len(RATES)])
            seen.append(turn.trees())
            for group, before in zip(turn.settings(), first, strict=True):
                written |= {key: None for key in group if _moves(group[key], before.get(key))}
        self.written = list(written)
        for state, groups in seen:
            kept = [(dict, tuple((key, g[key]) for key in self.written if key in g)) for g in groups]
            self.forms.learn((dict, (("state", state), ("groups", (list, tuple(kept))))))


class _Turn:
    """One of the optimizers, on parameters that are views of a model x (d,)."""

    def __init__(self, of: Turns, x: Tensor) -> None:
        self.of = of
        self.views = list(of.layout.views(x).values())
        self.parameters = [nn.Parameter(view) for view in self.views]
        self.optimizer = of.make(self.parameters)
        self.fixed = self.settings()

    def lend(self, x: Tensor, memory: Any) -> None:
        """From now on it steps this model, and remembers what is written in ``memory``."""
        self.views = list(self.of.layout.views(x).values())
        for p, view in zip(self.parameters, self.views, strict=True):
            p.data = view
        state: Any = self.optimizer.state
        state.clear()
        state.update(
            {(self.parameters[key] if isinstance(key, int) else key): v for key, v in memory["state"].items()}
        )
        for group, written in zip(self.optimizer.param_groups, memory["groups"], strict=True):
            for key in self.of.written:  # it may not have been there yet
                group.pop(key, None)
            group.update(written)

    def step(self, g: Tensor, lr: float) -> None:
        """A step with the gradient g (d,), which stays as it is."""
        for p, grad in zip(self.parameters, self.of.layout.views(g.clone()).values(), strict=True):
            p.grad = grad
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for p, view in zip(self.parameters, self.views, strict=True):
            if p.data_ptr() != view.data_ptr():  # it has put a tensor of its own there
                view.copy_(p.detach())

    def memory(self) -> dict[str, Any]:
        """What it remembers. Raises UserError where it has written something that it did not write in the trial."""
        groups = []
        for group, fixed in zip(self.optimizer.param_groups, self.fixed, strict=True):
            groups.append({key: group[key] for key in self.of.written if key in group})
            for key, value in fixed.items():
                if key not in self.of.written and group[key] is not value and _moves(group[key], value):
                    raise UserError(
                        f"after some steps it changes {key!r} of its groups, and not in the first"
                    )
        return {"state": self.state(), "groups": groups}

    def state(self) -> dict[Any, Any]:
        """Its state, by the places of the parameters."""
        kept: Any = self.optimizer.state
        of_parameters = {k: kept[p] for k, p in enumerate(self.parameters) if p in kept}
        return of_parameters | {key: v for key, v in kept.items() if not isinstance(key, Tensor)}

    def settings(self) -> list[dict[str, Any]]:
        """What its groups have, but for what it is lent."""
        return [
            {key: value for key, value in group.items() if key not in _LENT}
            for group in self.optimizer.param_groups
        ]

    def trees(self) -> tuple[Any, list[dict[str, Any]]]:
        """The trees of its state and, of each group, of what has one."""
        groups: list[dict[str, Any]] = [{} for _ in self.optimizer.param_groups]
        for found, group in zip(groups, self.settings(), strict=True):
            for key, value in group.items():
                try:
                    found[key] = taken_apart(value, [], f"group[{key!r}]")
                except UserError:  # a function, which is no matter unless it changes
                    found[key] = None
        return taken_apart(self.state(), [], "state"), groups


@contextmanager
def apart() -> Iterator[None]:
    """Inside, torch's generators are others, always the same, and what is drawn is not drawn from the run's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _moves(value: Any, before: Any) -> bool:
    """Whether a group's value is kept with the worker: it has changed, or is a tensor, which may change in place."""
    return isinstance(value, Tensor) or bool(value != before)
