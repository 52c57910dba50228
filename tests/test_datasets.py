from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_svmlight_file

from decentral.commands.catalogue import catalogue
from decentral.errors import UserError
from decentral.problems import LogisticRegression
from decentral.problems.data import DATASETS, Source, load
from decentral.problems.data.dataset import Dataset
from decentral.problems.data.datasets import CIFAR10_MEAN, CIFAR10_STD, cifar10, digits
from decentral.problems.data.file_formats import read_cifar10, read_idx, read_libsvm
from decentral.tables import from_table

ROOT = os.environ.get("DECENTRAL_DATA", "")
needs_files = [pytest.mark.data, pytest.mark.skipif(not ROOT, reason="DECENTRAL_DATA is not set")]


def sha256(*path: str) -> str:
    return hashlib.sha256(Path(ROOT, *path).read_bytes()).hexdigest()


def counts(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels).tolist()


def idx_bytes(array: np.ndarray) -> bytes:
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, train: np.ndarray, labels: np.ndarray) -> None:
    for part in ("train", "t10k"):
        (root / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(train))
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))


def cifar_bytes(labels: list[int]) -> bytes:
    rng = np.random.default_rng(0)
    return b"".join(bytes([y]) + rng.bytes(3072) for y in labels)


def test_digits_are_those_of_scikit_learn_split_without_loss() -> None:
    data = load("digits")
    theirs = load_digits()
    ours = torch.cat([data.train_x, data.test_x]).reshape(-1, 64).double().numpy() * 16
    rows = np.concatenate([ours, torch.cat([data.train_y, data.test_y])[:, None].numpy()], axis=1)
    expected = np.concatenate([theirs.data, theirs.target[:, None]], axis=1)
    assert np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert (data.train_x.dtype, data.train_y.dtype) == (torch.float32, torch.int64)
    assert (data.shape, data.classes) == ((1, 8, 8), 10)


def test_the_split_of_digits_is_always_the_same() -> None:
    torch.manual_seed(1)
    first = digits.__wrapped__(None)  # type: ignore[attr-defined]
    torch.manual_seed(2)
    again = digits.__wrapped__(None)  # type: ignore[attr-defined]
    assert torch.equal(first.test_x, again.test_x)
    assert first.test_y[:10].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 5, 9]


@pytest.mark.slow
def test_digits_load_without_importing_scikit_learn() -> None:
    code = (
        "import sys; from decentral.problems.data import load; load('digits'); "
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_data_set_is_loaded_once_per_process() -> None:
    assert load("digits") is load("digits")


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load("mnits")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "a9a", "w8a"])
def test_without_a_data_root_the_error_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECENTRAL_DATA", raising=False)
    with pytest.raises(UserError, match="DECENTRAL_DATA"):
        load(name)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "a9a", "w8a"])
def test_a_missing_file_is_named_with_its_place_and_home_page(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"https?://") as caught:
        load(name, str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        load("mnist", str(tmp_path / "nowhere"))


def test_the_argument_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path / "nowhere"))
    write_mnist(tmp_path, np.zeros((3, 28, 28)), np.array([0, 1, 9]))
    assert len(load("mnist", str(tmp_path)).train_y) == 3
    with pytest.raises(UserError, match="nowhere"):
        load("mnist")


