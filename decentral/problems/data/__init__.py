"""Data sets, their file formats, and how samples are dealt to workers and drawn in batches.

The tables here are all that knows the sets by name: what a file may ask for, what is loaded, what is listed. No torch.
"""

from __future__ import annotations

import os
import pkgutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from decentral.errors import UserError, nearest
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.problems.data.babi import Deductions
    from decentral.problems.data.dataset import Dataset
    from decentral.problems.data.ratings import Ratings
    from decentral.problems.data.sentiment_trees import Treebank
    from decentral.problems.data.speech import Speech
    from decentral.problems.data.text import Text


class Source(NamedTuple):
    """Where a set's ``loader(root)`` is, and what it is about, for people.

    ``file``: folder and first file of a set that is read below the data root; "" of one that is embedded. ``whole``:
    examples for training and for testing, or in all, where ``held_by(root)`` counts those of its files.
    """

    loader: str
    about: str
    file: str = ""
    whole: tuple[int, ...] = ()
    held_by: str = ""


DATASETS = {
    "digits": Source(
        "decentral.problems.data.datasets:digits",
        "1,797 images of 8 x 8, 10 classes; embedded in scikit-learn",
    ),
    "random-labels": Source(
        "decentral.problems.data.datasets:random_labels",
        "1,200 examples of 32 features of noise, 10 classes; embedded, to be learned by heart",
    ),
    "mnist": Source(
        "decentral.problems.data.datasets:mnist",
        "70,000 images of 28 x 28, 10 classes; from the data root",
        "mnist/train-images-idx3-ubyte",
        (60_000, 10_000),
        "decentral.problems.data.holdings:mnist",
    ),
    "cifar10": Source(
        "decentral.problems.data.datasets:cifar10",
        "60,000 colour images of 32 x 32, 10 classes; from the data root",
        "cifar10/data_batch_1.bin",
        (50_000, 10_000),
        "decentral.problems.data.holdings:cifar10",
    ),
    "a9a": Source(
        "decentral.problems.data.datasets:a9a",
        "48,842 examples of 123 binary features, 2 classes; LIBSVM text from the data root",
        "libsvm/a9a",
        (32_561, 16_281),
        "decentral.problems.data.holdings:a9a",
    ),
    "w8a": Source(
        "decentral.problems.data.datasets:w8a",
        "49,749 examples of 300 binary features, 2 classes; LIBSVM text from the data root",
        "libsvm/w8a",
        (49_749,),
        "decentral.problems.data.holdings:w8a",
    ),
}
"""Examples with labels, for classification."""

TEXTS = {
    "sums": Source(
        "decentral.problems.data.text:sums", "a text of additions written out, 10,000 lines; embedded"
    ),
    "tiny-shakespeare": Source(
        "decentral.problems.data.text:tiny_shakespeare",
        "a text of 1.1 million characters; from the data root",
        "tinyshakespeare/input.txt",
    ),
}
"""Texts, to be continued character by character."""

TREEBANKS = {
    "signed-words": Source(
        "decentral.problems.data.sentiment_trees:signed_words",
        "binary trees of words with a class at each node; embedded",
    ),
    "sst": Source(
        "decentral.problems.data.sentiment_trees:sst",
        "Stanford Sentiment Treebank, 11,855 sentences as binary trees, 5 classes or 2; from the data root",
        "sst/trees/train.txt",
    ),
}
"""Sentences as trees."""

DEDUCTIONS = {
    "generated": Source(
        "decentral.problems.data.babi:generated", "stories of bAbI's task 15, 2,000 questions; embedded"
    ),
    "babi15": Source(
        "decentral.problems.data.babi:babi15",
        "bAbI task 15, 1,000 questions to learn from and 1,000 to judge; from the data root",
        "babi/en/qa15_basic-deduction_train.txt",
    ),
    "babi15-10k": Source(
        "decentral.problems.data.babi:babi15_10k",
        "the same with 10,000 questions to learn from",
        "babi/en-10k/qa15_basic-deduction_train.txt",
    ),
}
"""Stories as graphs, with questions."""

