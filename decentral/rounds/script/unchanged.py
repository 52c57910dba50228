"""What a script must leave as it was when Decentralized was made: which parameters there are, and where they lie."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import Tensor, nn

from decentral.errors import UserError
from decentral.rounds.script.parameter_row import ParameterRow
from topologies.wording import shown


class Unchanged:
    """The parameters in ``row`` and the ``frozen`` ones, all that the optimizer has, and those of ``model``.

    ``check`` is called in every step: it goes by identity, in a fraction of the time of ``model.parameters()``.
    """

    def __init__(
        self,
        row: ParameterRow,
        groups: list[dict[str, Any]],
        frozen: list[nn.Parameter],
        model: nn.Module | None,
    ) -> None:
        self.row, self.frozen, self.model = row, frozen, model
        self._given = [p for group in groups for p in group["params"]]
        named = {} if model is None else dict(model.named_parameters())
        self._names = {p: name for name, p in named.items()}
        self._look()

    def _look(self) -> None:
        """Remember the model's tree of modules and parameters, to be told in every step from another."""
        modules = () if self.model is None else self.model.modules()
        tables = [table for each in modules for table in (each._parameters, each._modules)]
        self._tables = [table for table in tables if _tells_apart(table)]
        self._as_it_was = [dict(table) for table in self._tables]
        self._others = [(table, [*table.values()]) for table in tables if not _tells_apart(table)]

    def _is_as_it_was(self) -> bool:
        try:
            # dicts take what is identical to be equal, and compare nothing else as long as nothing has changed
            alike = self._tables == self._as_it_was
        except (RuntimeError, TypeError, ValueError):  # no truth in the comparison of two tensors
            return False
        return alike and all(_same([*table.values()], kept) for table, kept in self._others)

    def check(self, groups: list[dict[str, Any]]) -> None:
        """Raise UserError if the optimizer's groups or the model have other parameters, or those lie elsewhere."""
        if not _same([p for group in groups for p in group["params"]], self._given):
            raise UserError(
                "the optimizer's groups have other parameters than when Decentralized was made; add groups before that"
            )
        if not self._is_as_it_was():
            self._check_model()
            self._look()
        self.row.check()
        if any(p.grad is not None or p.requires_grad for p in self.frozen):
            raise UserError(
                "a parameter that was frozen when Decentralized was made is trained now; make the optimizers anew"
            )
        for p in self.row.parameters:
            gradient = p.grad
            if gradient is None:
                if not p.requires_grad:
                    raise UserError(
                        "a parameter that was trained when Decentralized was made is frozen now, and would still be "
                        "mixed; make the optimizers anew"
                    )
            elif gradient.is_sparse:
                raise UserError("a gradient is sparse, and mixing is dense; use Embedding(sparse=False)")

    def _check_model(self) -> None:
        """A parameter may have another name, as pruning gives it, but must be the same object."""
        assert self.model is not None
        now = {p: name for name, p in self.model.named_parameters()}
        new = [name for p, name in now.items() if p not in self._names]
        gone = [self._names[p] for p in self._given if p in self._names and p not in now]
        for names, what in ((new, "has got a new"), (gone, "has lost its")):
            if names:
                raise UserError(
                    f"the model {what} parameter {shown(names[0])} since Decentralized was made, by a new layer or "
                    "load_state_dict(assign=True); change the model first, and then make its optimizers"
                )


def _same(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))


def _tells_apart(table: object) -> bool:
    """Whether a dict with another parameter is certain to be unequal: one element could have the same value."""
    return isinstance(table, dict) and all(not isinstance(p, Tensor) or p.numel() > 1 for p in table.values())
