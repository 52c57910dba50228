"""A user's module is tried before it is trusted: two workers, two rounds, against plain torch.

Hosted workers share one module, so their passes take turns. In plain torch each worker has a module of its own. Both
must give the same losses, gradients and buffers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from decentral.comm.layout import Layout
from decentral.errors import UserError
from decentral.problems.losses import cross_entropy
from decentral.problems.models.difference import difference
from decentral.problems.models.draws import GENERATORS, Generators
from decentral.problems.models.observed import Observed, observed
from decentral.problems.models.worker_state import has_rows, stacked_buffers, standing_for
from decentral.problems.oracles import BatchedOracle, LoopOracle
from topologies.wording import shown

_TURNS = [(t, worker) for t in range(2) for worker in range(2)]
_SEED = 0


class Trial:
    """``make()`` gives the module, afresh each time, where and in the numbers that it trains in.

    ``batches``: (inputs, labels) of each of two workers, as large as those of the run, labels below ``classes``.
    ``what`` begins all messages. ``draws``: the global generators that it moves; ``counting``: an attribute that is a
    number and changes in each pass, or "". All passes draw from streams of their own: it is for the caller to put
    ``generators`` back.
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
        numbers, self.plain = [], []
        self.caches: dict[str, Tensor] = {}
        for t, worker in _TURNS:
            self.plain.append(self._plain(modules[worker], worker, t))
            numbers.append(_numbers_of(modules[worker]))
        self.counting = next(
            (name for name, value in numbers[2].items() if numbers[0].get(name) != value), ""
        )
        self.draws = frozenset().union(*(pass_.draws for pass_ in self.plain)) | self._evaluated(module)

    def point(self, worker: int, t: int) -> Tensor:
        """The parameters (d,) of a worker in round t: all different, the first those that the module begins with."""
        k = 2 * t + worker
        return self.start * (1 + 0.01 * k) + 0.001 * k

    def _plain(self, module: nn.Module, worker: int, t: int) -> Observed:
        """A pass of a module that is this worker's alone."""
        inputs, labels = self.batches[worker]
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.layout.views(self.point(worker, t)).items():
                named[name].copy_(value)
        given = inputs.clone()
        self.generators.seed(_SEED, "model", worker, t)
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
            self.generators.seed(_SEED, "evaluation")
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

    def check_loop(self) -> None:
        """Raise UserError unless workers that take turns are as in plain torch."""
        module = self.make()
        rows = stacked_buffers(module, 2)
        oracle = LoopOracle(module, self.layout, rows, range(2), _SEED, GENERATORS)
        differ = self._differs(oracle, rows, 0, 1e-4) or self._differs(oracle, rows, 1, 1e-4)
        if differ == "parameters":
            raise UserError(
                f"{self.what} puts others in the place of its parameters in a pass; let it write to them in place, "
                "under torch.no_grad()"
            )
        if differ:
            raise UserError(
                f"{self.what} gives other results where another worker's pass came before: it keeps state outside its "
                "buffers, or has a generator of its own; use register_buffer, and torch's global generator"
            )

    @property
    def looped(self) -> str:
        """Why ``vmap`` need not be tried, in words, or ""."""
        if self.draws:
            return "the model draws random numbers (dropout)"
        if self.caches:  # a tensor of vmap's would stay there
            return "the model fills a buffer in its first pass"
        if self.counting:  # what it will do later is not known
            return "the model changes an attribute of its own in each pass"
        return ""

    def unbatchable(self) -> str:
        """Why ``vmap`` is not for it, in words, or "" where it gives what plain torch gives."""
        module = self.make()
        rows = stacked_buffers(module, 2)
        try:
            oracle = BatchedOracle(module, self.layout, rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.filterwarnings("error", "There is a performance drop")  # vmap would loop, and say so
                differ = self._differs(oracle, rows, 0, 1e-3) or self._differs(oracle, rows, 1, 1e-3)
        except Exception as error:
            return f"torch's vmap cannot batch the model ({shown(str(error.__cause__ or error))})"
        return f"torch's vmap gives other {differ} than one worker after the other" if differ else ""

    def _differs(
        self, oracle: LoopOracle | BatchedOracle, rows: dict[str, Tensor], t: int, rtol: float
    ) -> str:
        """What of round t is not as in plain torch, or ""; ``rows``: the oracle's buffers."""
        inputs, labels = (list(part) for part in zip(*self.batches, strict=True))
        x = torch.stack([self.point(worker, t) for worker in range(2)])
        if len(inputs[0]) == len(inputs[1]):
            losses, blocks = oracle.gradient(x, torch.stack(inputs), torch.stack(labels), t)
        else:
            losses, blocks = oracle.gradient(x, inputs, labels, t)
        g = torch.cat([block for _, block in blocks], dim=1)
        for worker in range(2):
            own, left = self.layout.views(g[worker]), self.layout.views(x[worker])
            kept = {name: row[worker] for name, row in rows.items()}
            if other := difference(self.plain[2 * t + worker], losses[worker], own, left, kept, rtol):
                return other
        return ""


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
