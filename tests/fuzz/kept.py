"""What runs leave, real and small: results and checkpoints, one file spoilt; and the commands that read them."""

import contextlib
import functools
import io
import os
import tempfile
from pathlib import Path

from .graphs import RUN
from .scrawl import spoilt, spoilt_bytes

_SWEEP = '\n[sweep.algorithm]\nname = ["dsgd", "decentlam"]\n'


@functools.cache
def _folders():
    """An experiment that has ended, and one that was cut short after a checkpoint: their files."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        text = RUN.format(topology='name = "ring"\nworkers = 4').replace("rounds = 2", "rounds = 10")
        (home / "x.toml").write_text(text + _SWEEP)
        _made(["run", "x.toml", "--out", "ended"], home, cut=False)
        _made(["run", "x.toml", "--out", "cut"], home, cut=True)
        return {name: {str(p.relative_to(home)): p.read_bytes() for p in (home / name).rglob("*") if p.is_file()}
                | {"x.toml": (home / "x.toml").read_bytes()} for name in ("ended", "cut")}  # fmt: skip


def _made(arguments, home, cut):
    """Run it in a process of its own, or up to its sixth round, as if it were killed there."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(home)
            _do(arguments, cut)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _do(arguments, cut):
    import sys

    from decentral.cli import main
    from decentral.runs.rounds.training import Training

    if cut:
        whole = Training._round

        def some(training):
            if training.t == 6:
                os._exit(0)
            whole(training)

        Training._round = some
    sys.argv = ["decentral", *arguments]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        main()


def command_and_files(random):
    """(arguments, files) of one case."""
    which = random.choice(("ended", "cut", "cut"))
    files = dict(_folders()[which])
    names = sorted(
        name for name in files if name.startswith(which) and not name.endswith((".png", ".svg", ".html"))
    )
    checkpoints = [name for name in names if name.endswith(".pt")]
    name = random.choice(checkpoints if checkpoints and random.random() < 0.4 else names)
    how = random.random()
    if how < 0.08:
        del files[name]
    elif how < 0.16:
        files[name] = b""
    elif how < 0.24:
        files[name] = files[random.choice(names)]
    elif how < 0.30:
        files[f"{name}/inside"] = files.pop(name)  # a folder where a file should be
    else:
        files[name] = (spoilt_bytes if name.endswith(".pt") else spoilt)(files[name], random)
    if which == "cut" and random.random() < 0.7:
        return ["run", "x.toml", "--out", which, "--resume"], files
    other = [
        ["compare", which],
        ["plot", which, "--out", "f.png"],
        ["run", "x.toml", "--out", which, "--resume"],
    ]
    return random.choice(other), files
