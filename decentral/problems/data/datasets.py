"""Data sets: small public classification sets as tensors in the scale a model wants.

`digits` comes with scikit-learn; the others are read from their standard files below a data root,
which is named by the caller or by the environment variable DECENTRAL_DATA. Nothing is downloaded.
Splits are part of the data set: they never depend on the seed of a run.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from decentral.errors import UserError
from decentral.problems.data.data_root import find_file
from decentral.problems.data.dataset import Dataset, Scale, fixed_split
from decentral.problems.data.file_formats import check_labels, read_cifar10, read_idx, read_libsvm
from decentral.problems.data.usual_files import cifar10_files, mnist_files
from topologies.streams import stream

Array = np.ndarray[Any, Any]

LIBSVM_HOME = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html"

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the 60,000 training images' pixels, black 0 and white 1."""

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""The same of red, green, blue over all 50,000 training images, whichever batches are there."""

_MNIST, _CIFAR10 = Scale(MNIST_MEAN, MNIST_STD), Scale(CIFAR10_MEAN, CIFAR10_STD)


@functools.cache
def digits(root: Path | None = None) -> Dataset:
    """8x8 grey digits, 10 classes, 1,797 images (N, 1, 8, 8), pixels 0..16 divided by 16.

    Read from the file inside the installed scikit-learn, which is not imported; ``root`` is unused.
    Split 80/20 (1,437 training, 360 test images) by the fixed stream (0, "split", "digits").
    """
    del root
    package = importlib.util.find_spec("sklearn")
    places = package.submodule_search_locations if package else None
    path = Path(places[0], "datasets", "data", "digits.csv.gz") if places else None
    if path is None or not path.is_file():
        raise UserError("digits needs scikit-learn's file datasets/data/digits.csv.gz; install scikit-learn")
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    x, y = table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1]
    train, test = fixed_split("digits", len(y))
    note = "split 80/20, fixed; pixel (0..16) / 16"
    return Dataset.of("digits", (x[train], y[train]), (x[test], y[test]), 10, note, Scale())


@functools.cache
def random_labels(root: Path | None = None) -> Dataset:
    """Noise with labels that mean nothing, 10 classes, 1,000 + 200 examples (N, 32) from N(0, 1).

    Training accuracy measures capacity; the test set can only be guessed.
    """
    del root
    draw = stream(0, "random-labels")
    x = draw.standard_normal((1_200, 32))
    y = draw.integers(10, size=1_200)
    note = "drawn from a fixed stream; labels are independent of the inputs"
    return Dataset.of("random-labels", (x[:1_000], y[:1_000]), (x[1_000:], y[1_000:]), 10, note)


@functools.cache
def mnist(root: Path | None) -> Dataset:
    """28x28 grey digits, 10 classes, (N, 1, 28, 28): (pixel/255 - 0.1307) / 0.3081, standard split."""
    x, y = _mnist_part(root, "train")
    test_x, test_y = _mnist_part(root, "t10k")
    note = f"standard split; (pixel/255 - {MNIST_MEAN}) / {MNIST_STD}"
    return Dataset.of("mnist", (x, y), (test_x, test_y), 10, note, _MNIST)


@functools.cache
def cifar10(root: Path | None) -> Dataset:
    """32x32 colour images, 10 classes, (N, 3, 32, 32): (pixel/255 - mean) / std per channel.

    Training images are those of data_batch_1.bin to data_batch_5.bin that are there (the first must
    be); test images test_batch.bin, else test_batch_first1000.bin. The note says which were read.
    """
    train, test = cifar10_files(root)
    batches = [read_cifar10(path) for path in train]
    test_x, test_y = read_cifar10(test)
    x, y = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    note = (
        f"train {', '.join(p.name for p in train)} ({len(y)} images); test {test.name} ({len(test_y)}); "
        f"(pixel/255 - mean) / std with mean {CIFAR10_MEAN}, std {CIFAR10_STD}"
    )
    x, test_x = (_CIFAR10.of(pixels / np.float32(255)) for pixels in (x, test_x))
    return Dataset.of("cifar10", (x, y), (test_x, test_y), 10, note, _CIFAR10)


@functools.cache
def a9a(root: Path | None) -> Dataset:
    """UCI Adult, 123 binary features, 2 classes, (N, 123), values as they are: files a9a and a9a.t."""
    train, test = (find_file(root, "libsvm", [name], LIBSVM_HOME) for name in ("a9a", "a9a.t"))
    note = "train a9a, test a9a.t; features as they are; class 1 is the label +1"
    return Dataset.of("a9a", read_libsvm(train, 123), read_libsvm(test, 123), 2, note)


@functools.cache
def w8a(root: Path | None) -> Dataset:
    """Web pages as 300 binary keywords, 2 classes (3 % positive), (N, 300), values as they are.

    The file w8a alone is read, and split 80/20 by the fixed stream (0, "split", "w8a").
    """
    x, y = read_libsvm(find_file(root, "libsvm", ["w8a"], LIBSVM_HOME), 300)
    train, test = fixed_split("w8a", len(y))
    note = "w8a split 80/20, fixed; features as they are; class 1 is the label +1"
    return Dataset.of("w8a", (x[train], y[train]), (x[test], y[test]), 2, note)


def _mnist_part(root: Path | None, part: str) -> tuple[Array, Array]:
    images, labels = mnist_files(root, part)
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if x.shape[1:] != (28, 28) or len(x) != len(y):
        raise UserError(
            f"{images}: expected shape ({len(y)}, 28, 28) to go with {labels.name}, found {x.shape}"
        )
    if not len(y):
        raise UserError(f"{images}: it holds no images; get the file again")
    check_labels(labels, y, 10)
    return _MNIST.of(x[:, None] / np.float32(255)), y
