"""What a user's module does in plain torch, where each worker has a module of its own: two workers, two rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.problems.losses import cross_entropy
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.problems.models.observed import Observed, observed
from decentral.problems.models.worker_state import has_rows, standing_for
from topologies.wording import shown

SEED = 0
_TURNS = [(t, worker) for t in range(2) for worker in range(2)]


class PlainPasses:
    """``make()`` gives the module, afresh each time, where and in the numbers that it trains in.

    ``batches``: (inputs, labels) of each of two workers, as large as those of the run, labels below ``classes``.
    ``what`` begins all messages. ``passes``: what was seen, that of worker k in round t at 2 t + k. ``draws``: the
    global generators that the module moves; ``counting``: an attribute that is a number and changes in each pass, or
    ""; ``caches``: buffers that the first pass fills. They draw from streams of their own, named by SEED: it is
    for the caller to put ``generators`` back. Raises UserError for a module that cannot be trained.
    """

    def __init__(
        self, what: str, make: Callable[[], nn.Module], batches: Sequence[tuple[Tensor, Tensor]], classes: int
    ) -> None:
        self.what, self.make, self.batches, self.classes = what, make, batches, classes
        module = make()
        self.layout = Layout.of(module)
        self.start = self.layout.flatten(module)
        self.generators = Generators(GENERATORS, self.start.device)
        modules = [module.train(), make().train()]
        numbers, self.passes = [], []
        self.caches: dict[str, Tensor] = {}
        for t, worker in _TURNS:
            self.passes.append(self._pass(modules[worker], worker, t))
            numbers.append(_numbers_of(modules[worker]))
        self.counting = next(
            (name for name, value in numbers[2].items() if numbers[0].get(name) != value), ""
        )
        self.draws = frozenset().union(*(pass_.draws for pass_ in self.passes)) | self._evaluated(module)

    def point(self, worker: int, t: int) -> Tensor:
        """The parameters (d,) of a worker in round t: all different, the first those that the module begins with."""
        k = 2 * t + worker
        return self.start * (1 + 0.01 * k) + 0.001 * k

    def _pass(self, module: nn.Module, worker: int, t: int) -> Observed:
        """A pass of a module that is this worker's alone."""
        inputs, labels = self.batches[worker]
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.layout.views(self.point(worker, t)).items():
                named[name].copy_(value)
        given = inputs.clone()
        self.generators.seed(SEED, "model", worker, t)
        tried = f"{self.what}: a training pass on a batch of shape {tuple(inputs.shape)}"
        try:
            found = observed(module, lambda m: self._loss(m(inputs), labels, tried), self.start.device)
        except UserError:
            raise
        except Exception as error:
            more = "; raise train.batch_size" if len(inputs) == 1 else ""
            raise UserError(f"{tried} raised {_said(error)}{more}") from error
        if not torch.equal(inputs, given):
            raise UserError(f"{tried} writes to the batch; let it write to a clone() of its input")
        if odd := [name for name in found.misshapen if not self._is_cache(name, found)]:
            raise UserError(
                f"{self.what}: buffer {shown(odd[0])} appears, goes, or changes its shape or type in a training pass; "
                "register it with the shape and type that it keeps"
            )
        if (
            not all(bool(x.isfinite().all()) for x in (found.loss, *found.gradients.values()))
            and not worker + t
        ):
            raise UserError(
                f"{tried} gives a loss or gradient that is not finite before any step; mend the model"
            )
        return found

    def _is_cache(self, name: str, found: Observed) -> bool:
        """Whether the buffer is None at first, and then what any worker's first pass makes of it: nobody's own."""
        if name in found.before or name not in found.buffers:
            return False
        value = found.buffers[name]
        first = self.caches.setdefault(name, value)
        return first.shape == value.shape and torch.equal(first, value)

    def _loss(self, logits: object, labels: Tensor, tried: str) -> Tensor:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != (wanted := (*labels.shape, self.classes)):
            raise UserError(f"{tried} gave {found}; it must give {wanted}")
        assert isinstance(logits, Tensor)
        return cross_entropy(logits, labels)

    @torch.no_grad()
    def _evaluated(self, module: nn.Module) -> frozenset[str]:
        """What a pass in evaluation mode draws from; two must give the same logits."""
        inputs, logits = self.batches[0][0], []
        buffers = {name: b for name, b in module.named_buffers() if has_rows(b)}
        module.eval()
        for _ in range(2):
            self.generators.seed(SEED, "evaluation")
            state = self.generators.state()
            with standing_for(module, {}, buffers):
                try:
                    logits.append(module(inputs.clone()))
                except Exception as error:
                    tried = f"{self.what}: an evaluation pass on a batch of shape {tuple(inputs.shape)}"
                    raise UserError(f"{tried} raised {_said(error)}") from error
        if not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-6, equal_nan=True):
            raise UserError(
                f"{self.what}: two evaluation passes with the same parameters, buffers and random state differ; let it "
                "draw from torch's global generator, and keep what it remembers in buffers"
            )
        return self.generators.moved(state)


def _numbers_of(module: nn.Module) -> dict[str, object]:
    """Attributes that are plain numbers, of all modules inside."""
    return {
        f"{path}.{key}".lstrip("."): value
        for path, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, int | float) and key != "training"
    }


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
