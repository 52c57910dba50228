"""Our GPipe and 1F1B beside those of torch.distributed.pipelining over gloo: the same gradients, and how fast.

Question: what does the generator program over MPI cost, or save, against torch's own pipeline on the same two ranks?
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from benchmarks.ranks import alternate, launch, main
from benchmarks.timing import Line, at_most

WIDTH, LAYERS, BATCH, PARTS, STEPS = 512, 8, 256, 4, 20


def compare() -> dict[str, Any]:
    """On two ranks: seconds a step of each contender, and the largest difference between their gradients."""
    import torch
    import torch.distributed as dist
    from mpi4py import MPI
    from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

    from decentral.stages.programs import GPipe, OneForwardOneBackward

    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    dist.init_process_group("gloo", rank=world.rank, world_size=world.size)
    found: dict[str, Any] = {}
    found["gpipe"], one = _beside(world, GPipe(PARTS), ScheduleGPipe)
    found["1f1b"], two = _beside(world, OneForwardOneBackward(PARTS), Schedule1F1B)
    dist.destroy_process_group()
    return found | {"difference": max(one, two)}


def _beside(world: Any, program: Any, torch_schedule: Any) -> tuple[list[float], float]:
    """Seconds a step of ours and of torch's, and how far their gradients are apart."""
    import torch
    from torch import nn
    from torch.distributed.pipelining import PipelineStage
    from torch.nn.functional import cross_entropy

    from decentral.runtime.mpi import MPIDriver
    from decentral.stages.cut import cut_evenly
    from decentral.stages.layers import network_of
    from decentral.stages.stage import Stage

    rank, spans = world.rank, cut_evenly(LAYERS, 2)
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, WIDTH), torch.randint(10, (BATCH,))
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    whole = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    network = network_of(copy.deepcopy(whole))
    mine = Stage(rank, spans, network, lambda p: torch.optim.SGD(p, lr=0.0), lambda _: (x, y), 1)
    cut = 2 * spans[1].start
    part = whole[:cut] if rank == 0 else whole[cut:]
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    schedule = torch_schedule(stage, PARTS, loss_fn=cross_entropy)

    def theirs() -> None:
        for _ in range(mine.steps):
            part.zero_grad()
            schedule.step(x) if rank == 0 else schedule.step(target=y)

    def ours() -> None:
        MPIDriver({rank: program.run(mine)}, [0, 1]).run()

    gradients: list[Any] = []
    mine.on_update = lambda _: gradients.extend(p.grad.clone() for p in mine.modules.parameters())
    ours()
    mine.on_update = None
    theirs()
    pairs = zip(gradients, part.parameters(), strict=True)
    apart = max(world.allgather(max(float((g - p.grad).abs().max()) for g, p in pairs)))
    mine.steps = STEPS
    times = alternate(world, {"ours": ours, "theirs": theirs}, rounds=1, turns=5)
    return [times["ours"] / STEPS, times["theirs"] / STEPS], apart


def measure() -> list[Line]:
    found = json.loads(launch(2, "-m", "benchmarks.pipelining", "compare").splitlines()[-1])
    if not found["difference"] < 1e-7:
        raise SystemExit(f"the gradients differ from torch's by {found['difference']}")
    return [
        at_most(
            f"2 ranks, 8 x {WIDTH} MLP, {name}: a step, ours / torch.distributed.pipelining",
            *found[name],
            1.1,
        )
        for name in ("gpipe", "1f1b")
    ]


if __name__ == "__main__":
    main("pipelining", measure, compare)
