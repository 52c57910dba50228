"""Data-parallel methods: one file, one paper; this table is all that knows them by name.

A method is a frozen dataclass with ``traits``, what may be known of it without running it, with
``init(x, comm) -> state`` and ``step(x, state, g, comm, lr) -> (x, state)``; its fields, all of which have defaults,
are its keys under ``[algorithm]`` in TOML.
x and state are consumed: use what comes back, and keep no state in the memory of x, which the loop goes on using.
Nothing here imports torch.
"""

from decentral.algorithms.choco import CHOCO
from decentral.algorithms.d2 import D2
from decentral.algorithms.decentlam import DecentLaM
from decentral.algorithms.diging import DIGing
from decentral.algorithms.diloco import DiLoCo
from decentral.algorithms.dmsgd import DmSGD
from decentral.algorithms.dsgd import DSGD
from decentral.algorithms.exact_diffusion import ExactDiffusion
from decentral.algorithms.extra import EXTRA
from decentral.algorithms.gossip_pga import GossipPGA
from decentral.algorithms.gradient_tracking import GradientTracking
from decentral.algorithms.local_sgd import LocalSGD
from decentral.algorithms.matcha import MATCHA
from decentral.algorithms.momentum_tracking import MomentumTracking
from decentral.algorithms.named import ALGORITHMS
from decentral.algorithms.pmsgd import PmSGD
from decentral.algorithms.power_gossip import PowerGossip
from decentral.algorithms.push_diging import PushDIGing
from decentral.algorithms.push_sum import PushSum
from decentral.algorithms.quasi_global import QuasiGlobal
from decentral.algorithms.relay_sgd import RelaySGD
from decentral.algorithms.slowmo import SlowMo
from decentral.algorithms.traits import Method, Traits

ALGORITHMS |= {
    "pmsgd": PmSGD,
    "dsgd": DSGD,
    "dmsgd": DmSGD,
    "decentlam": DecentLaM,
    "quasi-global": QuasiGlobal,
    "d2": D2,
    "exact-diffusion": ExactDiffusion,
    "extra": EXTRA,
    "gradient-tracking": GradientTracking,
    "diging": DIGing,
    "momentum-tracking": MomentumTracking,
    "local-sgd": LocalSGD,
    "gossip-pga": GossipPGA,
    "slowmo": SlowMo,
    "diloco": DiLoCo,
    "relay-sgd": RelaySGD,
    "matcha": MATCHA,
    "push-sum": PushSum,
    "push-diging": PushDIGing,
    "choco": CHOCO,
    "power-gossip": PowerGossip,
}

__all__ = [
    "ALGORITHMS",
    "CHOCO",
    "D2",
    "DSGD",
    "EXTRA",
    "MATCHA",
    "DIGing",
    "DecentLaM",
    "DiLoCo",
    "DmSGD",
    "ExactDiffusion",
    "GossipPGA",
    "GradientTracking",
    "LocalSGD",
    "Method",
    "MomentumTracking",
    "PmSGD",
    "PowerGossip",
    "PushDIGing",
    "PushSum",
    "QuasiGlobal",
    "RelaySGD",
    "SlowMo",
    "Traits",
]
