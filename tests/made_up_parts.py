"""Made-up programs of stages, heads, models of nodes and assistants."""

from made_up import Made

PARTS = {
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
