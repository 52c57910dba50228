"""A case: files, and a command that is to read them; and its trial."""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from . import forks, tomls
from .judge import fault_of


@dataclass(frozen=True)
class Case:
    """``files``: name -> bytes, or a folder to be copied there; ``arguments`` of `decentral`."""

    arguments: list[str]
    files: dict[str, bytes | Path] = field(default_factory=dict)

    def write(self, folder):
        """Put the files where the command will stand."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copytree(content, path, dirs_exist_ok=True)
            else:
                path.write_bytes(content)


def _toml(random):
    return Case(["run", "x.toml", "--out", "out"], {"x.toml": tomls.mutant(random)})


KINDS = {"toml": _toml}
"""Kind of input -> from a source of random numbers to a case."""


def try_one(kind, seed, number, folder):
    """Case ``number`` of a kind: itself, the answer it gets in the empty ``folder``, and that answer's fault."""
    case = KINDS[kind](random.Random(f"{seed} {kind} {number}"))
    case.write(folder)
    before = _files(folder)
    answer = forks.ask(case.arguments, folder)
    return case, answer, fault_of(answer, before, _files(folder))


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
