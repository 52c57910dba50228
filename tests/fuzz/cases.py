"""A case: files, and a command that is to read them; and its trial."""

import random
from dataclasses import dataclass, field

from . import data, forks, graphs, kept, tomls
from .judge import fault_of


@dataclass(frozen=True)
class Case:
    """``arguments`` of `decentral`, and ``files``: name -> bytes."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder):
        """Put the files where the command will stand."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _toml(random):
    return Case(["run", "x.toml", "--out", "out"], {"x.toml": tomls.mutant(random)})


KINDS = {
    "toml": _toml,
    "graphs": lambda random: Case(*graphs.command_and_files(random)),
    "data": lambda random: Case(*data.command_and_files(random)),
    "kept": lambda random: Case(*kept.command_and_files(random)),
}
"""Kind of input -> from a source of random numbers to a case."""


def try_one(kind, seed, number, folder, drawn=None, limit_s=forks.LIMIT_S):
    """Case ``number`` of a kind: itself, the answer it gets in the empty ``folder``, and that answer's fault.

    ``drawn``: with figures, which take most of a run's time; without a word every fifth has them.
    """
    case = KINDS[kind](random.Random(f"{seed} {kind} {number}"))
    case.write(folder)
    before = _files(folder)
    answer = forks.ask(case.arguments, folder, limit_s, drawn=number % 5 == 0 if drawn is None else drawn)
    return case, answer, fault_of(answer, before, _files(folder), "--resume" in case.arguments)


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
