"""Made-up methods, compressors, update rules and schedules of the learning rate."""

from made_up import Made

TRAINING = {
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
}
