"""The gradient oracle of a module: batched over the hosted workers, or one worker after the other.

Both serve (h, d). Batched is ``vmap`` over the stacked views of the flat buffer; it wins for small dense models.
The loop wins for one to three workers and, on a CPU, for convolutions and models of tokens. It is the only one for
LSTMs and their like, whose kernels take one model, for modules that draw random numbers (worker and round then name
the stream, so that any rank can draw them again), and for what ``vmap`` cannot do, as a trial of the module has shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import nullcontext
from math import ceil

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from decentral.comm.layout import Layout, Recurrent
from decentral.errors import UserError
from decentral.problems.losses import Loss, cross_entropy
from decentral.problems.models.draws import Generators
from decentral.problems.models.tried import TRUSTED, Tried
from decentral.problems.models.worker_state import BufferRows
from topologies.wording import shown

_FEW_TENSORS = 8  # above it, one flat gradient costs less than a block of columns for each parameter
_LOOP_WINS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)

Blocks = Iterable[tuple[slice, Tensor]]
Batches = Tensor | list[Tensor]


class BatchedOracle:
    """All hosted workers in one ``vmap``, or ``chunk`` of them; ``buffers`` (h, *shape) are updated in place."""

    name = "batched"

    def __init__(
        self, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], of: Loss = cross_entropy
    ) -> None:
        self.layout, self.buffers = layout, buffers
        module.train()

        def loss(
            params: dict[str, Tensor],
            buffers: dict[str, Tensor],
            inputs: Tensor,
            labels: Tensor,
            share: Tensor,
        ) -> Tensor:
            logits = functional_call(module, (params, buffers), (inputs,))
            return of(logits, labels, reduction="none") @ share.flatten()

        self.attends = any(isinstance(m, nn.Embedding) for m in module.modules())
        self.call = vmap(grad_and_value(loss), in_dims=(0, 0, 0, 0, 0))
        self.chunk: int | None = None
        self._padded: tuple[Tensor, Tensor, Tensor] | None = None
        self._g: Tensor | None = None

    def gradient(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> tuple[Tensor, Blocks]:
        """Losses (h,) and gradients at x (h, d) on inputs and labels (h, B, ...), or lists of batches."""
        h, even = x.shape[0], self._even(inputs, labels, x)
        if self.chunk is not None and self.chunk < h:
            return self._in_chunks(self.chunk, x, even, t)
        gradients, losses = self._called(x, self.buffers, even, t)
        blocks = [(span.columns, gradients[span.name].reshape(h, -1)) for span in self.layout.spans]
        if len(blocks) > _FEW_TENSORS:
            blocks = [(slice(0, self.layout.d), torch.cat([g for _, g in blocks], dim=1))]
        return losses, blocks

    def _in_chunks(
        self, chunk: int, x: Tensor, even: tuple[Tensor, Tensor, Tensor], t: int
    ) -> tuple[Tensor, Blocks]:
        h, losses = len(x), x.new_empty(len(x))
        if self._g is None:
            self._g = torch.empty_like(x)
        pieces = ceil(h / chunk)  # of even sizes, since one worker alone is batched with other bits
        for rows in (slice(h * k // pieces, h * (k + 1) // pieces) for k in range(pieces)):
            buffers = {name: buffer[rows] for name, buffer in self.buffers.items()}
            a, b, c = (part[rows] for part in even)
            gradients, losses[rows] = self._called(x[rows], buffers, (a, b, c), t)
            for span in self.layout.spans:
                self._g[rows, span.columns] = gradients[span.name].flatten(1)
        return losses, [(slice(0, self.layout.d), self._g)]

    def _called(
        self, x: Tensor, buffers: dict[str, Tensor], even: tuple[Tensor, Tensor, Tensor], t: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by name, and losses, of these rows."""
        try:
            # vmap batches this kernel of attention, and not the one that a CPU would take
            with sdpa_kernel(SDPBackend.MATH) if self.attends else nullcontext():
                found: tuple[dict[str, Tensor], Tensor] = self.call(self.layout.views(x), buffers, *even)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what no trial foresaw: a model may do other things later
            raise UserError(
                f'round {t}: torch\'s vmap cannot batch the model ({shown(str(error))}); set train.oracle = "loop"'
            ) from error
        return found

    def _even(self, inputs: Batches, labels: Batches, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Batches of one size, and each label's share of the mean: lists are padded with samples of share 0."""
        if isinstance(inputs, Tensor) and isinstance(labels, Tensor):
            return inputs, labels, x.new_full(labels.shape, 1 / labels[0].numel())
        if self._padded is None:  # full batches are the same in every round
            share = [x.new_full(part.shape, 1 / part.numel()) for part in labels]
            self._padded = tuple(pad_sequence(list(p), batch_first=True) for p in (inputs, labels, share))  # type: ignore[assignment]
        return self._padded  # type: ignore[return-value]


class LoopOracle:
    """One worker after the other through ordinary autograd; the module's tensors are views of x and of g."""

    name = "loop"

    def __init__(
        self, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], workers: range, seed: int,
        draws: Collection[str] = (), loss: Loss = cross_entropy,
    ) -> None:  # fmt: skip
        self.module, self.layout, self.buffers = module, layout, BufferRows(module, buffers)
        self.workers, self.seed, self.loss = workers, seed, loss
        self.moves = any(isinstance(m, nn.RNNBase) for m in module.modules())  # cuDNN lays them out anew
        named = dict(module.named_parameters())
        self.parameters = [named[span.name] for span in layout.spans]
        like = self.parameters[0]
        self.generators = Generators(draws, like.device)
        self.g = torch.zeros(len(workers), layout.d, dtype=like.dtype, device=like.device)
        self.g_views = [list(layout.views(row).values()) for row in self.g]
        module.train()

    def gradient(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> tuple[Tensor, Blocks]:
        """Losses (h,) and gradients at x (h, d) on inputs and labels (h, B, ...), or lists of batches."""
        self.g.zero_()  # backward adds to it, and a parameter that is not used adds nothing
        with self.generators.kept():
            losses = [self._one(row, x[row], inputs[row], labels[row], t) for row in range(len(self.workers))]
        return torch.stack(losses), [(slice(0, self.layout.d), self.g)]

    def _bind(self, row: int, x: Tensor) -> None:
        """Make the module's parameters views of x (d,), and their gradients of that row of g.

        They may be so already from the round before: what they view cannot have been freed, so its address is its own.
        """
        if not self.moves and self.parameters[0].data_ptr() == x.data_ptr():
            return
        views = self.layout.views(x).values()
        for parameter, view, g_view in zip(self.parameters, views, self.g_views[row], strict=True):
            parameter.data, parameter.grad = view, g_view

    def _one(self, row: int, x: Tensor, inputs: Tensor, labels: Tensor, t: int) -> Tensor:
        self._bind(row, x)
        return self._pass(self.buffers, "model", row, inputs, labels, t)

    def _pass(
        self, buffers: BufferRows, drawn: str, row: int, inputs: Tensor, labels: Tensor, t: int,
        weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of the model as it is bound, with these buffers; its gradient, times ``weight``, joins the row's."""
        buffers.lend(row)
        if self.generators.names:
            self.generators.seed(self.seed, drawn, self.workers[row], t)
        loss = self.loss(self.module(inputs), labels)
        loss.backward(weight)  # type: ignore[no-untyped-call]
        buffers.take_back()
        return loss.detach()


def choose_oracle(
    wish: str, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], workers: range, seed: int,
    tried: Tried = TRUSTED, loss: Loss = cross_entropy,
) -> tuple[BatchedOracle | LoopOracle, str | None]:  # fmt: skip
    """The oracle for this module and number of workers, and a note where the wish could not be met."""
    recurrent = any(isinstance(m, nn.RNNBase | Recurrent) for m in module.modules())
    device = next(module.parameters()).device
    slow = device.type == "cpu" and any(isinstance(m, _LOOP_WINS) for m in module.modules())
    reason = ""
    if wish == "batched" or (wish == "auto" and not (slow or recurrent) and len(workers) >= 4):
        reason = "torch batches no recurrent layers" if recurrent else tried.unbatchable()
        if not reason:
            return BatchedOracle(module, layout, buffers, loss), None
    note = f"{reason}, so gradients are looped, not batched" if reason else None
    return LoopOracle(module, layout, buffers, workers, seed, tried.draws, loss), note
