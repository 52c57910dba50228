"""Where data lie: below one folder, which is named by the caller or by the environment variable DECENTRAL_DATA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from decentral.errors import UserError
from topologies.text_files import read_text


def find_file(
    root: Path | None, folder: str, names: list[str], home: str, others: Sequence[str] = (), instead: str = ""
) -> Path:
    """The first of ``names`` (in that order) in ``root/folder``, in ``root`` itself or in folders ``others`` below it.

    Raises `UserError` naming the files, the places and ``home``, the data set's public page; ``instead`` says what is
    there but cannot be read.
    """
    if root is None:
        raise UserError(f"{folder} is read from files ({home}); give a data root or set DECENTRAL_DATA to it")
    if not os.path.isdir(root):
        raise UserError(
            f"data root {root} is no folder; give the one that holds the files of {folder} ({home})"
        )
    for name in names:
        for path in (root / folder / name, root / name, *(root / other / name for other in others)):
            if os.path.isfile(path):
                return path
    if instead:
        raise UserError(f"no file {names[0]} below {root}; {instead}")
    raise UserError(
        f"no file {' or '.join(names[:2])} in {root} or its folder {folder}; get it from {home} and put it there, or "
        "name another data root"
    )


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, lines ended by a line feed. Raises `UserError` that names the file."""
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
