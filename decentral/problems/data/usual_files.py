"""The files of MNIST and CIFAR-10 under the names and in the folders in which they are usually found."""

from __future__ import annotations

from pathlib import Path

from decentral.problems.data.data_root import find_file

MNIST_HOME = "http://yann.lecun.com/exdb/mnist/"
CIFAR10_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"

_MNIST_FOLDERS = ("MNIST/raw", "MNIST", "mnist/raw", "mnist/MNIST/raw", "raw")
_CIFAR10_FOLDERS = (
    "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "CIFAR10/cifar-10-batches-bin", "cifar-10", "CIFAR10",
)  # fmt: skip


def mnist_files(root: Path | None, part: str) -> tuple[Path, Path]:
    """Images and labels of ``part`` "train" or "t10k", packed or not; as published, or with a point in the name."""
    images, labels = (
        find_file(root, "mnist", _names(f"{part}-{what}", end), MNIST_HOME, _MNIST_FOLDERS)
        for what, end in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
    )
    return images, labels


def cifar10_files(root: Path | None) -> tuple[list[Path], Path]:
    """The training batches of the binary version that are there, the first at least, and the test batch."""
    more = {"others": _CIFAR10_FOLDERS, "instead": _cannot_be_read(root)}
    first = find_file(root, "cifar10", ["data_batch_1.bin"], CIFAR10_HOME, **more)  # type: ignore[arg-type]
    batches = [p for k in range(1, 6) if (p := first.with_name(f"data_batch_{k}.bin")).is_file()]
    names = ["test_batch.bin", "test_batch_first1000.bin"]
    return batches, find_file(root, "cifar10", names, CIFAR10_HOME, **more)  # type: ignore[arg-type]


def _names(stem: str, end: str) -> list[str]:
    return [f"{stem}{joint}{end}{packed}" for joint in "-." for packed in (".gz", "")]


def _cannot_be_read(root: Path | None) -> str:
    """What is said of CIFAR-10 in a form that is not read: still packed, or pickled for Python."""
    for folder in ("cifar10", "", "CIFAR10"):
        for name in (
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            "data_batch_1",
        ):
            place = Path(folder, name)
            if root is None or not (root / place).exists():
                continue
            if name == "cifar-10-binary.tar.gz":
                return f"unpack {place} there (tar xzf)"
            return (
                f"{place} holds pickles, which are not loaded; get cifar-10-binary.tar.gz of {CIFAR10_HOME}"
            )
    return ""
