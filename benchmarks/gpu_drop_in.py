"""The drop-in on a device: a model of one's own, stepped there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from decentral.comm import Communicator
from decentral.rounds.script.optimizer import Decentralized


def stepped(method: Any, device: str, comm: Communicator) -> list[float]:
    """The numbers of a model after rounds of ``method`` over Adam, with its state put back in the middle."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().to(device)
    optimizer = Decentralized(torch.optim.Adam(model.parameters(), lr=0.1), method, comm, model=model)
    for t in range(4):
        draw = torch.Generator().manual_seed(10 * t + comm.rank)
        x = torch.randn(5, 3, generator=draw, dtype=torch.float64).to(device)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if t == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return torch.cat(
        [part.detach().double().cpu().flatten() for part in model.state_dict().values()]
    ).tolist()
