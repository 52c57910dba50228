"""Where data lie: below one folder, which is named by the caller or by the environment variable DECENTRAL_DATA."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from decentral.errors import UserError, nearest

T = TypeVar("T")


def load_named(
    what: str, loaders: Mapping[str, Callable[[Path | None], T]], name: str, data_root: str | None
) -> T:
    """What the loader called ``name`` makes of the files below ``data_root``, else below $DECENTRAL_DATA.

    Raises `UserError` for an unknown name; ``what`` is the word for what is loaded.
    """
    if name not in loaders:
        raise UserError(f"unknown {what} {name!r}; {nearest(name, loaders)}")
    given = data_root or os.environ.get("DECENTRAL_DATA")
    return loaders[name](Path(given).expanduser() if given else None)


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
