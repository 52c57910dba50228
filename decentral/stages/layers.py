"""A network as a list of layers and a head: what can be cut into stages and trained by parts.

Where a ``torch.nn.Sequential`` has no declared parts, a layer begins at each child with parameters of its own;
normalisation, activation and other children without go with the layer before. The last layer is the head, with
the pooling and flattening before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from decentral.errors import UserError

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_POOLS = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Identity)


@dataclass(frozen=True)
class Network:
    """``layers`` one after the other, then ``head``, which gives logits."""

    layers: tuple[nn.Module, ...]
    head: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of the batch x."""
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits

    def modules(self) -> nn.ModuleList:
        """Layers, then the head, as one module: for its parameters, its state and its mode."""
        return nn.ModuleList([*self.layers, self.head])


def network_of(module: nn.Module) -> Network:
    """The layers and the head of ``module``: its ``layers`` and ``head``, or the parts of an ``nn.Sequential``.

    Raises UserError if it is neither, or has fewer than one layer and a head.
    """
    layers, head = getattr(module, "layers", None), getattr(module, "head", None)
    if isinstance(layers, nn.ModuleList | list | tuple) and isinstance(head, nn.Module):
        return Network(tuple(layers), head)
    if not isinstance(module, nn.Sequential):
        raise UserError(
            f"a {type(module).__name__} cannot be cut into stages: give an nn.Sequential, or a module that has "
            "`layers` (a ModuleList) and `head`"
        )
    groups = _grouped(list(module))
    if len(groups) < 2:
        raise UserError(
            f"the network has {len(groups)} layer(s) with parameters and cannot be cut; "
            "it needs 2, of which the last is the head"
        )
    *body, last = groups
    while len(body[-1]) > 1 and _is_pool(body[-1][-1]):
        last.insert(0, body[-1].pop())
    return Network(tuple(_joined(group) for group in body), _joined(last))


def _grouped(children: list[nn.Module]) -> list[list[nn.Module]]:
    groups: list[list[nn.Module]] = []
    before: list[nn.Module] = []  # children without parameters ahead of the first layer
    for child in children:
        begins = any(True for _ in child.parameters()) and not isinstance(child, _NORMS)
        if begins:
            groups.append([*before, child])
            before = []
        else:
            (groups[-1] if groups else before).append(child)
    return groups


def _is_pool(child: nn.Module) -> bool:
    return isinstance(child, _POOLS) or type(child).__name__ == "GlobalAverage"


def _joined(children: list[nn.Module]) -> nn.Module:
    return children[0] if len(children) == 1 else nn.Sequential(*children)
