"""A data root of small files in the formats that are read, one of them spoilt; and a run on it."""

import functools
import gzip
import random as randoms
import struct

from .scrawl import spoilt

_RUN = """name = "small"
[problem]
{problem}
data_root = "."
{rest}
[train]
lr = 0.1
rounds = 1
eval_samples = 20
"""
_ROUNDS = """[topology]
name = "ring"
workers = 2
[algorithm]
name = "dsgd"
"""


@functools.cache
def roots():
    """Lines of [problem] -> (what else the file has, name of a file below the root -> its bytes)."""
    digits = randoms.Random(0)
    images = {}
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = digits.randbytes(count * 28 * 28)
        images[f"mnist/{part}-images-idx3-ubyte"] = struct.pack(">IIII", 2051, count, 28, 28) + pixels
        labels = bytes(i % 10 for i in range(count))
        images[f"mnist/{part}-labels-idx1-ubyte.gz"] = gzip.compress(
            struct.pack(">II", 2049, count) + labels, mtime=0
        )
    records = b"".join(bytes([i % 10]) + digits.randbytes(3072) for i in range(10))
    lines = "".join(
        f"{'+1' if i % 2 else '-1'} {1 + i % 100}:1 {110 + i % 14}:1\n" for i in range(40)
    ).encode()
    trees = "".join(
        f"({i % 5} (2 word{i % 7}) ({(i + 1) % 5} (3 is) (1 bad{i % 3})))\n" for i in range(20)
    ).encode()
    story = "".join(
        f"1 Sheep are afraid of wolves.\n2 Mice are afraid of {who}s.\n3 Gertrude is a sheep.\n4 Jessica is a mouse.\n"
        f"5 What is jessica afraid of?\t{who}\t2 4\n6 What is gertrude afraid of?\twolf\t1 3\n"
        for who in ("cat", "wolf", "cat", "wolf")
    ).encode()
    text = b"First Citizen: we are accounted poor citizens, the patricians good.\n" * 80
    return {
        'name = "logistic-regression"\ndata = "mnist"': (_ROUNDS, images),
        'name = "logistic-regression"\ndata = "cifar10"': (
            _ROUNDS,
            {"cifar10/data_batch_1.bin": records, "cifar10/test_batch.bin": records},
        ),
        'name = "logistic-regression"\ndata = "a9a"': (_ROUNDS, {"libsvm/a9a": lines, "libsvm/a9a.t": lines}),
        'name = "sentiment-trees"\ntrees = "sst"\nwidth = 4': (
            "[dataflow]",
            {f"sst/trees/{part}.txt": trees for part in ("train", "dev", "test")},
        ),
        'name = "basic-deduction"\nstories = "babi15"': (
            "[dataflow]",
            {f"babi/en/qa15_basic-deduction_{part}.txt": story for part in ("train", "test")},
        ),
        'name = "lstm"\ntext = "tiny-shakespeare"\nwidth = 4\ndepth = 1\ncontext = 8': (
            _ROUNDS,
            {"tinyshakespeare/input.txt": text},
        ),
    }


def command_and_files(random):
    """(arguments, files) of one case."""
    problem = random.choice(sorted(roots()))
    rest, files = roots()[problem]
    files = dict(files)
    name = random.choice(sorted(files))
    if random.random() < 0.05:
        del files[name]
    elif name.endswith(".gz") and random.random() < 0.5:
        files[name] = gzip.compress(spoilt(gzip.decompress(files[name]), random), mtime=0)
    else:
        files[name] = spoilt(files[name], random)
    return ["run", "x.toml", "--out", "out"], {
        "x.toml": _RUN.format(problem=problem, rest=rest).encode(),
        **files,
    }
