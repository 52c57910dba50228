"""Whether a pass has given what plain torch gives, as nearly as sums in another order may."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, allclose, equal

from decentral.problems.models.observed import Observed

Tensors = Mapping[str, Tensor]


def difference(
    plain: Observed, loss: Tensor, gradients: Tensors, parameters: Tensors, buffers: Tensors, rtol: float
) -> str:
    """What is not as in ``plain``: "parameters", "losses", "gradients", "buffers", or "".

    |a - b| <= ``rtol`` max |b| in each tensor; of a gradient also 10^-6 of the largest one's entry, since some are sums
    that cancel, such as those of a bias before batch norm.
    """
    floor = 1e-6 * max(map(_largest, plain.gradients.values()), default=0.0)
    left = plain.parameters
    if not all(name in left and _close(value, left[name], rtol) for name, value in parameters.items()):
        return "parameters"
    if not _close(loss, plain.loss, rtol):
        return "losses"
    if not all(_close(value, plain.gradients[name], rtol, floor) for name, value in gradients.items()):
        return "gradients"
    if not all(_close(value, plain.buffers[name], rtol) for name, value in buffers.items()):
        return "buffers"
    return ""


def _close(found: Tensor, right: Tensor, rtol: float, floor: float = 1e-12) -> bool:
    """Within ``rtol`` of the largest entry; integers are equal, and what is not finite is so at the same places."""
    if not (right.is_floating_point() or right.is_complex()):
        return equal(found, right)
    atol = rtol * _largest(right) + floor
    return allclose(found, right.to(found.dtype), rtol=0, atol=atol, equal_nan=True)


def _largest(x: Tensor) -> float:
    """The largest finite absolute value; 0 of none."""
    sizes = x.abs()
    sizes = sizes[sizes.isfinite()]
    return float(sizes.max()) if sizes.numel() else 0.0
