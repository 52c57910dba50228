"""Commands end sensibly on any terminal, locale, pipe and disk: no traceback, a line, an exit code."""

import errno
import io
import os
import shlex
from pathlib import Path

import pytest
import ranks
from command import decentral, write

from decentral import disk
from decentral.commands import terminal
from decentral.report.matplotlibrc import refuse_unreadable
from decentral.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "bias2 |- 1-2 Sx ?"), ("latin-1", "bias² |- 1-2 Sx ?"), ("utf-8", "bias² │─ 1–2 Σx 数")],
)
def test_signs_that_an_encoding_lacks_are_replaced_cell_by_cell(encoding, expected):
    text, raw = "bias² │─ 1–2 Σx 数", io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors="decentral") as stream:
        stream.write(text)
        stream.flush()
        assert raw.getvalue().decode(encoding) == expected
    assert len(expected) == len(text)


def shell(command, **env):
    """The command line in a shell, ``decentral`` in it being a warm process."""
    python = shlex.join([*ranks.servers().command(1), "-m", "decentral"])
    script = f'set -o pipefail; decentral() {{ {python} "$@"; }}; {command}'
    done = ranks.run(["bash", "-c", script], 120, env=ranks.environment(**env))
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (
            "decentral list algorithms > /dev/full",
            4,
            "standard output: a file cannot be written: no space left",
        ),
        ("decentral topology ring -n 4 | true", 141, ""),
        ("decentral topology ring -n 4 2> /dev/full", 0, ""),
        ("MPLBACKEND=nothing decentral topology ring -n 4 --out x.png", 0, ""),
        ("ln -s nowhere link; decentral run x.toml --out link/a", 2, "is a link to nowhere"),
    ],
)
def test_streams_may_fail(command, code, said):
    write(Path("x.toml"))
    done = shell(command)
    assert (done.returncode, said in done.stderr) == (code, True), done


def test_a_settings_file_that_matplotlib_cannot_read_is_named():
    Path("matplotlibrc").write_bytes(b"\xff\xfe")
    said = decentral("run", write(Path("x.toml")), "--out", "out")
    assert said.code == 2
    assert "matplotlibrc cannot be read" in said.err
    Path("matplotlibrc").write_text("# none\n")
    refuse_unreadable()


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.EIO, errno.ENOENT]
)
@pytest.mark.parametrize("what", ["records", "checkpoint", "status"])
def test_a_disk_that_takes_no_more_is_one_line_and_resume_goes_on(monkeypatch, number, what):
    method = {"records": "append", "checkpoint": "keep", "status": "end"}[what]
    file = write(Path("x.toml"), train={"rounds": 6, "checkpoint_every": 2})
    with pytest.MonkeyPatch.context() as patch:

        def full(*_):
            with disk.naming(Path("out/runs/x")):
                raise OSError(number, os.strerror(number))

        patch.setattr(RunFolder, method, full)
        said = decentral("run", file, "--out", "out")
    assert said.code == disk.EXIT_CODE == 4
    line = said.err.splitlines()[-1]
    assert os.strerror(number).lower() in line
    assert "what was recorded is kept (in out), and --resume goes on" in line
    assert decentral("run", file, "--out", "out", "--resume").code == 0


def test_what_cannot_be_written_whole_leaves_the_old_file_and_nothing_else(tmp_path):
    disk.write_whole(tmp_path / "x", "old")

    def full(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(disk.DiskError, match="x"):
        disk.write_whole(tmp_path / "x", full)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"x": "old"}


def test_a_stream_tells_its_first_error_and_is_silent_after_it():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "full")

    stream = terminal._Stream(Full())
    assert stream.write("text") == 4
    stream.flush()
    assert stream.error.errno == errno.ENOSPC
