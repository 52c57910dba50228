"""Networks whose structure depends on the instance: nodes, messages between them, and workers that host them."""

from typing import TYPE_CHECKING

from topologies.places import door

if TYPE_CHECKING:
    from decentral.dataflow.control import Controller, serve
    from decentral.dataflow.edges import InvariantError
    from decentral.dataflow.ends import Input, Loss, Score
    from decentral.dataflow.graph import Network, Out
    from decentral.dataflow.groups import Group, Replicate, Row, Ungroup
    from decentral.dataflow.nodes import Bcast, Concat, Cond, Node, Phi, Split, StateUpdate
    from decentral.dataflow.queues import Queued
    from decentral.dataflow.replicas import replicated
    from decentral.dataflow.synchronous import Synchronous
    from decentral.dataflow.transforms import Embedding, Linear, Transform
    from decentral.dataflow.updates import Updates
    from decentral.dataflow.worker import Worker

__all__ = [
    "Bcast",
    "Concat",
    "Cond",
    "Controller",
    "Embedding",
    "Group",
    "Input",
    "InvariantError",
    "Linear",
    "Loss",
    "Network",
    "Node",
    "Out",
    "Phi",
    "Queued",
    "Replicate",
    "Row",
    "Score",
    "Split",
    "StateUpdate",
    "Synchronous",
    "Transform",
    "Ungroup",
    "Updates",
    "Worker",
    "replicated",
    "serve",
]

__getattr__, __dir__ = door(
    __name__,
    {
        "Network": "decentral.dataflow.graph:Network",
        "Out": "decentral.dataflow.graph:Out",
        "Node": "decentral.dataflow.nodes:Node",
        "Cond": "decentral.dataflow.nodes:Cond",
        "Phi": "decentral.dataflow.nodes:Phi",
        "StateUpdate": "decentral.dataflow.nodes:StateUpdate",
        "Bcast": "decentral.dataflow.nodes:Bcast",
        "Concat": "decentral.dataflow.nodes:Concat",
        "Split": "decentral.dataflow.nodes:Split",
        "Replicate": "decentral.dataflow.groups:Replicate",
        "Group": "decentral.dataflow.groups:Group",
        "Ungroup": "decentral.dataflow.groups:Ungroup",
        "Row": "decentral.dataflow.groups:Row",
        "Input": "decentral.dataflow.ends:Input",
        "Loss": "decentral.dataflow.ends:Loss",
        "Score": "decentral.dataflow.ends:Score",
        "Queued": "decentral.dataflow.queues:Queued",
        "Transform": "decentral.dataflow.transforms:Transform",
        "Linear": "decentral.dataflow.transforms:Linear",
        "Embedding": "decentral.dataflow.transforms:Embedding",
        "Updates": "decentral.dataflow.updates:Updates",
        "Worker": "decentral.dataflow.worker:Worker",
        "Controller": "decentral.dataflow.control:Controller",
        "serve": "decentral.dataflow.control:serve",
        "Synchronous": "decentral.dataflow.synchronous:Synchronous",
        "InvariantError": "decentral.dataflow.edges:InvariantError",
        "replicated": "decentral.dataflow.replicas:replicated",
    },
)
