"""What has a name is one file and one line: made-up things of every kind, in a copy of the house, seen everywhere.

Each is written into a file of its own, and one line is added to the table of its room. Whatever else would have to
change for the command line, the lists, runs, ranks, figures and the report to see it fails here.
"""

import csv
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from ranks import ROOT, environment, mpirun


class Made(NamedTuple):
    """A file and its text; the table's file, the line before which, or after which, ``line`` is added."""

    file: str
    text: str
    table: str
    beside: str
    line: str


THINGS = {
    "method": Made(
        "decentral/algorithms/sleepy.py",
        '''
        """Sleepy gossip: it mixes in every other round only."""

        from __future__ import annotations

        from dataclasses import dataclass
        from typing import TYPE_CHECKING, ClassVar

        from decentral.algorithms.traits import Traits

        if TYPE_CHECKING:
            from torch import Tensor

            from decentral.comm.mixer import Mixer


        @dataclass(frozen=True)
        class Sleepy:
            """x <- W (x - lr g) in even rounds, x - lr g in odd ones."""

            traits: ClassVar[Traits] = Traits(title="Sleepy gossip")

            every: int = 2

            def init(self, x: Tensor, comm: Mixer) -> tuple[()]:
                """No state."""
                return ()

            def step(self, x: Tensor, state: tuple[()], g: Tensor, comm: Mixer, lr: float) -> tuple[Tensor, tuple[()]]:
                """One round."""
                x = x.sub_(g, alpha=lr)
                return (x if comm.t % self.every else comm.mix_(x)), state
        ''',
        "decentral/algorithms/__init__.py",
        '        "dsgd": ',
        '        "sleepy": "decentral.algorithms.sleepy:Sleepy",',
    ),
    "asynchronous method": Made(
        "decentral/algorithms/asynchronous/shy.py",
        '''
        """Shy gossip without rounds."""

        from __future__ import annotations

        from dataclasses import dataclass
        from typing import TYPE_CHECKING, ClassVar

        from decentral.algorithms.asynchronous.exchange import Exchange
        from decentral.algorithms.traits import Traits

        if TYPE_CHECKING:
            from torch import Tensor

            from decentral.algorithms.asynchronous.side import Neighbourhood


        @dataclass(frozen=True)
        class Shy:
            """Asks a neighbour after every third step."""

            traits: ClassVar[Traits] = Traits(title="Shy gossip", needs=("static", "symmetric"), sends="edges")

            def side(self, x: Tensor, near: Neighbourhood) -> Exchange:
                """One worker's side."""
                return Exchange(x, near, 3, "shy")
        ''',
        "decentral/algorithms/asynchronous/__init__.py",
        '        "ad-psgd": ',
        '        "shy": "decentral.algorithms.asynchronous.shy:Shy",',
    ),
    "compressor": Made(
        "decentral/comm/compression/loud.py",
        '''
        """Loud signs."""

        from dataclasses import dataclass
        from typing import ClassVar

        from decentral.comm.compression.sign import Sign


        @dataclass(frozen=True)
        class Loud(Sign):
            """Signs by another name."""

            name: ClassVar[str] = "loud"
        ''',
        "decentral/comm/compression/__init__.py",
        '        "sign": ',
        '        "loud": "decentral.comm.compression.loud:Loud",',
    ),
    "update rule": Made(
        "decentral/optimizers/signed.py",
        '''
        """Signed descent."""

        from __future__ import annotations

        from dataclasses import dataclass
        from typing import TYPE_CHECKING, Any

        from decentral.optimizers.rule import Rule

        if TYPE_CHECKING:
            from torch import Tensor

            from decentral.comm.layout import Layout


        @dataclass(frozen=True)
        class Signed(Rule):
            """d = sign(g)."""

            def init(self, x: Tensor, layout: Layout) -> Any:
                """No state."""
                return ()

            def direction(self, x: Tensor, state: Any, g: Tensor, layout: Layout, lr: float) -> tuple[Tensor, Any]:
                """See the class."""
                return self._joined(g, x).sign(), state
        ''',
        "decentral/optimizers/__init__.py",
        '            "sgd": ',
        '            "signed": "decentral.optimizers.signed:Signed",',
    ),
    "learning-rate schedule": Made(
        "decentral/optimizers/sawtooth.py",
        '''
        """A sawtooth."""

        from dataclasses import dataclass


        @dataclass(frozen=True)
        class Sawtooth:
            """lr falls to half over ``teeth`` rounds, and is back then."""

            teeth: int = 3

            def lr(self, t: int, rounds: int, base: float) -> float:
                """See Schedule."""
                del rounds
                return base * (1 - 0.5 * (t % self.teeth) / self.teeth)
        ''',
        "decentral/optimizers/decays.py",
        '        "constant": ',
        '        "sawtooth": "decentral.optimizers.sawtooth:Sawtooth",',
    ),
    "topology": Made(
        "topologies/wheel.py",
        '''
        """A wheel."""

        from __future__ import annotations

        import networkx as nx


        def wheel(n: int) -> nx.Graph:
            """A ring of n - 1 workers around worker 0."""
            return nx.wheel_graph(n)
        ''',
        "topologies/named_graphs.py",
        '        "ring": ',
        '        "wheel": "topologies.wheel:wheel",',
    ),
    "schedule of graphs": Made(
        "topologies/blinking.py",
        '''
        """A graph that comes and goes."""

        from __future__ import annotations

        from topologies.graphs import complete, ring
        from topologies.schedules import Schedule, cyclic
        from topologies.weights import mixing_matrix


        def blinking(n: int) -> Schedule:
            """A ring and the complete graph in turn."""
            return cyclic([mixing_matrix(ring(n)), mixing_matrix(complete(n))])
        ''',
        "topologies/__init__.py",
        '        "one-peer-exponential": ',
        '        "blinking": "topologies.blinking:blinking",',
    ),
    "data set": Made(
        "decentral/problems/data/stripes.py",
        '''
        """Stripes."""

        from __future__ import annotations

        from pathlib import Path

        import torch

        from decentral.problems.data.dataset import Dataset


        def stripes(root: Path | None) -> Dataset:
            """60 + 20 points; the class is whether the first feature is positive."""
            del root
            x = torch.linspace(-1, 1, 80).reshape(-1, 1).repeat(1, 4)
            x[:, 1:] *= torch.arange(80).reshape(-1, 1) % 3
            order = torch.arange(80).reshape(4, 20).T.reshape(-1)
            x, y = x[order], (x[order, 0] > 0).long()
            return Dataset(x[:60], y[:60], x[60:], y[60:], 2, "stripes", "made up")
        ''',
        "decentral/problems/data/__init__.py",
        '    "digits": Source(',
        '    "stripes": Source("decentral.problems.data.stripes:stripes", "80 points in two stripes; embedded"),',
    ),
    "kind of figure": Made(
        "decentral/report/dots.py",
        '''
        """Dots."""

        from __future__ import annotations

        from collections.abc import Sequence
        from typing import Any

        from decentral.report.figure_spec import FigureSpec
        from decentral.report.results import Run, grouped
        from decentral.report.scene import Marks, Scene


        class Dots:
            """A dot for each record of each run."""

            final = False
            marks = Marks("Dots", "bands", "Lines")

            def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
                """See Kind."""
                for group, members in grouped(runs, scene.names).items():
                    for run in members:
                        ax.plot(run.columns["round"], run.columns[scene.spec.y], ".", color=scene.styles[group].color)

            def sample(self, look: dict[str, Any], spec: FigureSpec) -> dict[str, Any]:
                """See Kind."""
                return look
        ''',
        "decentral/report/kinds.py",
        '            "curves": ',
        '            "dots": "decentral.report.dots:Dots",',
    ),
    "figure of a run's file": Made(
        "decentral/report/oracles.py",
        '''
        """Which oracle each run had."""

        from __future__ import annotations

        from decentral.report.results import Experiment


        def oracles(experiment: Experiment) -> list[dict[str, str]]:
            """A row a run, from its environment.json."""
            return [{"run": run.id, "oracle": str(run.environment.get("oracle", "none"))} for run in experiment.runs]
        ''',
        "decentral/report/drawing.py",
        '    "timeline": Drawing(',
        '    "oracles": Drawing(later("decentral.report.oracles:oracles"), "Made-up table of oracles"),',
    ),
    "stage program": Made(
        "decentral/stages/programs/lonely.py",
        '''
        """Lonely stages."""

        from __future__ import annotations

        from collections.abc import Iterator
        from dataclasses import dataclass
        from typing import Any

        from decentral.stages.program import StageProgram
        from decentral.runtime.requests import Compute, Done, Program, Recv, Send
        from decentral.stages.stage import Stage


        @dataclass(frozen=True)
        class Lonely(StageProgram):
            """Every stage learns from a local ``head`` alone, and sends its outputs up."""

            head: str = "flat"

            def run(self, stage: Stage) -> Program:
                """The program of one stage."""
                head = None if stage.last else stage.make_head(self.head, stage.span[-1])
                for t in range(stage.steps):
                    x = stage.inputs(t) if stage.first else (yield Recv(stage.from_previous("up")))
                    kept = yield Compute("forward", stage.forward, x, False, tag=t)
                    if stage.last:
                        yield Compute("backward", stage.backward_from_loss, kept, stage.labels(t), t, tag=t)
                    else:
                        yield Send(stage.to_next("up"), kept.y)
                        yield Compute("backward", self._local, stage, head, kept, t, tag=t)
                    yield from stage.learn(t)
                    yield Done(t)

            def _local(self, stage: Stage, head: Any, kept: Any, t: int) -> None:
                head.loss(kept.y, stage.labels(t), kept.x).backward()
        ''',
        "decentral/stages/programs/__init__.py",
        '        "backprop": ',
        '        "lonely": "decentral.stages.programs.lonely:Lonely",',
    ),
    "local head": Made(
        "decentral/stages/heads/flat.py",
        '''
        """A flat head."""

        from __future__ import annotations

        import math
        from collections.abc import Sequence

        from torch import nn


        def flat(shape: Sequence[int], classes: int) -> nn.Module:
            """One linear layer of everything."""
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
        ''',
        "decentral/stages/heads/__init__.py",
        '        "linear": ',
        '        "flat": "decentral.stages.heads.flat:flat",',
    ),
    "node model": Made(
        "decentral/dataflow/models/straight.py",
        '''
        """Logistic regression as a network of nodes: the perceptron without a hidden layer."""

        from __future__ import annotations

        from typing import Any

        from decentral.dataflow.models.mlp import MLP
        from decentral.problems.data import load


        def of(problem: Any, batch_size: Any, seed: int, dtype: Any, device: Any) -> MLP:
            """The model of the problem."""
            return MLP(load(problem.data), (), batch_size, seed, dtype, device)
        ''',
        "decentral/dataflow/models/__init__.py",
        '    "mlp": ',
        '    "logistic-regression": "decentral.dataflow.models.straight:of",',
    ),
    "assistant": Made(
        "decentral/problems/assistants/picky.py",
        '''
        """An Assistant that likes one label."""

        from __future__ import annotations

        from dataclasses import dataclass
        from typing import TYPE_CHECKING

        from decentral.problems.assistants.assistant import Assistant, Batch, Chooser

        if TYPE_CHECKING:
            from torch import Tensor


        @dataclass(frozen=True)
        class Picky(Assistant):
            """It keeps what has the label ``liked``, whatever it is told."""

            liked: int = 1

            def chooser(self, x: Tensor, y: Tensor, classes: int, seed: int) -> Chooser:
                """See Assistant."""
                return Likes(y == self.liked)

            def tell(self, batch: Batch) -> Tensor:
                """Nothing."""
                return batch.losses[:0]


        class Likes:
            """See Picky."""

            scan_flops = learn_flops = 0.0

            def __init__(self, liked: Tensor) -> None:
                self.liked = liked

            def keep(self, rows: Tensor, k: Tensor) -> Tensor:
                """See Chooser."""
                return self.liked[rows].double()

            def learn(self, rows: Tensor, told: Tensor) -> None:
                """See Chooser."""
        ''',
        "decentral/problems/assistants/__init__.py",
        '        "none": ',
        '        "picky": "decentral.problems.assistants.picky:Picky",',
    ),
}

