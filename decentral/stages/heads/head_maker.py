"""From a local head's name to the head after a layer: shapes, loss and first parameters come from the network's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from decentral.errors import UserError, nearest
from decentral.problems.models.initialise import initialise
from decentral.stages.heads import HEADS
from decentral.stages.heads.local_head import LocalHead, make_head
from decentral.stages.heads.local_losses import LOSSES, Loss, OfLogits, make_loss
from topologies.streams import stream_key
from topologies.wording import shown


def head_maker(
    shapes: Sequence[Sequence[int]],
    input_shape: Sequence[int],
    classes: int,
    seed: int,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    own: Loss | None = None,
) -> Callable[[str, int], LocalHead]:
    """``make(name, layer)``: the head after ``layer``, for stages that ask by name.

    A name is that of a head in HEADS, trained by cross-entropy, or "HEAD+LOSS" with a loss in LOSSES, for instance
    "conv+predsim". ``shapes``: of the layers' outputs, from :func:`decentral.stages.shapes.boundary_shapes`.
    ``own``: the network's loss, where labels are numbers and no classes: it trains all heads.
    ``tables``: name of a head or loss -> its parameters. First parameters are drawn from a stream of (seed, "head",
    layer), on the CPU: they do not depend on how the network is cut.
    Making the heads of all boundaries once checks them. Raises UserError for unknown names and parameters, and for a
    shape that the head or its loss cannot take.
    """
    tables = tables or {}
    unknown = [name for name in tables if name not in HEADS and name not in LOSSES]
    if unknown:
        raise UserError(
            f"unknown local head or loss {shown(unknown[0])}; {nearest(unknown[0], [*HEADS, *LOSSES])}"
        )

    def make(name: str, layer: int) -> LocalHead:
        head, _, loss = name.partition("+")
        if own is not None and loss:
            raise UserError(
                f"local loss {shown(loss)} is of classes, and the problem's labels are numbers; write {shown(head)}, "
                "which is trained by the problem's own loss"
            )
        loss = loss or "cross-entropy"
        shape = shapes[layer]
        takes = inspect.signature(HEADS[head]).parameters if head in HEADS else {}
        place = {key: value for key, value in (("layer", layer), ("shapes", shapes)) if key in takes}

        def build() -> LocalHead:
            trained_by = (
                make_loss(loss, shape, classes, input_shape, **tables.get(loss, {}))
                if own is None
                else OfLogits(own)
            )
            return make_head(head, shape, classes, trained_by, **place, **tables.get(head, {}))

        made = initialise(build, stream_key(seed, "head", layer))
        assert isinstance(made, LocalHead)
        return made

    return make
