"""Matrix files whose headers lie, whose indices point outside, or which have names of rows and columns."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from scipy import sparse

import topologies

RING = topologies.ring(3)
W = topologies.mixing_matrix(RING).toarray()
ROWS = [",".join(map(repr, row)) for row in W.tolist()]
MTX = "%%MatrixMarket matrix coordinate real general\n"


def npy(shape, body=b""):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def archive(**arrays):
    csr = {
        "format": b"csr",
        "shape": [3, 3],
        "data": np.ones(3),
        "indices": [0, 1, 2],
        "indptr": [0, 1, 2, 3],
    }
    file = io.BytesIO()
    np.savez(file, **{key: np.asarray(value) for key, value in (csr | arrays).items()})
    return file.getvalue()


def bomb():
    """A thousand times as large unpacked."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("arr_0.npy", npy((10**6, 10**6), bytes(1 << 22)))
    return file.getvalue()


@pytest.mark.parametrize(
    "lines",
    [
        ["0,1,2", *ROWS],
        ["a,b,c", *ROWS],
        [",0,1,2", *(f"{i},{row}" for i, row in enumerate(ROWS))],
        [f"{i},{row}" for i, row in enumerate(ROWS)],
        [",a,b,c", *(f"{name},{row}" for name, row in zip("abc", ROWS, strict=True))],
        ["\ufeff" + ROWS[0] + "\r", *(row.replace(",", " , ") for row in ROWS[1:])],
        [row.replace(",", ";") for row in ROWS],
    ],
)
def test_a_table_of_a_spreadsheet_is_the_matrix(tmp_path, lines):
    (tmp_path / "w.csv").write_text("\n".join(lines), encoding="utf-8")
    np.testing.assert_array_equal(topologies.mixing_matrix(RING, tmp_path / "w.csv").toarray(), W)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "dia"])
def test_each_sparse_format_is_read(tmp_path, kind):
    sparse.save_npz(tmp_path / "w.npz", sparse.csr_array(W).asformat(kind))
    np.testing.assert_array_equal(topologies.mixing_matrix(RING, tmp_path / "w.npz").toarray(), W)
    np.savez(tmp_path / "one.npz", W)
    np.testing.assert_array_equal(topologies.mixing_matrix(RING, tmp_path / "one.npz").toarray(), W)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npy", npy((10**6, 10**6)), "its header says 1000000 x 1000000; at most 100,000 workers"),
        ("w.npy", npy((90_000, 90_000)), "with 8,100,000,000 numbers; the most is"),
        ("w.npy", npy((3, 3), bytes(71)), "its header says 72 bytes of numbers, and 71 follow"),
        ("w.npy", npy("[" * 300), "its header cannot be read"),
        ("w.npz", bomb(), "its header says 1000000 x 1000000"),
        ("w.npz", archive(indptr=[0, 1, 2, 2**31 - 1]), "its indptr do not fit 3 x 3"),
        ("w.npz", archive(indptr=[0, -7, 2, 3]), "its indptr do not fit 3 x 3"),
        ("w.npz", archive(indices=[0, 1, 99]), "its indices do not fit 3 x 3"),
        ("w.npz", archive(indices=[0, 1, -1]), "its indices do not fit 3 x 3"),
        ("w.npz", archive(shape=[10**12, 10**12]), "at most 100,000 workers"),
        ("w.npz", archive(format=b"bsr"), "its sparse format is 'bsr'; save it as csr"),
        ("w.mtx", b"\0" * 200, "line 1 holds NUL bytes"),
        ("w.mtx", MTX + "99999999 99999999 1\n1 1 1\n", "at most 100,000 workers"),
        ("w.mtx", MTX + "3 3 2\n1 1 1\n", "its header says 2 entries, and 1 follow"),
        ("w.mtx", MTX + "3 3 1\n4 1 1\n", "line 3 is '4 1 1', outside of 3 x 3"),
        ("w.csv", "", "it holds no numbers"),
        ("w.csv", "0.5,0.5\n0.5\n", "line 2 is '0.5': it has 1 numbers where the first row has 2"),
        ("w.csv", "0,5;0,5\n0,5;0,5\n", "write decimals with a point"),
        ("w.csv", ",b,a\nb,1,0\na,0,1\n", "the names of its rows are in another order"),
        ("w.csv", "1e308,1e308,1e308\n0,1,0\n0,0,1\n", "row 0 of the mixing matrix sums to inf"),
        ("w.txt", "1 0 0\n0 1 x\n0 0 1\n", "line 2 is '0 1 x': x is no number"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused_before_it_is_built(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        topologies.mixing_matrix(RING, tmp_path / name)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / name))
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)


def test_a_pickle_is_not_loaded(tmp_path):
    np.save(tmp_path / "w.npy", W.astype(object))
    with pytest.raises(
        ValueError, match=r"w\.npy: it holds Python objects \(a pickle\), which are not loaded"
    ):
        topologies.mixing_matrix(RING, tmp_path / "w.npy")