RATINGS = {
    "low-rank": Source(
        "decentral.problems.data.ratings:low_rank",
        "a fifth of 1,000 users x 150 items, of low rank and a known noise; embedded",
    ),
    "movielens": Source(
        "decentral.problems.data.rating_files:movielens",
        "MovieLens' ratings.csv (userId, movieId, rating, timestamp); from the data root",
        "movielens/ratings.csv",
    ),
    "movielens-100k": Source(
        "decentral.problems.data.rating_files:movielens_100k",
        "100,000 ratings of 1,682 films by 943 people; u.data from the data root",
        "ml-100k/u.data",
    ),
}
"""Who rated what, how and when."""

SPEECH = {
    "spoken-phonemes": Source(
        "decentral.problems.data.speech:spoken_phonemes",
        "4,000 words of noisy phonemes, 10 words that share them, 8 speakers; embedded",
    ),
    "fsdd": Source(
        "decentral.problems.data.spoken_digits:spoken_digits",
        "Free Spoken Digit Dataset, 3,000 recordings of ten digits, 6 speakers; from the data root",
        "fsdd/recordings/0_george_0.wav",
        (2_700, 300),
        "decentral.problems.data.holdings:fsdd",
    ),
}
"""Spoken words, a window of frames each."""

SOURCES: dict[str, Mapping[str, Source]] = {
    "data set": DATASETS, "text": TEXTS, "treebank": TREEBANKS, "deductions": DEDUCTIONS, "ratings": RATINGS,
    "speech": SPEECH,
}  # fmt: skip
"""What is loaded, in a word -> its sets by name."""


def load(name: str, data_root: str | None = None) -> Dataset:
    """The data set called ``name``, its files below ``data_root``, else below $DECENTRAL_DATA.

    Raises `UserError` for an unknown name, a data root that is no folder or is not given where files are needed, and
    for missing or damaged files. Loaded once per process and root; so are the other sets.
    """
    found: Dataset = _load("data set", name, data_root)
    return found


def load_text(name: str = "sums", data_root: str | None = None) -> Text:
    """The text called ``name``; see `load`."""
    found: Text = _load("text", name, data_root)
    return found


def load_trees(name: str = "signed-words", data_root: str | None = None) -> Treebank:
    """The treebank called ``name``; see `load`."""
    found: Treebank = _load("treebank", name, data_root)
    return found


def load_deductions(name: str = "generated", data_root: str | None = None) -> Deductions:
    """The questions called ``name``; see `load`."""
    found: Deductions = _load("deductions", name, data_root)
    return found


def load_ratings(name: str = "low-rank", data_root: str | None = None) -> Ratings:
    """The ratings called ``name``; see `load`."""
    found: Ratings = _load("ratings", name, data_root)
    return found


def load_speech(name: str = "spoken-phonemes", data_root: str | None = None) -> Speech:
    """The spoken words called ``name``; see `load`."""
    found: Speech = _load("speech", name, data_root)
    return found


def held(name: str, root: Path) -> tuple[int, ...] | None:
    """How many examples of a set the files below ``root`` hold, as in `Source.whole`; None where it is not known."""
    source = next((sets[name] for sets in SOURCES.values() if name in sets), None)
    if source is None or not source.whole:
        return None
    try:
        found: tuple[int, ...] = pkgutil.resolve_name(source.held_by)(root)
    except (UserError, OSError, EOFError, zlib.error):
        return None  # whoever loads it is told
    return found


def partial(name: str, data_root: str | None = None) -> str:
    """In words how much of a set there is; "" of one that is whole, not there, or without a known size."""
    given = data_root or os.environ.get("DECENTRAL_DATA")
    here = held(name, Path(given).expanduser()) if given else None
    source = next((sets[name] for sets in SOURCES.values() if name in sets), None)
    if source is None or here is None or here == source.whole:
        return ""
    parts = [f"{some:,} of {all_:,}" for some, all_ in zip(here, source.whole, strict=True)]
    kinds = " (training and test)" if parts[1:] else ""
    return f"{name} is not whole here: {' and '.join(parts)} examples{kinds}"


def _load(what: str, name: str, data_root: str | None) -> Any:
    sources = SOURCES[what]
    if name not in sources:
        raise UserError(f"unknown {what} {shown(name)}; {nearest(name, sources)}")
    given = data_root or os.environ.get("DECENTRAL_DATA")
    return pkgutil.resolve_name(sources[name].loader)(Path(given).expanduser() if given else None)
