"""The command line. Commands import what they need when they run, so ``--help`` and ``list`` answer at once."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click

from decentral import disk
from decentral.allocator import keep_freed_memory, spin_briefly
from decentral.commands import terminal
from decentral.commands.library_warnings import keep_back_warnings
from decentral.errors import UserError
from decentral.report.matplotlibrc import refuse_unreadable
from decentral.runs import stopping
from decentral.runs.ending import Ending, ending_of
from topologies.wording import one_line


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, help="Print the version.",
    callback=lambda *given: _print_version(*given),
)  # fmt: skip
def cli() -> None:
    """Train neural networks without a centre: simulate on a laptop, run the same file under mpirun.

    \b
    decentral run experiments/quickstart.toml        an experiment, to a table, figures and a report
    mpirun -n 4 decentral run experiments/...        the same on MPI ranks (or ./mpi_launch.sh -n 4 ...)
    decentral topology ring -n 16                    a graph, its mixing matrix and spectrum
    """


def _of_run(command: Any) -> Any:
    """What an experiment is run with."""
    for option in (
        click.option(
            "--tensorboard", is_flag=True, help="Write records for TensorBoard too: --logdir DIR shows them."
        ),
        click.option("--resume", is_flag=True, help="Go on with the runs that DIR holds unfinished."),
        click.option(
            "--out", type=click.Path(path_type=Path), metavar="DIR", help="Results folder [results/<name>]."
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a field, e.g. train.lr=0.1.",
        ),
        click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml"),
    ):
        command = option(command)
    return command


@cli.command()
@_of_run
def run(file: Path, overrides: tuple[str, ...], out: Path | None, resume: bool, tensorboard: bool) -> None:
    """Run an experiment: all its sweeps and seeds. Also under mpirun, unchanged."""
    refuse_unreadable()
    sys.exit(load_run().run(file, overrides, out, resume, tensorboard))


def load_run() -> ModuleType:
    """:mod:`decentral.runs.run`, and torch with it, imported the quick way."""
    keep_freed_memory()  # before torch is there, and so is the next
    spin_briefly()
    gc.disable()  # to collect garbage while torch is imported only costs time
    try:
        run = importlib.import_module("decentral.runs.run")
        importlib.import_module("torch")
        gc.freeze()  # nor need later collections look at what was imported
        return run
    except (ImportError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and disk.is_of_disk(error):
            raise
        raise UserError(
            f"torch or what it needs cannot be loaded ({str(error) or 'no memory'}); allow more memory (ulimit -v) and "
            "open files (ulimit -n), or see `decentral doctor`"
        ) from error
    finally:
        gc.enable()


@cli.command("list")
@click.argument("what", required=False)
def list_(what: str | None) -> None:
    """List what there is by name: algorithms, topologies, problems and so on; or their compatibility."""
    from decentral.commands.catalogue import print_catalogue

    print_catalogue(what)


@cli.command()
@click.argument("name", metavar="NAME")
@click.option(
    "-n", "--workers", type=int, default=None, help="Number of workers (not needed for a graph file)."
)
@click.option("--weights", default="metropolis", show_default=True, help="Rule of the mixing matrix.")
@click.option(
    "--set", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter, e.g. degree=6 or seed=1."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FIGURE", help="Draw the graph and its spectrum."
)
def topology(
    name: str, workers: int | None, weights: str, parameters: tuple[str, ...], as_json: bool, out: Path | None
) -> None:
    """Describe a graph or schedule NAME (see `decentral list topologies`), or a graph file."""
    if out is not None:
        refuse_unreadable()
    from decentral.commands.topology import report
    from decentral.runs.experiment import parse_override

    report(name, workers, weights, dict(map(parse_override, parameters)), as_json, out)


@cli.command()
@click.argument("cluster", type=click.Path(path_type=Path), metavar="CLUSTER.toml")
@click.option(
    "--model-bytes", type=float, required=True, metavar="B", help="Size of the model, e.g. 100e6 for 100 MB."
)
@click.option(
    "--compute-s", type=float, required=True, metavar="S", help="Seconds a worker computes in a round."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FIGURE", help="Draw time a round against workers."
)
def advise(cluster: Path, model_bytes: float, compute_s: float, as_json: bool, out: Path | None) -> None:
    """Rank graphs and methods on a cluster by time a round, beside all-reduces; say when gossip does not pay.

    \b
    CLUSTER.toml says how many workers there are and what their links are:
        workers = 64
        [links]
        latency_s = "50 us"
        bandwidth_bytes_s = "10 Gb/s"
    """
    if out is not None:
        refuse_unreadable()
    from decentral.commands.advise_table import report

    report(cluster, model_bytes, compute_s, as_json, out)


@cli.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE.toml]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="CLUSTER.toml",
    help="Write a cluster file for `advise`.",
)
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Measure for so long at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def calibrate(file: Path | None, out: Path | None, seconds: float, as_json: bool) -> None:
    """Measure latency, bandwidth and arithmetic of this machine, as a cluster file; on two MPI ranks or more.

    \b
    mpirun -n 2 decentral calibrate --out here.toml
    decentral advise here.toml --model-bytes 4e6 --compute-s 0.01
    FILE.toml is an experiment whose gradients are timed [an mlp on digits].
    """
    load_run()  # torch, the quick way
    from decentral.commands.calibration.command import calibrate as measure

    measure(file, out, as_json, seconds)


@cli.group()
def bench() -> None:
    """Compare what was foretold with what this machine does."""


@bench.command()
@click.argument("cluster", required=False, type=click.Path(path_type=Path), metavar="[CLUSTER.toml]")
@click.option(
    "--seconds",
    type=float,
    default=20.0,
    show_default=True,
    help="Measure each number of ranks for so long at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def scaling(cluster: Path | None, seconds: float, as_json: bool) -> None:
    """Time a round on 1, 2, 4, ... MPI ranks, measured beside predicted, with the prediction's error.

    \b
    mpirun -n 4 decentral bench scaling              calibrates each number of ranks on the spot
    mpirun -n 4 decentral bench scaling here.toml    predicts by a file of `decentral calibrate`
    """
    load_run()
    from decentral.commands.scaling_table import report

    report(cluster, as_json, seconds)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FIGURE", help="Draw the network: PNG, SVG or PDF."
)
def network(file: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Describe the network of nodes of an experiment with [dataflow]."""
    if out is not None:
        refuse_unreadable()
    from decentral.commands.network import report

    report(file, overrides, out)


