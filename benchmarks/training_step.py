"""A simulated training step of all workers, against a hand-written stacked step and a loop over torch modules.

Question: what does the general gradient oracle and the general communicator cost over code written for one model and
one graph? All three do the same arithmetic: gradients of a batch that is handed in, DmSGD (ATC) with momentum 0.9 on
a ring.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import topologies
from benchmarks.timing import Line, at_least, at_most, interleaved, print_lines
from decentral.algorithms import DmSGD
from decentral.allocator import keep_freed_memory
from decentral.comm import LocalComm
from decentral.comm.layout import Layout
from decentral.problems.models.dense import mlp
from decentral.problems.oracles import BatchedOracle
from decentral.rounds.advance import advance

LR, BETA = 0.01, 0.9


def floor_step(n: int, widths: list[int], x: torch.Tensor, labels: torch.Tensor):
    """Hand-written forward and backward with bmm, and DmSGD with neighbour slices of flat buffers."""
    shapes = [(o, i) for i, o in pairwise(widths)]
    d = sum(o * i + o for o, i in shapes)
    flat, m, grad = torch.randn(n, d) * 0.05, torch.zeros(n, d), torch.empty(n, d)
    third = 1 / 3
    target = torch.nn.functional.one_hot(labels, widths[-1]).float()

    def views(buffer):
        at, out = 0, []
        for o, i in shapes:
            out.append(
                (
                    buffer[:, at : at + o * i].view(n, o, i),
                    buffer[:, at + o * i : at + o * i + o].view(n, 1, o),
                )
            )
            at += o * i + o
        return out

    parameters, gradients = views(flat), views(grad)

    def step():
        inputs, pre = [x], []
        for k, (w, b) in enumerate(parameters):
            z = torch.baddbmm(b, inputs[-1], w.mT)
            pre.append(z)
            inputs.append(z.relu() if k < len(parameters) - 1 else z)
        delta = (inputs[-1].softmax(-1) - target).div_(x.shape[1])
        for k in range(len(parameters) - 1, -1, -1):
            gw, gb = gradients[k]
            gw.copy_(torch.bmm(delta.mT, inputs[k]))
            gb.copy_(delta.sum(1, keepdim=True))
            if k:
                delta = torch.bmm(delta, parameters[k][0]).mul_(pre[k - 1] > 0)
        for a in range(0, d, 8192):
            part = slice(a, min(a + 8192, d))
            m[:, part].mul_(BETA).add_(grad[:, part])
            z = flat[:, part].sub_(m[:, part], alpha=LR)
            out = z * third
            out[1:].add_(z[:-1], alpha=third)
            out[:1].add_(z[-1:], alpha=third)
            out[:-1].add_(z[1:], alpha=third)
            out[-1:].add_(z[:1], alpha=third)
            z.copy_(out)

    return step


def our_step(n: int, widths: list[int], x: torch.Tensor, labels: torch.Tensor):
    """The project's oracle and round."""
    module = mlp(widths[0], widths[-1], tuple(widths[1:-1]))
    layout = Layout.of(module)
    oracle = BatchedOracle(module, layout, {})
    comm = LocalComm(topologies.mixing_matrix(topologies.ring(n)))
    method = DmSGD(BETA)
    models = layout.flatten(module).expand(n, -1).clone()
    held = [models, method.init(models, comm), 0]

    def step():
        _, blocks = oracle.gradient(held[0], x, labels, held[2])
        held[0], held[1] = advance(method, held[0], held[1], blocks, comm, held[2], LR)
        held[2] += 1

    return step


def loop_step(n: int, widths: list[int], x: torch.Tensor, labels: torch.Tensor):
    """What a newcomer writes: n modules, n optimizers' worth of tensors, averaging pairwise over the edges."""
    modules = [mlp(widths[0], widths[-1], tuple(widths[1:-1])) for _ in range(n)]
    momenta = [[torch.zeros_like(p) for p in module.parameters()] for module in modules]
    w = topologies.mixing_matrix(topologies.ring(n)).toarray()
    neighbours = [np.flatnonzero(row).tolist() for row in w]

    def step():
        halves = []
        for i, module in enumerate(modules):
            module.zero_grad()
            cross_entropy(module(x[i]), labels[i]).backward()
            with torch.no_grad():
                half = []
                for p, m in zip(module.parameters(), momenta[i], strict=True):
                    m.mul_(BETA).add_(p.grad)
                    half.append(p - LR * m)
                halves.append(half)
        with torch.no_grad():
            for i, module in enumerate(modules):
                for k, p in enumerate(module.parameters()):
                    p.copy_(sum(w[i, j] * halves[j][k] for j in neighbours[i]))

    return step


def measure() -> list[Line]:
    keep_freed_memory()
    lines = []
    for name, n, widths, batch in [
        ("MLP 784-256-10", 64, [784, 256, 10], 32),
        ("linear 64-10", 256, [64, 10], 8),
    ]:
        x, labels = torch.randn(n, batch, widths[0]), torch.randint(widths[-1], (n, batch))
        works = {f.__name__: f(n, widths, x, labels) for f in (our_step, floor_step, loop_step)}
        times = interleaved(works)
        what = f"step, {name}, batch {batch}, {n} workers: "
        ours, floor, loop = (times[k] for k in ("our_step", "floor_step", "loop_step"))
        if n == 64:
            lines.append(at_most(what + "ours / hand-written", ours, floor, 1.5))
            lines.append(at_least(what + "loop / hand-written", floor, loop, 2.0))
        else:
            lines.append(at_least(what + "loop / ours", ours, loop, 12.0))
    return lines


if __name__ == "__main__":
    print_lines("training step", measure())
