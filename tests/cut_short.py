"""Experiments run on 1, 2 and 4 ranks, and cut short twice to go on with other numbers of ranks."""

import networkx as nx
from command import write
from ranks import run_ranks
from test_methods_directed import digraph

# all experiments from the start; then those under "cut" go on, each run up to its checkpoint of round `until`
_SCRIPT = """
import sys
from pathlib import Path
import decentral.runs.run as command
from decentral.runs.journal import Journal

class Stopped(BaseException):
    pass

home, whole, until = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
command._show = lambda folder: None
keep, one = Journal.keep, command._one

def all_of(folder, resume):
    for file in sorted(home.glob("*.toml")):
        code = command.run(file, (), home / folder / file.stem, resume)
        assert code == (3 if file.stem == "diverging" else 0), (file, code)

def stopping(journal, state):
    keep(journal, state)
    if state["t"] == until:
        raise Stopped

def cut(*args):
    try:
        return one(*args)
    except Stopped:
        return {"status": "stopped", "message": "", "final": {}}

all_of(whole, False)
Journal.keep, command._one = stopping, cut
all_of("cut", True)
"""


def run_all(home, experiments, start=run_ranks, more=""):
    """``home`` with folders "1", "2", "4" of ranks, and "cut": rounds up to 4 on 1 rank, up to 8 on 4, the last on 2.

    Ranks are started three times: each time they do all ``experiments`` (name -> changes of a table), and then go on
    with those under "cut", and last with the code ``more``. ``start``: how they are started, as by run_ranks.
    A file g.edgelist, of a digraph of 8 workers, lies beside them.
    """
    nx.write_edgelist(digraph(8, 8), home / "g.edgelist", data=False)
    for name, changes in experiments.items():
        write(home / f"{name}.toml", **changes)
    for ranks, until in ((1, 4), (4, 8), (2, 12)):
        said = start(
            ranks, "-c", _SCRIPT + more + "\nprint('done', flush=True)", home, str(ranks), str(until)
        )
        assert said.stdout.count("done") == ranks, said.stderr
    return home
