"""The words for columns, swept fields, methods and runs, on axes and over tables, and the units they are written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decentral.report.results import MISSING, Experiment, Run, Titled, Value


@dataclass(frozen=True)
class Column:
    """The words for a column: on an axis, over a table; its unit, and which end of it is better.

    ``final``: results.csv has it, and of some kinds of run, or of all, metrics.csv has not.
    """

    axis: str
    short: str
    unit: str = ""
    better: str = ""
    final: bool = False


COLUMNS = {
    "round": Column("round", "round"),
    "epoch": Column("epoch", "epoch"),
    "spectral_gap": Column("spectral gap 1 - ρ of the mixing matrix", "gap", better="high", final=True),
    "samples": Column("training samples seen", "samples"),
    "wall_s": Column("wall-clock time", "wall time", "s"),
    "simulated_s": Column("simulated time", "simulated", "s"),
    "bytes_sent_mean": Column("data sent per worker", "sent/worker", "B"),
    "bytes_sent_max": Column("data sent by the busiest worker", "sent max", "B"),
    "mpi_bytes_sent": Column("training's data sent between MPI ranks", "MPI sent", "B"),
    "messages": Column("messages sent", "messages"),
    "lr": Column("learning rate", "lr"),
    "train_accuracy": Column("training accuracy", "train acc.", better="high"),
    "train_loss": Column("training loss", "train loss", better="low"),
    "test_loss": Column("test loss of the averaged model", "test loss", better="low"),
    "test_accuracy": Column("test accuracy of the averaged model", "test acc.", better="high"),
    "test_accuracy_worker_mean": Column("test accuracy, mean of the workers", "acc. mean", better="high"),
    "test_accuracy_worker_min": Column("test accuracy of the worst worker", "acc. worst", better="high"),
    "test_rmse": Column("test RMSE of the averaged model", "test RMSE", better="low"),
    "test_rmse_worker_mean": Column("test RMSE, mean of the workers", "RMSE mean", better="low"),
    "test_rmse_worker_max": Column("test RMSE of the worst worker", "RMSE worst", better="low"),
    "test_rmse_floor": Column("test RMSE of who knows all but the noise", "RMSE floor"),
    "false_reject_rate": Column("share of keywords missed", "missed", better="low"),
    "equal_error_rate": Column("equal error rate of the detector", "EER", better="low"),
    "consensus_sq": Column(
        "squared distance between the workers\n" + r"$(1/n)\,\Sigma_i\,\|x_i-\bar{x}\|^2$",
        "consensus²",
        better="low",
    ),
    "bias_sq": Column(
        "squared distance to the optimum\n" + r"$(1/n)\,\Sigma_i\,\|x_i-x^\ast\|^2$",
        "bias²",
        better="low",
    ),
    "mean_bias_sq": Column(
        "squared distance of the average to the optimum\n" + r"$\|\bar{x}-x^\ast\|^2$",
        "mean bias²",
        better="low",
    ),
    "mean_drift_sq": Column(
        "squared distance that faults\nhave moved the average", "mean drift²", better="low"
    ),
    "lost_messages": Column("messages lost", "lost"),
    "late_messages": Column("messages late", "late"),
    "phase": Column("phase", "phase"),
    "bytes_phase_1": Column("data sent per worker in phase 1", "sent in 1", "B", final=True),
    "bytes_phase_2": Column("data sent per worker in phase 2", "sent in 2", "B", final=True),
    "bytes_phase_3": Column("data sent per worker in phase 3", "sent in 3", "B", final=True),
    "test_accuracy_replicas": Column(
        "test accuracy before the last averaging,\nmean of the workers",
        "acc. before",
        better="high",
        final=True,
    ),
    "mass": Column("mass of push-sum, over the workers", "mass"),
    "gradient_noise_scale": Column("noise scale of the gradient, in samples", "noise scale"),
    "gradient_noise": Column("variance of one sample's gradient " + r"tr $\Sigma$", "tr Σ"),
    "gradient_sq": Column("squared gradient " + r"$\|G\|^2$", "|G|²"),
    "batch_size": Column("batch of a worker", "batch"),
    "return": Column("return of the averaged model", "return", better="high"),
    "return_worker_mean": Column("return, mean of the workers", "return mean", better="high"),
    "return_worker_min": Column("return of the worst worker", "return worst", better="high"),
    "environment_steps": Column("steps in environments, of all workers", "env. steps"),
    "instances_per_s": Column("instances a second", "instances/s", better="high"),
    "occupancy": Column("share of the time that workers work", "occupancy", better="high"),
    "batch_loss": Column("training loss of what was just learned from", "batch loss", better="low"),
    "batch_accuracy": Column("training accuracy of what was just learned from", "batch acc.", better="high"),
    "scanned": Column("training samples scanned", "scanned"),
    "assistant_steps": Column("steps of the Assistant", "Assistant's steps"),
    "updates": Column("updates of all nodes", "updates"),
    "gradient_cosine": Column("cosine of the local and the true gradient", "cosine", better="high"),
    "flops": Column("work in total", "work", "FLOP"),
    "critical_flops": Column("work on the critical path", "crit. work", "FLOP"),
    "flops_step": Column("work a step", "work/step", "FLOP", better="low", final=True),
    "critical_flops_step": Column(
        "work a step on the critical path", "critical/step", "FLOP", better="low", final=True
    ),
    "activation_bytes_max": Column(
        "peak of kept activations, greediest stage", "activations", "B", better="low", final=True
    ),
    "activation_bytes_sum": Column(
        "peaks of kept activations, a worker's stages together", "act. sum", "B", final=True
    ),
    "staleness_mean": Column("updates that a gradient or a message is late, mean", "staleness", final=True),
    "staleness_max": Column("updates that a gradient or a message is late, most", "stale max", final=True),
    "answered": Column("messages of asynchronous workers that had their effect", "answered", final=True),
    "theory_bias_sq": Column("squared bias foretold by theory", "theory bias²", final=True),
    "compression_ratio": Column("compression ratio since the last record", "ratio", better="high"),
    "compression_ratio_convolution": Column(
        "compression ratio of convolutions", "ratio conv.", better="high"
    ),
    "compression_ratio_dense": Column("compression ratio of dense layers", "ratio dense", better="high"),
    "compression_ratio_recurrent": Column(
        "compression ratio of recurrent layers", "ratio rec.", better="high"
    ),
    "compression_ratio_other": Column("compression ratio of other parameters", "ratio other", better="high"),
}

WALL_CLOCK_COLUMNS = ("wall_s", "instances_per_s")
"""Columns of the machine's own clock: the only ones in which a run that was killed and went on differs from one whole.

