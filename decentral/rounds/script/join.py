"""How a user's own script joins the other ranks, and how it ends when something is wrong.

A mistake that is found while ranks agree is raised on all of them alike. Any other error of one rank ends the whole
job: its neighbours would wait for it for ever.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

import topologies
from decentral.algorithms.traits import Method, maker_of, traits_of
from decentral.comm.launch import use_threads
from decentral.comm.meeting import fingerprint
from decentral.comm.schedule import as_schedule
from decentral.comm.world import World, find_world
from decentral.errors import AgreedError, UserError, nearest
from decentral.rounds.mixing import mixing_for, rule_for
from decentral.rounds.script.telling import refuse_together, say
from decentral.tables import from_table
from topologies import named
from topologies.wording import shown

if TYPE_CHECKING:
    from decentral.comm import Communicator


def join(
    mixing: Any, weights: str | None = None, method: Method[Any] | None = None, **parameters: Any
) -> Communicator:
    """The communicator of this process, one worker a rank of the MPI job it was started in; called by every rank.

        comm = decentral.join("one-peer-exponential")
        comm = decentral.join("random-regular", degree=3, seed=1)
        comm = decentral.join(topologies.torus(8), weights="lazy")

    ``mixing``: the name of a topology or of a schedule (``decentral list topologies``), built for as many workers as
    there are ranks, with further ``parameters`` of its constructor; a networkx graph with nodes 0 .. n - 1; a scipy or
    numpy matrix (n, n), row i receives; or a :class:`topologies.Schedule`.
    ``weights``: the rule of a graph's weights, or a matrix file; by default those of ``method``, if it has its own
    (push-sum's "push", MATCHA's matrices), else "metropolis".

    Without MPI there is one worker and nothing is sent; standard error says so. Under MPI a rank computes with
    OMP_NUM_THREADS threads, 1 if that is not set, for ranks share cores.
    Raises UserError, on every rank, for an unknown name, parameters or weights that do not fit, another number of
    workers than ranks, or where ranks ask for different mixing. Left alone, it ends the script with one line on
    standard error and exit code 2; any other error of a rank ends all ranks.
    """
    world = find_world()
    sys.excepthook = _Ending(world, sys.excepthook)
    mistake, schedule = "", None
    try:
        schedule = _schedule(mixing, weights, method, parameters, world.ranks)
    except UserError as error:
        mistake = str(error)
    refuse_together(world.agree(mistake))
    assert schedule is not None
    if len(set(world.agree(fingerprint(schedule)))) > 1:
        raise AgreedError("ranks ask for different mixing; call join with the same arguments on every rank")
    comm = world.communicator(schedule)
    comm.check = True  # by the method's init: Decentralized, or a loop of one's own
    if world.ranks > 1:
        from decentral.comm.departures import departures_of

        use_threads()
        comm.departures = departures_of(world.mpi)
    else:
        say(
            world.rank,
            "one process, so there is one worker and nothing is sent; start with mpirun -n RANKS for more",
        )
    return comm


def _schedule(
    mixing: Any, weights: str | None, method: Method[Any] | None, parameters: dict[str, Any], ranks: int
) -> topologies.Schedule:
    import networkx as nx

    if method is not None:
        from decentral.rounds.script.checks import check_method

        check_method(method)
    if not isinstance(weights, str | None):
        raise UserError(f"weights = {shown(weights)} should be a rule's name or a matrix file's path")
    if isinstance(mixing, str):
        return _by_name(mixing, weights, method, parameters, ranks)
    if parameters:
        raise UserError(
            f"{min(parameters)} is a parameter of a named topology, and join was given {_kind(mixing)}"
        )
    if isinstance(mixing, nx.Graph):
        if sorted(mixing, key=str) != sorted(range(len(mixing)), key=str):
            raise UserError(
                "the graph's nodes must be 0 to n - 1; use networkx.convert_node_labels_to_integers"
            )
        _check_size(len(mixing), "graph", ranks)
        return _of_graph(mixing, weights, method)
    if weights is not None:
        raise UserError(
            f"weights = {shown(weights)}: {_kind(mixing)} has weights of its own; leave weights out"
        )
    if isinstance(mixing, topologies.Schedule):
        _check_size(mixing.n, "schedule", ranks)
        return mixing
    is_matrix = isinstance(mixing, np.ndarray) or sparse.issparse(mixing)
    if not (is_matrix and mixing.ndim == 2 and mixing.dtype.kind in "fiub"):
        raise UserError(
            "join needs a topology's name, a networkx graph, a real numpy or scipy matrix or a Schedule, not "
            f"{_kind(mixing)}"
        )
    _check_size(mixing.shape[0], "matrix", ranks)
    return _user_values(lambda: as_schedule(mixing))


def _by_name(
    name: str, weights: str | None, method: Method[Any] | None, parameters: dict[str, Any], ranks: int
) -> topologies.Schedule:
    constructors = named.constructors()
    if name not in constructors:
        raise UserError(f"topology {shown(name)} is not known; {nearest(name, constructors)}")
    if "n" in parameters or "workers" in parameters:
        raise UserError(
            "the number of workers is the number of ranks; leave it out, and start with mpirun -n RANKS"
        )
    try:
        rule = rule_for(method, name, weights)
        try:
            built = from_table(constructors[name], parameters, "topology", name, n=ranks)
        except UserError as error:
            if ranks > 1 or error.__cause__ is None:
                raise
            return topologies.constant(np.eye(1))  # its keys are right, but it wants more workers
        if ranks == 1 and maker_of(method):
            return topologies.constant(np.eye(1))
        return mixing_for(method, name, built, rule)
    except ValueError as error:
        said = str(error).replace("topology.", "").replace("[topology] ", "")
        raise UserError(f"join on {ranks} rank{'s' * (ranks > 1)}: {said}") from None


def _of_graph(graph: Any, weights: str | None, method: Method[Any] | None) -> topologies.Schedule:
    make = maker_of(method)
    if make and weights is not None:
        raise UserError(
            f"weights = {shown(weights)}: {type(method).__name__} makes its own; leave weights out"
        )
    return _user_values(lambda: named.mixing(graph, weights or traits_of(method).weights, make))


def _user_values(make: Callable[[], topologies.Schedule]) -> topologies.Schedule:
    """What ``make`` gives; a ValueError is the user's mistake."""
    try:
        return make()
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_size(n: int, what: str, ranks: int) -> None:
    if n != ranks:
        there = "there is 1 process" if ranks == 1 else f"there are {ranks} ranks"
        raise UserError(
            f"the {what} has {n} workers but {there}; start with mpirun -n {n}, or give one of {ranks}"
        )


def _kind(value: Any) -> str:
    return shown(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


class _Ending:
    """sys.excepthook of a script that has joined: see the module."""

    def __init__(self, world: World, before: Any) -> None:
        self.world = world
        self.before: Any = before.before if isinstance(before, _Ending) else before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        mistake, alone = isinstance(error, UserError), self.world.ranks == 1
        if mistake and (alone or isinstance(error, AgreedError)):
            say(self.world.rank, str(error))
            raise SystemExit(2)
        if alone:
            self.before(kind, error, trace)
            return
        if not mistake:
            traceback.print_exception(kind, error, trace)
        text = str(error) if mistake else f"{kind.__name__}: {error}".removesuffix(": ")
        interrupted = issubclass(kind, KeyboardInterrupt)
        self.world.abort(" ".join(text.split()), 2 if mistake else 130 if interrupted else 1)