EXPERIMENT = """
name = "made"
seeds = [1]
[problem]
name = "mlp"
hidden = [6]
data = "stripes"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "sleepy"
[optimizer]
name = "signed"
[schedule]
name = "sawtooth"
[train]
lr = 0.02
rounds = 6
batch_size = 5
record_every = 2
dtype = "float64"
[sweep]
topology.name = ["wheel", "blinking"]
algorithm.name = ["sleepy", "dsgd"]
[[figure]]
name = "made"
kind = "dots"
y = "consensus_sq"
"""

STAGES = """
[problem]
name = "mlp"
hidden = [6, 6]
data = "stripes"
[stages]
count = 2
[program]
name = "lonely"
head = "flat"
[optimizer]
name = "signed"
[train]
lr = 0.01
rounds = 40
batch_size = 5
"""

NODES = """
[problem]
name = "logistic-regression"
data = "stripes"
[dataflow]
[optimizer]
name = "signed"
[train]
lr = 0.01
rounds = 6
batch_size = 10
"""

PACKETS = """
[problem]
name = "quadratic"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "pmsgd"
momentum = 0.0
[compression]
name = "loud"
[train]
lr = 0.05
rounds = 30
"""

ALONE = """
[problem]
name = "quadratic"
[topology]
name = "wheel"
workers = 4
[algorithm]
name = "shy"
[train]
lr = 0.05
rounds = 30
"""