On ranks also ``occupancy``, and what depends on who came first: staleness of programs that run ahead."""
WALL_CLOCK_FILES = ("environment.json", "command.txt", "costs.json", "report.html", "status.json")
"""Files of a results folder that hold such columns or times, and the command; on ranks also trace.json, there measured.

status.json tells the digests of the others. Event files of TensorBoard and figures hold them too."""

FIELDS = {
    "algorithm.name": "method",
    "algorithm.momentum": "momentum",
    "topology.name": "topology",
    "topology.workers": "workers",
    "topology.weights": "weights",
    "compression.name": "compression",
    "faults.loss": "loss",
    "faults.late": "late",
    "faults.symmetric": "both directions at once:",
    "train.lr": "learning rate",
    "train.rounds": "rounds",
    "train.batch_size": "batch size",
    "train.dtype": "dtype",
    "phases.replicas.batch_size": "replicas of batch size",
    "phases.replicas.lr": "replicas' learning rate",
    "problem.name": "problem",
    "program.name": "program",
    "program.blocks": "blocks",
    "stages.count": "stages",
    "dataflow.runtime": "runtime",
    "dataflow.max_active_keys": "active keys",
    "dataflow.workers": "workers",
    "assistant.name": "assistant",
    "assistant.synchronous": "synchronous",
}


def column_words(column: str) -> Column:
    """The words for a column; a name that is not in the dictionary speaks for itself."""
    plain = column.replace("_", " ")
    return COLUMNS.get(column, Column(plain, plain))


def field_label(field: str) -> str:
    """``train.lr`` as ``learning rate``."""
    return FIELDS.get(field, field.rpartition(".")[2].replace("_", " "))


def value_label(value: Value) -> str:
    """A swept value as people write it: ``DecentLaM``, ``0.01``, ``ring``."""
    if isinstance(value, Titled):
        return value.words
    return f"{value:g}" if isinstance(value, float) else str(value)


def group_label(names: Sequence[str], values: Sequence[Value]) -> str:
    """``DecentLaM, learning rate 0.01``: names go before numbers and yes-or-no only."""
    parts = []
    for field, value in zip(names, values, strict=True):
        if value == MISSING:
            continue
        text = value_label(value)
        bare = isinstance(value, str) and value.lower() not in ("true", "false")
        parts.append(text if bare else f"{field_label(field)} {text}")
    return ", ".join(parts) or MISSING


def title_of(experiment: Experiment, run: Run) -> str:
    """What tells a run from the others of its seed, in words."""
    parts = [value_label(v) if f.endswith(".name") else f"{field_label(f)} {value_label(v)}"
             for f, v in run.fields.items() if v != ""]  # fmt: skip
    return ", ".join(parts) or str(run.config.get("program", {}).get("name", run.id)) or experiment.name


SCALED = ("B", "FLOP")
"""Units that take decimal prefixes."""


def scaled_unit(peak: float, unit: str) -> tuple[float, str]:
    """The decimal multiple of the unit in which ``peak`` reads best, and its size."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if peak >= size:
            return size, prefix + unit
    return 1.0, unit


def axis_label(column: str, peak: float) -> tuple[str, float]:
    """The label of an axis with its unit, and the number that the data are divided by."""
    words = column_words(column)
    if words.unit not in SCALED:
        return (f"{words.axis} ({words.unit})" if words.unit else words.axis), 1.0
    size, unit = scaled_unit(peak, words.unit)
    return f"{words.axis} ({unit})", size
