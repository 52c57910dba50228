"""Where data lie: below one folder, which is named by the caller or by the environment variable DECENTRAL_DATA."""

from __future__ import annotations

from pathlib import Path

from decentral.errors import UserError


def find_file(root: Path | None, folder: str, names: list[str], home: str) -> Path:
    """The first of ``names`` (in that order) that lies in ``root/folder`` or directly in ``root``.

    Raises `UserError` naming the files, the places and ``home``, the data set's public page.
    """
    if root is None:
        raise UserError(f"{folder} is read from files ({home}); give a data root or set DECENTRAL_DATA to it")
    if not root.is_dir():
        raise UserError(
            f"data root {root} is no folder; give the one that holds the files of {folder} ({home})"
        )
    for name in names:
        for path in (root / folder / name, root / name):
            if path.is_file():
                return path
    raise UserError(
        f"no file {' or '.join(names)} in {root / folder} or {root}; get it from {home} "
        "and put it there, or name another data root"
    )
