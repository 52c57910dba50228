"""A torch optimizer of anybody's as an update rule: workers take turns at it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from decentral.errors import UserError
from decentral.optimizers.constructors import kind_of, parameters_of
from decentral.optimizers.rule import Rule
from decentral.tables import said
from topologies.wording import shown

if TYPE_CHECKING:
    from torch import Tensor, device, dtype
    from torch.optim import Optimizer

    from decentral.comm.layout import Layout
    from decentral.optimizers.turns import Turns

OPTIONS = {"rescale": Literal["layer", "filter"] | None, "rescale_every": int | None}
"""Those of any rule, and their types."""
_CONSTRUCTED_LR = 1e-3  # a step's own lr takes its place


class Remembered(NamedTuple):
    """``tensors`` (h, K) and ``numbers`` (h, N), uint8: what each worker's optimizer keeps, as its bytes."""

    tensors: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class ByPath(Rule):
    """The torch optimizer at ``path``, "module:Class": each worker has one of its own, on its own parameters.

        x, state <- Class(parameters, lr, weight_decay, **arguments).step()           direction: (x - x_after) / lr

    ``arguments``: (name, value) of the constructor's, by name. ``step_`` has the bits of that optimizer in a plain
    loop, with lr put into its groups as torch's schedulers do; ``direction`` is rounded by eps |x| / lr, and is 0 where
    lr is. State: the bytes of what the optimizer keeps in ``state`` and writes in its groups. What it keeps elsewhere
    is found by a trial in which two workers take turns: UserError. Cost: a Python loop over workers.
    """

    layers: ClassVar[bool] = True

    path: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """See :class:`Rule`."""
        return self.path

    @property
    def brought(self) -> type[Optimizer]:
        """The class at the path."""
        return kind_of(self.path)

    def resolved(self) -> dict[str, Any]:
        """Its keys in TOML, but for its name."""
        options = {key: getattr(self, key) for key in OPTIONS if getattr(self, key) is not None}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in self.arguments} | options

    def decayed(self, weight_decay: float) -> Self:
        """See :class:`Rule`. Raises UserError where the constructor takes no weight decay."""
        if weight_decay and "weight_decay" not in parameters_of(kind_of(self.path)):
            raise UserError(
                f"optimizer.name = {shown(self.path)} takes no weight decay; set train.weight_decay = 0, not "
                f"{weight_decay}"
            )
        return super().decayed(weight_decay)

    def build(self, parameters: Iterable[Any], lr: float, weight_decay: float) -> Optimizer:
        """That optimizer itself."""
        self._refuse_rescaling()
        rule, kind = self.decayed(weight_decay), kind_of(self.path)
        arguments = {"lr": lr, **dict(self.arguments)}
        if "weight_decay" in parameters_of(kind):
            arguments["weight_decay"] = rule.weight_decay
        with self.telling("its constructor"):
            return kind(parameters, **arguments)

    def init(self, x: Tensor, layout: Layout) -> Remembered:
        """What a constructor leaves."""
        with self.telling("a trial of it"):
            return Remembered(*turns_of(self, layout, x.dtype, x.device).begun(x))

    def direction(
        self, x: Tensor, state: Remembered, g: Tensor, layout: Layout, lr: float
    ) -> tuple[Tensor, Remembered]:
        """See :class:`Rule`."""
        after = x.clone()
        state = self.step_(after, state, g, layout, lr)
        return (x.sub(after).div_(lr) if lr else after.zero_()), state

    def step_(self, x: Tensor, state: Remembered, g: Tensor, layout: Layout, lr: float) -> Remembered:
        """See :class:`Rule`."""
        with self.telling("a step"):
            turns_of(self, layout, x.dtype, x.device).step(x, state, g, lr)
        return state

    def refuse(self, layout: Callable[[], Layout], numbers: dtype) -> None:
        """See :class:`Rule`."""
        import torch

        tried = layout()
        with self.telling(f"a trial on {shapes(tried)}"):
            turns_of(self, tried, numbers, torch.device("cpu"))

    @contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """An error inside is a UserError that names the path."""
        try:
            yield
        except UserError as error:
            text = str(error)
            if text.startswith("optimizer."):
                raise
            raise UserError(f"optimizer.name = {shown(self.path)}: {text}") from error
        except MemoryError:
            raise
        except Exception as error:  # whatever an optimizer of somebody else's raises
            if type(error).__name__ == "OutOfMemoryError":
                raise
            raise UserError(f"optimizer.name = {shown(self.path)}: {what} raised {said(error)}") from error


@functools.lru_cache(maxsize=32)
def turns_of(rule: ByPath, layout: Layout, numbers: dtype, where: device) -> Turns:
    """What the workers of a layout take turns at, in these numbers, there; the same one each time."""
    import torch

    from decentral.optimizers.turns import Turns

    x = torch.randn(layout.d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rule = rule.without_rescaling()
    return Turns(lambda p: rule.build(p, _CONSTRUCTED_LR, rule.weight_decay), layout, x.to(where, numbers))


def shapes(layout: Layout) -> str:
    """Of its parameters, in words."""
    found = list(dict.fromkeys(str(span.shape) for span in layout.spans))
    return f"parameters of shape {', '.join(found[:3])}{', ...' if found[3:] else ''}"
