"""Which data sets are below the folder that DECENTRAL_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

from decentral.commands.doctor.finding import Finding
from decentral.problems.data import SOURCES, held, partial
from topologies.wording import LONGEST_VALUE, cut


def find_data() -> Finding:
    """The data sets that are there, and those that are not."""
    topic, named = "data", os.environ.get("DECENTRAL_DATA", "")
    files = {name: source.file for sets in SOURCES.values() for name, source in sets.items() if source.file}
    if not named:
        remedy = f"export DECENTRAL_DATA=FOLDER for {', '.join(files)}"
        return Finding(topic, "note", "digits is built in; DECENTRAL_DATA is not set", remedy)
    root = Path(named).expanduser()
    if not os.path.isdir(root):
        text = f"DECENTRAL_DATA={cut(named, LONGEST_VALUE)} is no folder"
        return Finding(topic, "broken", text, "set it to the folder that holds the data sets")
    found = [name for name, file in files.items() if _is_there(root, name, file)]
    absent = [name for name in files if name not in found]
    text = f"{', '.join(['digits', *found])} in {named}" + (f"; not {', '.join(absent)}" if absent else "")
    text += "".join(f"; {here}" for name in found if (here := partial(name)))
    if not found:
        return Finding(topic, "missing", text, f"put the files there, e.g. {root / 'mnist'}")
    return Finding(topic, "ok", text)


def _is_there(root: Path, name: str, file: str) -> bool:
    """Whether the first file of a data set is, in its folder or in the root itself, or all under their usual names."""
    places = file, file.partition("/")[2]
    return held(name, root) is not None or any(
        (root / (place + end)).is_file() for place in places for end in ("", ".gz")
    )
