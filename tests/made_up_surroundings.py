"""Made-up graphs, data sets and figures."""

from made_up import Made

SURROUNDINGS = {
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
}