def test_idx_is_read_back_plain_and_compressed(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(tmp_path / "plain", 3), array)
    assert np.array_equal(read_idx(tmp_path / "packed", 3), array)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-1], "expected 40 bytes .* found 39"),
        (lambda raw: raw + b"x", "expected 40 bytes .* found 41"),
        (lambda raw: raw[:7], "header of 16 bytes, found a file of 7"),
        (lambda raw: b"\x00\x00\x0d\x03" + raw[4:], "expected IDX magic number 2051 .* found 3331"),
        (lambda raw: gzip.compress(raw)[:-9], "cannot read it to its end"),
        (lambda raw: gzip.compress(raw)[:12] + b"\xff" * 20, "cannot read it to its end"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(spoil, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "images-idx3"
    path.write_bytes(spoil(idx_bytes(np.arange(24).reshape(2, 3, 4))))
    with pytest.raises(UserError, match=f"images-idx3: .*{message}"):
        read_idx(path, 3)


def test_mnist_refuses_labels_above_nine_and_unequal_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_mnist(tmp_path / "a", np.zeros((2, 28, 28)), np.array([3, 10]))
    with pytest.raises(UserError, match="labels 0 to 9, found 10 in record 1"):
        load("mnist", str(tmp_path / "a"))
    write_mnist(tmp_path, np.zeros((2, 28, 28)), np.array([3]))
    with pytest.raises(UserError, match=r"expected shape \(1, 28, 28\).* found \(2, 28, 28\)"):
        load("mnist", str(tmp_path))


def test_cifar10_keeps_planes_rows_and_labels_in_place(tmp_path: Path) -> None:
    raw = cifar_bytes([7, 0])
    (tmp_path / "b.bin").write_bytes(raw)
    images, labels = read_cifar10(tmp_path / "b.bin")
    assert labels.tolist() == [7, 0]
    assert images[1, 2, 5, 9] == raw[3073 + 1 + 2 * 1024 + 5 * 32 + 9]


def test_cifar10_takes_the_batches_that_are_there_and_says_which(tmp_path: Path) -> None:
    for name, labels in (("data_batch_1", [1, 2]), ("data_batch_4", [3]), ("test_batch_first1000", [4])):
        (tmp_path / f"{name}.bin").write_bytes(cifar_bytes(labels))
    data = cifar10(tmp_path)
    assert data.train_y.tolist() == [1, 2, 3]
    assert "data_batch_1.bin, data_batch_4.bin" in data.note
    assert "test_batch_first1000.bin" in data.note
    first = cifar_bytes([1, 2])[1]
    expected = (first / 255 - CIFAR10_MEAN[0]) / CIFAR10_STD[0]
    assert data.train_x[0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("raw", [b"", cifar_bytes([1])[:-1]])
def test_cifar10_refuses_a_broken_record(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(raw)
    with pytest.raises(UserError, match=f"b.bin: expected .*3073 bytes .* found {len(raw)} bytes"):
        read_cifar10(tmp_path / "b.bin")


def test_cifar10_refuses_a_label_above_nine(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(cifar_bytes([9, 10]))
    with pytest.raises(UserError, match="labels 0 to 9, found 10 in record 1"):
        read_cifar10(tmp_path / "b.bin")


def test_libsvm_text_becomes_dense_rows_and_labels_zero_and_one(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("-1 1:1 3:0.5 \n+1 \n+1 4:-2\n")
    x, y = read_libsvm(tmp_path / "t", 4)
    assert x.tolist() == [[1, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, -2]]
    assert y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("+1 3:1 5:1\n", "not LIBSVM text with 4 features"),
        ("+1 0:1 2:1\n", "Invalid index 0"),
        ("+1 2:\n", "not LIBSVM text"),
        ("+1 banana\n", "not LIBSVM text"),
        ("2 1:1\n", r"labels -1 and \+1, found 2"),
        ("", "at least one line"),
    ],
)
def test_damaged_libsvm_text_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=f"t.txt: .*{message}"):
        read_libsvm(tmp_path / "t.txt", 4)


class TestTheFiles:
    pytestmark = needs_files

    def test_mnist_has_the_published_counts_and_is_standardised(self) -> None:
        image_file = "train-images-idx3-ubyte.gz"
        assert sha256("mnist", image_file).startswith("440fcabf73cc546f")
        data = load("mnist")
        assert counts(data.train_y) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert counts(data.test_y) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert data.train_x.shape == (60000, 1, 28, 28)
        assert data.test_x.shape == (10000, 1, 28, 28)
        # the constants are rounded to 4 digits: 0.00005 / 0.3081 < 2e-4, and as much of the deviation
        assert abs(data.train_x.double().mean()) < 2e-4
        assert abs(data.train_x.double().std() - 1) < 2e-4
        assert data.test_x.double().mean() * 0.3081 + 0.1307 == pytest.approx(0.1325, abs=1e-4)

    def test_cifar10_has_the_published_counts_and_channel_means(self) -> None:
        assert sha256("cifar10", "data_batch_1.bin").startswith("cee916563c9f80d8")
        data = load("cifar10")
        if "(10000 images)" not in data.note or "first1000" not in data.note:
            pytest.skip("the data root holds more of CIFAR-10 than the counts below are for")
        assert counts(data.train_y) == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
        assert counts(data.test_y) == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
        for x, published in (
            (data.train_x, (0.4935, 0.4834, 0.4472)),
            (data.test_x, (0.4967, 0.4867, 0.4510)),
        ):
            mean = x.double().mean(dim=(0, 2, 3)).numpy() * CIFAR10_STD + CIFAR10_MEAN
            assert mean == pytest.approx(np.array(published), abs=6e-5)
        # one batch against the constants of all five: close to standard, not exactly
        assert data.train_x.mean(dim=(0, 2, 3)).abs().max() < 0.02
        assert (data.train_x.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02

    def test_a9a_has_the_published_counts_and_no_feature_is_lost(self) -> None:
        assert sha256("libsvm", "a9a").startswith("f5d5ffd8d865ff41")
        assert sha256("libsvm", "a9a.t").startswith("1f448a153f0320399a7e40836eb207655b0bde0f21fc941c")
        data = load("a9a")
        assert counts(data.train_y) == [24720, 7841]
        assert counts(data.test_y) == [12435, 3846]
        assert (data.train_x.shape, data.test_x.shape) == ((32561, 123), (16281, 123))
        assert (int(data.train_x.sum()), int(data.test_x.sum())) == (451592, 225731)
        theirs, labels = load_svmlight_file(str(Path(ROOT, "libsvm", "a9a")))
        assert np.array_equal(data.train_x.numpy(), theirs.toarray())
        assert np.array_equal(data.train_y.numpy() * 2 - 1, labels)

    def test_w8a_has_the_published_counts_over_both_sides_of_the_split(self) -> None:
        assert sha256("libsvm", "w8a").startswith("6a9fa8fd5f524303")
        data = load("w8a")
        assert (len(data.train_y), len(data.test_y)) == (39799, 9950)
        both_x, both_y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
        assert counts(both_y) == [48270, 1479]
        assert both_x.shape == (49749, 300)
        assert int(both_x.sum()) == 579586
        assert int((both_x.sum(dim=1) == 0).sum()) == 4203

    def test_a_folder_of_files_is_a_data_root_too(self) -> None:
        data: Dataset = load("a9a", str(Path(ROOT, "libsvm")))
        assert torch.equal(data.train_x, load("a9a").train_x)


def test_a_data_set_is_a_file_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_points.py").write_text(
        "import numpy as np\n"
        "from decentral.problems.data.dataset import Dataset\n"
        "def two_points(root):\n"
        "    both = np.eye(2), np.arange(2)\n"
        "    return Dataset.of('two-points', both, both, 2, str(root))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"problem.data = 'two-points' should be 'digits', .* or 'w8a'$"):
        from_table(LogisticRegression, {"data": "two-points"}, "problem")
    monkeypatch.setitem(DATASETS, "two-points", Source("two_points:two_points", "two points; embedded"))
    problem = from_table(LogisticRegression, {"data": "two-points"}, "problem")
    problem.prepare(2, seed=0)
    assert load(problem.data, str(tmp_path)).note == str(tmp_path)
    assert catalogue()["data"]["two-points"] == "two points; embedded"
