"""Data-parallel methods: one file, one paper; this table is all that knows them by name.

A method is a frozen dataclass with ``traits``, what may be known of it without running it, with
``init(x, comm) -> state`` and ``step(x, state, g, comm, lr) -> (x, state)``; its fields, all of which have defaults,
are its keys under ``[algorithm]`` in TOML.
x and state are consumed: use what comes back, and keep no state in the memory of x, which the loop goes on using.
Nothing here imports torch.
"""

from typing import TYPE_CHECKING, Any

from decentral.algorithms.named import ALGORITHMS
from decentral.algorithms.traits import Method, Traits
from topologies.places import all_loaded

ALGORITHMS |= all_loaded(
    {
        "pmsgd": "decentral.algorithms.pmsgd:PmSGD",
        "dsgd": "decentral.algorithms.dsgd:DSGD",
        "dmsgd": "decentral.algorithms.dmsgd:DmSGD",
        "decentlam": "decentral.algorithms.decentlam:DecentLaM",
        "quasi-global": "decentral.algorithms.quasi_global:QuasiGlobal",
        "d2": "decentral.algorithms.d2:D2",
        "exact-diffusion": "decentral.algorithms.exact_diffusion:ExactDiffusion",
        "extra": "decentral.algorithms.extra:EXTRA",
        "gradient-tracking": "decentral.algorithms.gradient_tracking:GradientTracking",
        "diging": "decentral.algorithms.diging:DIGing",
        "momentum-tracking": "decentral.algorithms.momentum_tracking:MomentumTracking",
        "local-sgd": "decentral.algorithms.local_sgd:LocalSGD",
        "gossip-pga": "decentral.algorithms.gossip_pga:GossipPGA",
        "slowmo": "decentral.algorithms.slowmo:SlowMo",
        "diloco": "decentral.algorithms.diloco:DiLoCo",
        "relay-sgd": "decentral.algorithms.relay_sgd:RelaySGD",
        "matcha": "decentral.algorithms.matcha:MATCHA",
        "push-sum": "decentral.algorithms.push_sum:PushSum",
        "push-diging": "decentral.algorithms.push_diging:PushDIGing",
        "choco": "decentral.algorithms.choco:CHOCO",
        "power-gossip": "decentral.algorithms.power_gossip:PowerGossip",
    }
)
globals().update({method.__name__: method for method in ALGORITHMS.values()})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A method's class can be imported from here."""


__all__ = ["ALGORITHMS", "Method", "Traits"]
