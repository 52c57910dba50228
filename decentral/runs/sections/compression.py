"""``[compression]``: the compressor of the links, and where theory leaves no room for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decentral.algorithms.traits import Described, traits_of
from decentral.errors import UserError
from decentral.tables import fields_of, from_table, pop_name, schema
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.comm.compression import Compressor


@dataclass(frozen=True)
class Compression:
    """``[compression]`` in TOML: a compressor by name, its fields, and ``error_feedback``.

    Without the key, error feedback is around a biased compressor of gradients that keeps no residue itself.
    """

    name: str
    keys: Mapping[str, Any]
    chosen: Any
    error_feedback: bool

    @classmethod
    def from_table(cls, table: Mapping[str, Any], algorithm: Described) -> Compression | None:
        """Checked against the compressor's fields and what the method sends; None for no table or the name "none"."""
        if not table:
            return None
        from decentral.comm.compression import LINKS  # here: they import torch

        table = dict(table)
        name = pop_name(table, "compression", {**LINKS, "none": None})
        if name == "none":  # so that a sweep can have a baseline
            from_table(lambda: None, table, "compression", name)
            return None
        feedback = table.pop("error_feedback", None)
        chosen = from_table(LINKS[name], table, "compression", name)
        keys = {key: table.get(key, default) for key, (_, default) in schema(LINKS[name], {}).items()}
        if not isinstance(feedback, bool | None):
            raise UserError(f"compression.error_feedback = {shown(feedback)} should be true or false")
        if feedback is None:
            feedback = (
                traits_of(algorithm).sends == "gradients" and not chosen.unbiased and not chosen.keeps_residue
            )
        compression = cls(name, keys, chosen, feedback)
        compression._check(algorithm)
        return compression

    def compressor(self) -> Compressor:
        """The compressor, with error feedback where it is asked for."""
        from decentral.comm.compression import ErrorFeedback

        return ErrorFeedback(self.chosen) if self.error_feedback else self.chosen

    def resolved(self) -> dict[str, Any]:
        """The table with its defaults written out."""
        return {"name": self.name, **self.keys, "error_feedback": self.error_feedback}

    def _check(self, method: Described) -> None:
        sends, name = traits_of(method).sends, type(method).__name__
        if sends == "edges":
            raise UserError(
                f"compression.name = {self.name!r}: {name} has links of its own; remove [compression]"
            )
        if sends == "models" and not self.chosen.unbiased:
            raise UserError(
                f"compression.name = {self.name!r} leaves out parts of what it is given, and {name} sends models; use "
                "an unbiased compressor (qsgd, or random-k with unbiased = true), or algorithm.name = choco, which "
                "sends differences, or pmsgd, which sends gradients"
            )
        if sends != "gradients" and (self.chosen.keeps_residue or self.error_feedback):
            raise UserError(
                f"compression.name = {self.name!r} keeps what it leaves out, and {name} sends it again itself; "
                f"{_WITHOUT.get(self.name, 'set compression.error_feedback = false')}"
            )
        if self.error_feedback or sends == "differences":
            try:
                self.chosen.check_feedback()
            except ValueError as error:
                what = (
                    "compression.error_feedback = true"
                    if self.error_feedback
                    else f"{name} feeds errors back"
                )
                raise UserError(f"{what}: {error}") from error
        momentum = fields_of(method).get("momentum", 0.0)
        if self.name == "dgc" and momentum:
            raise UserError(
                f"compression.name = {self.name!r} has momentum itself and algorithm.momentum = {momentum}; "
                "set algorithm.momentum = 0.0"
            )


_WITHOUT = {"adacomp": "use algorithm.name = pmsgd", "dgc": "use top-k"}
