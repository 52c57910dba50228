"""What is known to fail before the first round of a run: a bad mixing, an unstable one, one not to compile."""

from __future__ import annotations

import torch

import topologies
from decentral.algorithms.traits import traits_of
from decentral.comm.plan import workers_a_rank
from decentral.comm.world import World
from decentral.errors import UserError
from decentral.network import Gossip, all_reduce_s
from decentral.optimizers.listening import Listening
from decentral.optimizers.rule import is_asked
from decentral.optimizers.spans import nothing_acted_on
from decentral.problems.capabilities import Layered
from decentral.rounds.compiled import CompiledMethod
from decentral.rounds.ruled import refuse_boost, refuse_second_rule
from decentral.rounds.trials.contract import refuse_misfit
from decentral.rounds.trials.messages import early_messages, messages_a_round
from decentral.rounds.trials.needs import refuse_unmet
from decentral.rounds.trials.stability import refuse_unstable
from decentral.runs.computing import compute_time
from decentral.runs.place import layout_of, place_of
from decentral.runs.rescaling import refuse_rescaling
from decentral.runs.rounds.config import RoundsRun
from decentral.runs.rounds.faults import refuse_faults
from decentral.runs.rows import refuse_batch, refuse_rows, vectors_kept
from decentral.runs.sections.actors import hosting_ranks
from decentral.runs.sections.adversarial import worker_ranks
from decentral.runs.sections.network import PerSample
from decentral.runs.sections.phases import Phases


def check(run: RoundsRun, world: World) -> None:
    """Raise UserError for it."""
    ranks = hosting_ranks(run.problem, run.workers, world.ranks)
    ranks = worker_ranks(run.adversarial, run.workers, ranks)
    workers_a_rank(run.workers, ranks)
    refuse_rows(run, ranks, vectors_kept(run.algorithm) + (run.adversarial is not None))
    mixing, train = run.topology.mixing(), run.train
    refuse_misfit(run.algorithm, getattr(torch, train.dtype))
    refuse_second_rule(run.algorithm, run.optimizer)
    refuse_boost(run.algorithm, run.optimizer)
    if run.faults:
        refuse_faults(
            run.algorithm, mixing, run.faults, compressed=run.compression is not None, compiled=train.compile
        )
    if run.noise_scale and run.noise_scale.most_batch:
        refuse_batch(run, world.ranks, run.noise_scale.most_batch, "noise_scale.most_batch")
    if train.compile:
        _check_compiled(run, world, mixing)
    if run.phases:
        _check_phases(run.phases, run)
    if run.trust_ratios and (why := nothing_acted_on(run.optimizer, layout_of(run))):
        raise UserError(f"[trust_ratios] would record nothing: {why}")
    refuse_rescaling(run, run.optimizer, run.algorithm)
    if run.phases:
        refuse_rescaling(run, run.phases.rule, None, "phases.replicas.optimizer")
    refuse_unmet(run.algorithm, mixing)
    _check_network(run, mixing)
    if not run.allow_unstable:
        rounds = range(0, train.rounds, max(1, train.rounds // 10_000))
        lr = max(map(run.lr, rounds))
        # how far lr reaches behind a rule is the rule's, and one that adapts may turn before its highest: without a
        # problem the mixing alone is looked at
        problem = None if is_asked(run.optimizer) or isinstance(run.rates, Listening) else run.problem
        refuse_unstable(run.algorithm, mixing, lr, problem, run.seed, train.weight_decay)


def _check_compiled(run: RoundsRun, world: World, mixing: topologies.Schedule) -> None:
    others = {
        "[compression]": run.compression is not None,
        type(run.algorithm).__name__: not traits_of(run.algorithm).linear,
        "[optimizer]": is_asked(run.optimizer),
    }
    if any(others.values()):
        raise UserError(
            "train.compile = true is for methods of arithmetic, mixing and means alone; set it to false, or do without "
            f"{next(name for name, there in others.items() if there)}"
        )
    CompiledMethod(run.algorithm, world.communicator(mixing))


def _check_phases(phases: Phases, run: RoundsRun) -> None:
    """A batch of workers alone must be one that there are samples for."""
    batch, key = phases.replicas.batch_size, "phases.replicas.batch_size"
    try:
        run.problem.check(batch, run.train.weight_decay)
    except ValueError as error:
        raise UserError(str(error).replace("train.batch_size", key)) from None
    if isinstance(run.problem, Layered):
        sizes = [len(shard) for shard in run.problem.made(run.workers, run.seed).shards]
        there = sum(sizes) if phases.replicas.data == "all" else min(sizes)
        if batch > there:
            whose = "there are" if phases.replicas.data == "all" else "the worker with the fewest has"
            raise UserError(f"{key} = {batch}, and {whose} {there} training samples; lower it")


def _check_network(run: RoundsRun, mixing: topologies.Schedule) -> None:
    cluster = run.network.cluster
    try:
        Gossip(mixing, cluster)
        if cluster.between is None and messages_a_round(run.algorithm).averages:
            all_reduce_s(run.network.all_reduce, cluster, 0.0)
    except UserError as error:
        raise UserError(f"[network] {error}") from None
    if isinstance(run.network.compute, PerSample):
        compute_time(run.network, run.problem, place_of(run, range(1), torch.device("cpu")))
    if run.network.overlap and not any(early_messages(run.algorithm)):
        raise UserError(
            f"network.overlap = true, but nothing that {type(run.algorithm).__name__} sends is ready before the "
            'gradient; set it to false, or use a method such as dsgd with algorithm.variant = "awc"'
        )
