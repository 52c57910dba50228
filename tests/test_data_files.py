"""Data files under their usual names, in part, or damaged: found, named, refused before they are unpacked."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import tomli_w
from command import decentral, experiment

from decentral.commands.doctor.data_sets import find_data
from decentral.errors import UserError
from decentral.problems.data import load, load_deductions, load_text, load_trees, partial
from decentral.problems.data.file_formats import read_idx, read_libsvm

IMAGES, LABELS = np.zeros((3, 28, 28)), np.array([0, 1, 9])


def idx(array):
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_cifar(folder, batches=1, test=2):
    for k in range(1, batches + 1):
        put(folder / f"data_batch_{k}.bin", bytes(3073 * 3))
    put(folder / "test_batch.bin", bytes(3073 * test))


@pytest.mark.parametrize(
    ("folder", "joint", "packed"),
    [("mnist", ".", False), ("MNIST/raw", "-", False), ("MNIST/raw", "-", True), ("", ".", True)],
)
def test_mnist_is_found_under_its_usual_names(tmp_path, folder, joint, packed):
    for part in ("train", "t10k"):
        for what, end, array in (("images", "idx3-ubyte", IMAGES), ("labels", "idx1-ubyte", LABELS)):
            name = f"{part}-{what}{joint}{end}" + (".gz" if packed else "")
            put(tmp_path / folder / name, gzip.compress(idx(array)) if packed else idx(array))
    assert load("mnist", str(tmp_path)).train_y.tolist() == [0, 1, 9]
    said = "mnist is not whole here: 3 of 60,000 and 3 of 10,000 examples (training and test)"
    assert partial("mnist", str(tmp_path)) == said


def test_cifar10_is_found_where_its_archive_unpacks_and_pickles_are_named(tmp_path):
    put_cifar(tmp_path / "whole" / "cifar-10-batches-bin", batches=5)
    assert len(load("cifar10", str(tmp_path / "whole")).train_y) == 15
    put(tmp_path / "py" / "cifar-10-batches-py" / "data_batch_1", b"")
    with pytest.raises(UserError, match=r"batches-py holds pickles, .*; get cifar-10-binary\.tar\.gz"):
        load("cifar10", str(tmp_path / "py"))
    put(tmp_path / "tar" / "cifar10" / "cifar-10-binary.tar.gz", b"")
    with pytest.raises(UserError, match=r"; unpack .*cifar-10-binary\.tar\.gz there"):
        load("cifar10", str(tmp_path / "tar"))


@pytest.mark.usefixtures("undrawn")
def test_a_part_of_a_set_is_told_in_a_run_and_in_the_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    put_cifar(tmp_path / "cifar10")
    said = "cifar10 is not whole here: 3 of 50,000 and 2 of 10,000 examples"
    assert said in find_data().text
    assert said in " ".join(decentral("list", "data").out.split())
    (tmp_path / "g.csv").write_text("source,target\n0,1\n1,2\n2,0\n")
    table = experiment(
        problem={"name": "logistic-regression", "data": "cifar10"},
        topology={"name": "file", "path": "g.csv"},
        train={"rounds": 1, "batch_size": 1, "lr": 0.1},
    )
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table))
    run = decentral("run", tmp_path / "x.toml", "--out", tmp_path / "out")
    assert run.code == 0, run.err
    (environment,) = (tmp_path / "out").glob("runs/*/environment.json")
    assert said in environment.read_text()
    assert "g.csv has 3 nodes and 3 edges" in environment.read_text()


def test_a_whole_set_and_one_that_is_not_there_are_not_told(tmp_path):
    put(tmp_path / "libsvm" / "w8a", b"-1 1:1\n" * 49_749)
    assert partial("w8a", str(tmp_path)) == partial("mnist", str(tmp_path)) == partial("digits") == ""
    put(tmp_path / "libsvm" / "w8a", b"-1 1:1\n" * 49_748)
    assert partial("w8a", str(tmp_path)) == "w8a is not whole here: 49,748 of 49,749 examples"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:4] + b"\x7f\xff\xff\xff" + idx(IMAGES)[8:16], "1,683,627,179,248 bytes; the most is"),
        (gzip.compress(idx(IMAGES) + bytes(1 << 22)), "found 2369 and more; get the file again"),
        (gzip.compress(idx(IMAGES))[:-4], "cannot read it to its end"),
    ],
    ids=["declared", "unpacked", "cut"],  # else the hour that gzip writes is in the name
)
def test_an_idx_file_that_declares_or_unpacks_too_much_is_stopped(tmp_path, content, message):
    put(tmp_path / "images", content)
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "images", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("+1 99999999999:1\n", "line 1 is '+1 99999999999:1': Invalid index 99999999999, indices are 1 to 4"),
        ("-1 1:1\n+1 3:1 2:1\n", "line 2 is '+1 3:1 2:1': index 2 follows 3, indices ascend"),
        ("-1 1:1\n\n+1 2:nan\n", "line 3 is '+1 2:nan': the value 'nan' is not finite in float32"),
        ("+1 1:1e39\n", "the value '1e39' is not finite in float32"),
        ("+1 1:1+1 2:1\n", "line 1 is '+1 1:1+1 2:1': expected index:value after the label"),
        ("one 1:1\n", "line 1 is 'one 1:1': expected the label -1 or +1 first"),
        ("1.5 1:1\n", "expected labels -1 and +1, found 1.5 in example 0"),
    ],
)
def test_the_wrong_line_of_libsvm_text_is_named(tmp_path, text, message):
    put(tmp_path / "a9a", text.encode())
    with pytest.raises(UserError) as refusal:
        read_libsvm(tmp_path / "a9a", 4)
    assert message in str(refusal.value)


@pytest.mark.parametrize("line", ["(" * 500_000, "(2 " * 40_000, "a" * 99_999, "(2 (1 a) (9 b))", "(2 a"])
def test_a_sentence_without_end_or_with_another_label_is_refused_by_line(tmp_path, line):
    for part, text in (("train", "(2 a)\n" + line), ("dev", "(2 a)"), ("test", "(2 a)")):
        put(tmp_path / "sst" / "trees" / f"{part}.txt", text.encode())
    with pytest.raises(UserError, match=r"train\.txt, line 2: ") as refusal:
        load_trees("sst", str(tmp_path))
    assert len(str(refusal.value)) < 300


def test_texts_in_another_encoding_are_refused(tmp_path):
    put(tmp_path / "tinyshakespeare" / "input.txt", "abc".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"input\.txt: it holds NUL bytes, as UTF-16 does"):
        load_text("tiny-shakespeare", str(tmp_path))
    put(tmp_path / "babi/en/qa15_basic-deduction_train.txt", "1 Mice".encode("utf-16"))
    with pytest.raises(UserError, match=r"train\.txt: its encoding is UTF-16; save it as UTF-8"):
        load_deductions("babi15", str(tmp_path))