ASSISTED = """
[problem]
name = "mlp"
hidden = [6]
data = "stripes"
[assistant]
name = "picky"
[train]
lr = 0.02
rounds = 40
batch_size = 5
"""

FILES = {
    "made": EXPERIMENT, "stages": STAGES, "nodes": NODES, "packets": PACKETS, "alone": ALONE, "assisted": ASSISTED,
}  # fmt: skip

SEEN = """
from decentral.algorithms.titles import titles
from decentral.commands.advise_methods import candidates
from decentral.commands.compatibility import markdown
from topologies import named
every, said = list(named.constructors()), markdown()
assert {"wheel", "blinking"} < set(every)
assert f"| `sleepy` |  | none of {len(every)} |" in said, said
assert titles()["sleepy"] == "Sleepy gossip"
assert "sleepy" in {c.name for c in candidates()}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the packages with all made-up things in it."""
    home = tmp_path_factory.mktemp("house")
    for package in ("decentral", "topologies"):
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    for made in THINGS.values():
        assert not (home / made.file).exists()
        (home / made.file).write_text(textwrap.dedent(made.text).lstrip())
        table = home / made.table
        lines = table.read_text().splitlines()
        (at,) = (k for k, line in enumerate(lines) if line.startswith(made.beside))
        table.write_text("\n".join([*lines[:at], made.line, *lines[at:]]) + "\n")
    for name, text in FILES.items():
        (home / f"{name}.toml").write_text(text)
    return home


