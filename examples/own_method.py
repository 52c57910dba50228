"""A method of your own is one file and one line: here signed gossip, made up, on heterogeneous quadratics."""

from dataclasses import dataclass

import torch

import topologies
from decentral.algorithms import ALGORITHMS, DSGD
from decentral.comm import LocalComm


@dataclass(frozen=True)
class SignGossip:
    """x = W x - lr * scale * sign(g): the sign of the gradient instead of the gradient."""

    scale: float = 1.0

    def init(self, x, comm):
        """No state."""
        return ()

    def step(self, x, state, g, comm, lr):
        """One round."""
        return comm.mix(x).sub_(torch.sign(g), alpha=lr * self.scale), state


ALGORITHMS["sign-gossip"] = SignGossip  # the one line: now [algorithm] name = "sign-gossip" is known too

if __name__ == "__main__":
    target = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    for method in (DSGD(), SignGossip(scale=0.1)):
        comm = LocalComm(topologies.mixing_matrix(topologies.ring(8)))
        x = torch.zeros(8, 1, dtype=torch.float64)
        state = method.init(x, comm)
        for t in range(1000):
            x, state = method.step(x, state, x - target, comm.at(t), lr=0.05)
        print(f"{method}: spread {float(x.std()):.3f}, {comm.ledger.bytes_sent.mean():,.0f} bytes a worker")