@cli.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
def compare(folders: tuple[Path, ...]) -> None:
    """Print the results of one or several experiments side by side."""
    from decentral.algorithms.titles import titles
    from decentral.report.summary import compare as compare_folders

    compare_folders(list(folders), titles())


@cli.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FIGURE", help="PNG, SVG or PDF."
)
@click.option("--x", default=None, help="Column or swept field on the x axis [round].")
@click.option("--y", default=None, help="Column on the y axis [the first distance or accuracy].")
@click.option("--group", default=None, help="Swept field that colours the curves.")
@click.option("--log", default=None, help="Logarithmic axes: x, y, xy, or none [by the data].")
def plot(folders: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Draw a figure of one or several experiments."""
    refuse_unreadable()
    from decentral.algorithms.titles import titles
    from decentral.report.plots import draw

    draw(list(folders), out, titles=titles(), **{k: v for k, v in options.items() if v is not None})


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.npz", help="File to write [RUN/integers.npz]."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def quantise(run: Path, out: Path | None, as_json: bool) -> None:
    """Turn a trained quantised-cnn into a network of integers, check it on all test images, and tell its bits.

    RUN is the folder of a run that has ended, DIR/runs/ID.
    """
    load_run()  # torch, the quick way
    from decentral.commands.quantise import report

    report(run, out, as_json)


@cli.group()
def lab() -> None:
    """A cluster on this machine: nodes with network cards of their own, real ranks, and nothing left behind."""


def _of_lab(command: Any) -> Any:
    """The options that describe a lab."""
    for name, kind, metavar, words in (
        ("--ranks-per-node", int, "K", "Ranks of each node, each with a card of its own [1]."),
        (
            "--hosts",
            click.Path(path_type=Path),
            "CLUSTER.toml",
            "A cluster file: hosts, links, rates; says it all.",
        ),
        ("--latency", str, "TIME", 'Of every link, e.g. "5 ms" [as on this machine].'),
        ("--bandwidth", str, "RATE", 'Of every card, e.g. "200 Mb/s" [no limit].'),
        ("--nodes", int, "N", "How many nodes."),
    ):
        command = click.option(name, type=kind, metavar=metavar, help=words)(command)
    return command


@lab.command("run")
@_of_lab
@_of_run
def lab_run(
    file: Path, overrides: tuple[str, ...], out: Path | None, resume: bool, tensorboard: bool, **asked: Any
) -> None:
    """Run an experiment on a cluster made for it: a rank on each card, over TCP at the rates of its links.

    Its simulated clock goes by the same network, so that simulated_s stands beside wall_s.

    \b
    decentral lab run --nodes 4 --bandwidth "200 Mb/s" FILE.toml
    decentral lab run --hosts cluster.toml FILE.toml     hosts and links of a cluster file
    decentral lab run FILE.toml                          those of the file's own [network]
    """
    from decentral.commands.lab.asked import Asked
    from decentral.commands.lab.running import run

    sys.exit(run(Asked(**asked), file, overrides, out, resume, tensorboard))


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@_of_lab
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def lab_exec(command: tuple[str, ...], **asked: Any) -> None:
    """Run COMMAND, or a shell, in a lab: mpirun there spreads its ranks over the nodes, `ssh node0 ...` enters one.

    \b
    decentral lab exec --nodes 4 --bandwidth "100 Mb/s" -- mpirun -n 4 python script.py
    """
    from decentral.commands.lab.asked import Asked
    from decentral.commands.lab.executing import execute

    sys.exit(execute(Asked(**asked), command))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def doctor(as_json: bool) -> None:
    """What this machine offers: MPI, torch, devices, threads, data; and what to do about what is missing."""
    from decentral.commands.doctor.command import report

    sys.exit(report(as_json))


def main() -> None:
    """Entry point: mistakes of the user are one line on standard error and exit code 2."""
    keep_back_warnings()
    os.environ["MPLBACKEND"] = "agg"  # figures are files, whatever else was asked for
    try:
        with terminal.guarded(), stopping.listening():
            _main()
    except OSError as error:
        _fail(f"standard output: {disk.words(error)}", disk.EXIT_CODE)


def _main() -> None:
    try:
        cli(standalone_mode=False, prog_name="decentral")
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
            error.show()
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        help_at = f" See `{context.command_path} --help`." if context else ""
        _fail(f"{error.format_message()}{help_at}", 2)
    except click.exceptions.Abort as error:  # what click makes of a KeyboardInterrupt
        cause = error.__cause__
        _fail(*_ending(cause if isinstance(cause, KeyboardInterrupt) else KeyboardInterrupt()))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        _fail(*_ending(error))


def _ending(error: BaseException) -> Ending:
    found = ending_of(error)
    if found is None:
        raise error
    return found


def _fail(text: str, code: int) -> NoReturn:
    print(f"decentral: {one_line(text)}", file=sys.stderr)
    sys.exit(code)


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"decentral {version('decentral')}")
        except PackageNotFoundError:
            click.echo("decentral, not installed: run from its source tree")
        context.exit()
