"""Batch norm's running statistics computed anew, for weights that no batch has gone through: an average of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decentral.problems.models.worker_state import standing_for


def of_batch_norm(module: nn.Module) -> list[str]:
    """The names of the buffers that are statistics of batch norm; none where it keeps none."""
    return [
        f"{path}.{key}" if path else key
        for path, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats
        for key, _ in part.named_buffers(recurse=False)
    ]


def renew_statistics(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batches: Iterable[Tensor],
) -> None:
    """Put into all rows of ``buffers`` (h, ...) the statistics of ``module`` with ``parameters`` over ``batches``.

        running_mean = mean over batches of the batch's mean,    running_var = mean of its unbiased variance

    and num_batches_tracked is their number, as ``torch.optim.swa_utils.update_bn`` has it, which does it: each layer
    sees what the layers before it make with the statistics of the batch. Other buffers stay as they were.
    """
    from torch.optim.swa_utils import update_bn  # here: torch.optim takes a second to import

    with standing_for(module, parameters, {name: rows[0] for name, rows in buffers.items()}):
        update_bn(batches, module)
        found = dict(module.named_buffers())
    for name in of_batch_norm(module):
        buffers[name].copy_(found[name])
