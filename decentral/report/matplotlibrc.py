"""Matplotlib's settings file: figures have their own settings, but a file that cannot be read would end the drawing."""

from __future__ import annotations

import os
from pathlib import Path

from decentral.errors import UserError


def refuse_unreadable() -> None:
    """Raise UserError where matplotlib would read a settings file that is no readable text. Imports no matplotlib."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    named = os.environ.get("MATPLOTLIBRC", "")
    config = os.environ.get("MPLCONFIGDIR") or f"{home}/matplotlib"
    for path in map(Path, ("matplotlibrc", named, f"{named}/matplotlibrc", f"{config}/matplotlibrc")):
        if path.is_file():
            try:
                path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read by matplotlib ({error}); mend or remove it") from None
            return
