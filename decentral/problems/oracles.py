"""The gradient oracle of a module: batched over the hosted workers, or one worker after the other.

Both serve (h, d). Batched is ``vmap`` over the stacked views of the flat buffer; it wins for small dense models.
The loop wins for one to three workers and, on a CPU, for convolutions and models of tokens. It is the only one for
LSTMs and their like, whose kernels take one model, and for modules that draw random numbers: worker and round then
name the stream, so that any rank can draw them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from decentral.comm.layout import Layout
from topologies.streams import stream_key

_FEW_TENSORS = 8  # above it, one flat gradient costs less than a block of columns for each parameter
_RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_LOOP_WINS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)

Blocks = Iterable[tuple[slice, Tensor]]
Batches = Tensor | list[Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits (B, ..., classes) and labels (B, ...): one per example, or one per token.

    Their mean, or with ``reduction`` "none" all of them, flat.
    """
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)


class BatchedOracle:
    """All hosted workers in one ``vmap``; ``buffers`` name -> (h, *shape) are updated in place."""

    name = "batched"

    def __init__(self, module: nn.Module, layout: Layout, buffers: dict[str, Tensor]) -> None:
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
            return cross_entropy(logits, labels, reduction="none") @ share.flatten()

        self.attends = any(isinstance(m, nn.Embedding) for m in module.modules())
        self.call = vmap(grad_and_value(loss), in_dims=(0, 0, 0, 0, 0))
        self._padded: tuple[Tensor, Tensor, Tensor] | None = None

    def gradient(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> tuple[Tensor, Blocks]:
        """Losses (h,) and gradients at x (h, d) on inputs and labels (h, B, ...), or lists of batches."""
        del t
        h, even = x.shape[0], self._even(inputs, labels, x)
        # vmap batches this kernel of attention, and not the one that a CPU would take
        with sdpa_kernel(SDPBackend.MATH) if self.attends else nullcontext():
            gradients, losses = self.call(self.layout.views(x), self.buffers, *even)
        blocks = [(span.columns, gradients[span.name].reshape(h, -1)) for span in self.layout.spans]
        if len(blocks) > _FEW_TENSORS:
            blocks = [(slice(0, self.layout.d), torch.cat([g for _, g in blocks], dim=1))]
        return losses, blocks

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
        self, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], workers: range, seed: int
    ) -> None:
        self.module, self.layout, self.buffers = module, layout, buffers
        self.workers, self.seed = workers, seed
        self.draws = any(isinstance(m, _RANDOM) for m in module.modules())
        self.moves = any(isinstance(m, nn.RNNBase) for m in module.modules())  # cuDNN lays them out anew
        named = dict(module.named_parameters())
        self.parameters = [named[span.name] for span in layout.spans]
        like = self.parameters[0]
        self.g = torch.zeros(len(workers), layout.d, dtype=like.dtype, device=like.device)
        self.g_views = [list(layout.views(row).values()) for row in self.g]
        module.train()

    def gradient(self, x: Tensor, inputs: Batches, labels: Batches, t: int) -> tuple[Tensor, Blocks]:
        """Losses (h,) and gradients at x (h, d) on inputs and labels (h, B, ...), or lists of batches."""
        self.g.zero_()  # backward adds to it, and a parameter that is not used adds nothing
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
        for name, buffer in self.buffers.items():
            _set_buffer(self.module, name, buffer[row])
        if self.draws:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(stream_key(self.seed, "model", self.workers[row], t) % 2**63)
                loss = cross_entropy(self.module(inputs), labels)
        else:
            loss = cross_entropy(self.module(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def choose_oracle(
    wish: str, module: nn.Module, layout: Layout, buffers: dict[str, Tensor], workers: range, seed: int
) -> tuple[BatchedOracle | LoopOracle, str | None]:
    """The oracle for this module and number of workers, and a note where the wish could not be met."""
    kinds = list(module.modules())
    random = any(isinstance(m, _RANDOM) for m in kinds)
    recurrent = any(isinstance(m, nn.RNNBase) for m in kinds)
    slow = any(isinstance(m, _LOOP_WINS) for m in kinds) and next(module.parameters()).device.type == "cpu"
    note = None
    if wish == "batched" and random:
        wish, note = "loop", "the model draws random numbers (dropout), so gradients are looped, not batched"
    if wish == "batched" and recurrent:
        wish, note = "loop", "torch batches no recurrent layers, so gradients are looped, not batched"
    if wish == "loop" or (wish == "auto" and (random or recurrent or slow or len(workers) < 4)):
        return LoopOracle(module, layout, buffers, workers, seed), note
    return BatchedOracle(module, layout, buffers), note


def stacked_buffers(module: nn.Module, h: int) -> dict[str, Tensor]:
    """One contiguous (h, *shape) tensor for each buffer: a row-strided view would silently stay stale under vmap."""
    return {
        name: buffer.unsqueeze(0).expand(h, *buffer.shape).clone() for name, buffer in module.named_buffers()
    }


def _set_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    module._buffers[last] = value
