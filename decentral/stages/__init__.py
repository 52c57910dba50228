"""A network cut into stages: its layers, where it is cut, and what one stage holds and computes."""

from typing import TYPE_CHECKING

from topologies.places import door

if TYPE_CHECKING:
    from decentral.stages.cut import cut_at, cut_by_cost, cut_evenly
    from decentral.stages.heads import HEADS
    from decentral.stages.heads.head_maker import head_maker
    from decentral.stages.layers import Network, network_of
    from decentral.stages.peers import Peers, PeerStage
    from decentral.stages.profile import Profile, cost_table, layer_flops
    from decentral.stages.program import StageProgram
    from decentral.stages.programs import PROGRAMS
    from decentral.stages.shapes import boundary_shapes
    from decentral.stages.stage import Pass, Stage

__all__ = [
    "HEADS",
    "PROGRAMS",
    "Network",
    "Pass",
    "PeerStage",
    "Peers",
    "Profile",
    "Stage",
    "StageProgram",
    "boundary_shapes",
    "cost_table",
    "cut_at",
    "cut_by_cost",
    "cut_evenly",
    "head_maker",
    "layer_flops",
    "network_of",
]

__getattr__, __dir__ = door(
    __name__,
    {
        "Network": "decentral.stages.layers:Network",
        "network_of": "decentral.stages.layers:network_of",
        "cut_evenly": "decentral.stages.cut:cut_evenly",
        "cut_at": "decentral.stages.cut:cut_at",
        "cut_by_cost": "decentral.stages.cut:cut_by_cost",
        "Stage": "decentral.stages.stage:Stage",
        "Pass": "decentral.stages.stage:Pass",
        "Peers": "decentral.stages.peers:Peers",
        "PeerStage": "decentral.stages.peers:PeerStage",
        "StageProgram": "decentral.stages.program:StageProgram",
        "PROGRAMS": "decentral.stages.programs:PROGRAMS",
        "HEADS": "decentral.stages.heads:HEADS",
        "head_maker": "decentral.stages.heads.head_maker:head_maker",
        "boundary_shapes": "decentral.stages.shapes:boundary_shapes",
        "Profile": "decentral.stages.profile:Profile",
        "cost_table": "decentral.stages.profile:cost_table",
        "layer_flops": "decentral.stages.profile:layer_flops",
    },
)
