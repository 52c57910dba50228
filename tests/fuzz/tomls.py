"""Experiment files, mutated: their values, their keys, their text; rounds are few, so that valid ones end soon."""

import copy
import datetime
import functools
import tomllib
from pathlib import Path

import tomli_w

from .scrawl import spoilt_text

ROOT = Path(__file__).resolve().parents[2]
_EMBEDDED = {"data": "digits", "text": "sums", "trees": "signed-words", "stories": "generated"}
_NUMBERS = (
    0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**63 - 1, -(2**63), 10**18, 10**9, 99_999_999, 10**30,
    0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e308, -1e308, 1e30, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
_OTHERS = (
    True, False, "", "x", "auto", "full", "ring", "dsgd", "ü\u202e\u0007", "a" * 100_000, "../../etc", "/", "\x00",
    "nan", [], [[]], {}, [1, 2], ["a", 1], [0] * 5_000, {"name": "ring"}, {"": 1}, {"a": {"b": {"c": {}}}}, [{}],
    datetime.datetime(2024, 1, 1), datetime.date(2024, 2, 29), datetime.time(1, 2),
)  # fmt: skip


@functools.cache
def bases():
    """The tables of our own experiments, made small: few rounds, few workers, one value an axis, data embedded."""
    files = [*sorted((ROOT / "experiments").glob("*.toml")), ROOT / "examples" / "own_model.toml"]
    return [_small(tomllib.loads(path.read_text(encoding="utf-8"))) for path in files]


def _small(table):
    table["seeds"] = [0]
    table["sweep"] = _few(table.get("sweep", {}))
    train = table.setdefault("train", {})
    train["rounds"] = 2
    if isinstance(train.get("batch_size"), int):
        train["batch_size"] = min(8, train["batch_size"])
    train["eval_samples"] = 20
    topology = table.get("topology", {})
    if isinstance(topology.get("workers"), int):
        topology["workers"] = min(8, topology["workers"])
    problem = table.get("problem", {})
    problem |= {key: name for key, name in _EMBEDDED.items() if key in problem}
    problem |= {key: 50 for key in ("train", "validation") if key in problem}
    problem |= {key: 8 for key in ("width",) if key in problem}
    if problem.get("name") == "list-reduction":
        problem |= {"train": 50, "validation": 50}
    figures = [figure for figure in table.get("figure", []) if "group" not in figure]
    return {"name": "small", **table, "figure": figures[:1]}


def _few(axis):
    """One value of each axis, two of a case."""
    if isinstance(axis, dict):
        return {key: _few(value) for key, value in axis.items()}
    return axis[:1]


def mutant(random):
    """The text of one experiment file, as bytes."""
    table = copy.deepcopy(random.choice(bases()))
    if random.random() < 0.15:
        other = copy.deepcopy(random.choice(bases()))
        table |= {key: other[key] for key in random.sample(sorted(other), min(2, len(other)))}
    if random.random() < 0.85:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            _change(table, random)
    text = _written(table)
    if random.random() < 0.25:
        for _ in range(random.choice((1, 1, 2, 5))):
            text = spoilt_text(text, random)
    raw = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.03:
        raw = random.choice(
            (b"\xef\xbb\xbf" + raw, raw.decode("utf-8", "ignore").encode("utf-16"), raw + b"\xff\xfe")
        )
    return raw


def _written(table):
    try:
        return tomli_w.dumps(table)
    except (TypeError, ValueError, AttributeError):
        return repr(table)
    except RecursionError:  # of the writer, or of repr: what is too deep for them is written flat
        return "x = " + "[" * 3_000 + "]" * 3_000 + "\n"


def _places(value, path=()):
    """(table, key) of each value inside, tables themselves too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            if isinstance(inner, dict | list):
                yield from _places(inner, (*path, i))
            yield value, i


def _change(table, random):
    places = list(_places(table))
    holder, key = random.choice(places)
    old = holder[key]
    how = random.random()
    if how < 0.12:
        del holder[key]
    elif how < 0.45 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = random.choice((*_NUMBERS, old * 1000, -old, old + 1, float(old), str(old), [old]))
    elif how < 0.60:
        holder[key] = random.choice(_NUMBERS)
    elif how < 0.75:
        holder[key] = random.choice(_OTHERS)
    elif how < 0.85 and isinstance(holder, dict):
        holder[random.choice((key + "s", key.upper(), key[:-1], "x" * 300, "ü", ""))] = holder.pop(key)
    else:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place]) if random.random() < 0.7 else _deep(random)


def _deep(random):
    value = random.choice((1, "x"))
    for _ in range(random.choice((5, 50, 200))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value
