"""``python -m benchmarks [NAME ...]``: all tables, or those named."""

import importlib
import sys

from benchmarks.timing import print_lines

NAMES = (
    "training_step",
    "round_update",
    "busy",
    "family",
    "many_workers",
    "recording",
    "mpi",
    "transports",
    "stages",
    "pipelining",
    "local_speedup",
    "prediction",
    "dataflow",
    "compression",
    "clocks",
    "asynchronous",
    "drop_in",
    "rules",
    "cells",
    "recommender",
    "quantised",
    "decoder",
    "actors",
    "lab",
)

for name in sys.argv[1:] or NAMES:
    print_lines(name.replace("_", " "), importlib.import_module(f"benchmarks.{name}").measure())
