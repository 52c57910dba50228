"""Asynchronous workers on diagonal quadratics, played on the virtual clock without a run around them."""

from types import SimpleNamespace

import numpy as np
import torch

import topologies
from decentral.comm.layout import Layout
from decentral.network import Cluster
from decentral.runs.asynchronous.cards import Cards
from decentral.runs.asynchronous.control import Controller
from decentral.runs.asynchronous.neighbours import edges_of, neighbourhoods
from decentral.runs.asynchronous.worker import Worker
from decentral.runtime import VirtualClock


class Bowl:
    """f(x) = sum a (x - c)^2 / 2 of one worker; it keeps the gradients that it gave."""

    def __init__(self, a, c):
        self.a, self.c, self.given, self.buffers = torch.tensor(a), torch.tensor(c), [], {}
        self.layout = Layout.whole(a.shape[1])

    def gradient(self, x, t):
        g = self.a * (x - self.c)
        self.losses = (self.a * (x - self.c) ** 2).sum(1) / 2
        self.given.append(g.clone())
        yield slice(0, x.shape[1]), g


def played(
    method, mixing, starts, rounds, lr=0.0, compute=None, cluster=None, seed=0, a=None, c=None, **more
):
    """All workers after the run, the controller, the trace and what ``on_done`` was told, after ``rounds`` n steps.

    ``compute(worker, k)``: seconds of its k-th gradient; 1 without it. ``starts`` (n, d): the first models.
    """
    n, d = starts.shape
    schedule = topologies.constant(mixing)
    a = np.ones((n, d)) if a is None else a
    c = np.zeros((n, d)) if c is None else c
    workers = []
    for i, near in enumerate(neighbourhoods(schedule, seed)):
        side = method.side(torch.tensor(starts[i : i + 1]), near)
        workers.append(Worker(side, near, Bowl(a[i : i + 1], c[i : i + 1]), n, lr, **more))
    controller = Controller(n, [rounds], lambda t: lr)
    cards = Cards(cluster or Cluster.uniform(n, 0.0, float("inf")), edges_of(schedule))
    seen = []
    programs = {i: worker.run() for i, worker in enumerate(workers)} | {n: controller.run()}

    def cost(number, kind):
        return 1.0 if compute is None else compute(number, workers[number].t)

    def done(number, mark):
        side = workers[number].side if number < n else None
        copies = (side.model().clone(), side.staleness.copy()) if side else None
        seen.append((number, mark, clock.now, copies))

    cards.clock = clock = VirtualClock(programs, cost, cards, done)
    trace = clock.run()
    return SimpleNamespace(workers=workers, controller=controller, trace=trace, seen=seen, clock=clock)


def models(play):
    """(n, d) float64."""
    return torch.cat([worker.side.model() for worker in play.workers]).numpy()