def python(house, *args, ranks=1):
    """What Python says in the copy: a process of its own, whose packages these are."""
    launcher = [*mpirun(), "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*launcher, sys.executable, *map(str, args)],
        env=environment(PYTHONPATH=str(house)), cwd=house, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(house, *args, ranks=1):
    return python(house, "-m", "decentral", *args, ranks=ranks)


def rows(folder):
    found = {}
    for path in sorted((folder / "runs").glob("*/metrics.csv")):
        with path.open(newline="") as file:
            found[path.parent.name] = [
                {k: v for k, v in row.items() if k not in ("wall_s", "mpi_bytes_sent")}
                for row in csv.DictReader(file)
            ]
    return found


def test_one_line_of_one_table_is_added_for_each():
    for made in THINGS.values():
        assert "\n" not in made.line
        assert made.beside in (ROOT / made.table).read_text()
        assert Path(made.file).stem in made.line


def test_lists_show_them(house):
    said = command(house, "list")
    for name in ("sleepy", "shy", "signed", "sawtooth", "wheel", "blinking", "stripes", "dots", "picky"):
        assert f"\n{name} " in said, name
    assert "x <- W (x - lr g) in even rounds" in " ".join(said.split())
    assert "\nlonely " in command(house, "list", "programs")
    assert "\nflat " in command(house, "list", "heads")
    assert "\nloud " in command(house, "list", "compressors")


@pytest.mark.slow
def test_the_docs_and_the_advice_know_them(house):
    python(house, "-c", SEEN)


@pytest.mark.mpi
def test_rounds_run_alike_on_ranks_and_are_drawn(house, tmp_path):
    command(house, "run", house / "made.toml", "--out", tmp_path / "one")
    command(house, "run", house / "made.toml", "--out", tmp_path / "two", ranks=2)
    one = rows(tmp_path / "one")
    assert len(one) == 4
    assert one == rows(tmp_path / "two")
    assert (tmp_path / "one" / "figures" / "made.png").stat().st_size > 5_000
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Sleepy gossip" in page
    assert "Made-up table of oracles" in page
    assert "Sleepy gossip" in command(house, "compare", tmp_path / "one")


@pytest.mark.slow
def test_the_others_run_and_learn(house, tmp_path):
    for name in ("stages", "nodes", "packets", "alone", "assisted"):
        command(house, "run", house / f"{name}.toml", "--out", tmp_path / name)
        (run,) = rows(tmp_path / name).values()
        assert float(run[-1]["train_loss"]) < float(run[0]["train_loss"])
