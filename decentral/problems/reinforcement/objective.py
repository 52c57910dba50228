"""Workers that learn from what they do: a gradient is of a batch from the worker's own replay.

All that changes, but x, is in ``buffers``, so that it is in checkpoints and stays with its worker.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from decentral.comm.layout import Layout
from decentral.problems.evaluation import average
from decentral.problems.models.conversion import converted
from decentral.problems.models.initialise import initialise
from decentral.problems.models.worker_state import BufferRows, stacked_buffers
from decentral.problems.objective import one_worker
from decentral.problems.reinforcement.acting import Acting
from decentral.problems.reinforcement.agent import Agent, Carried
from decentral.problems.reinforcement.collecting import Collecting, Inline
from decentral.problems.reinforcement.oracle import RowOracle
from decentral.problems.reinforcement.replay import Replay
from decentral.problems.reinforcement.sum_tree import leaves_for
from decentral.problems.reinforcement.terms import Noise
from topologies.streams import stream

if TYPE_CHECKING:
    from decentral.comm import Communicator
    from decentral.problems.objective import Place
    from decentral.problems.reinforcement.environment import Environment
    from decentral.problems.reinforcement.settings import Settings

_FORWARDS = 10  # passes through a network that a gradient takes, about


class ReinforcementObjective:
    """See :class:`decentral.problems.objective.Objective`. A round of each hosted worker, from x as it comes:

    slow copies <- slow copies + tau (x - slow copies)      of the round before
    its actors' transitions join its replay;    one gradient row of a batch from there
    """

    oracle = "loop"

    def __init__(self, settings: Settings, env: Environment, place: Place) -> None:
        self.settings, self.place = settings, place
        agent = initialise(lambda: Agent(settings, env), place.seed)
        self.agent = cast(Agent, converted(agent, place.device, place.dtype))
        self.layout = Layout.of(self.agent)
        self.d = self.layout.d
        self._start = self.layout.flatten(self.agent)
        self.acting, self.carried = Acting(settings, env, place.seed, place.dtype), Carried(self.agent)
        self.rows = RowOracle(settings, env, self.agent, self.layout)
        h = len(place.rows)
        self._have({**stacked_buffers(self.agent, h), **self._begun(h)})
        self.losses = self._start.new_zeros(h)
        self.optimum: Tensor | None = None
        wished = place.oracle == "batched"
        self.notes = ["gradients of reinforcement learning are looped, not batched"] if wished else []

    def _begun(self, h: int) -> dict[str, Tensor]:
        """What each hosted worker has before its first round, beside batch norm's statistics."""
        s, place = self.settings, self.place
        first = self.carried.row_of({**self.layout.views(self._start), **dict(self.agent.named_buffers())})
        held = {
            "slow": self._start[self.rows.slow].expand(h, -1).clone(),
            "acting": first.expand(h, -1).clone(),
            "pulled": first.expand(h, -1).clone(),
            "environments": torch.zeros(h, s.actors, s.envs, self.acting.row, dtype=torch.float64),
            "replay": torch.zeros(h, s.replay, self.acting.width, dtype=place.dtype),
            "pushed": torch.zeros(h, 1, dtype=torch.int64),
        }
        if s.prioritised:
            held["priorities"] = torch.zeros(h, 2 * leaves_for(s.replay), dtype=torch.float64)
        for row, worker in enumerate(place.rows):
            environments, warm = self.acting.begun(worker)
            held["environments"][row] = torch.from_numpy(environments)
            replay = Replay.of(s, held, row)
            for new in warm:
                replay.push(new)
        return held

    def _have(self, buffers: dict[str, Tensor]) -> None:
        """From here on these are the buffers, of the workers of the place."""
        self.buffers = buffers
        self.statistics = {name: buffers[name] for name, _ in self.agent.named_buffers()}
        self._lent = BufferRows(self.agent, self.statistics)
        self.replays = [Replay.of(self.settings, buffers, row) for row in range(len(self.place.rows))]
        self.collecting: Collecting = Inline(self.acting, self.carried, self.place.rows)

    def start(self) -> Tensor:
        """The networks as they were initialised, (d,)."""
        return self._start

    def gradient(self, x: Tensor, t: int) -> Iterator[tuple[slice, Tensor]]:
        """Gradient rows of round t, each of a batch from the worker's replay after its actors' steps."""
        self.rows.follow(x, self.buffers["slow"], t)
        self._collect(x, t)
        g, losses = torch.empty_like(x), []
        for row in range(len(x)):
            self._lent.lend(row)
            losses.append(self._row(row, x[row], t, g[row]))
        self.losses = torch.stack(losses)
        return iter([(slice(0, self.d), g)])

    def _collect(self, x: Tensor, t: int) -> None:
        acting, pulled, environments = (self.buffers[k] for k in ("acting", "pulled", "environments"))
        self.collecting.begin(t, acting, pulled, environments)
        if t % self.settings.pull_every == 0:
            acting.copy_(pulled)
            pulled.copy_(torch.stack([self._policy(x, row) for row in range(len(x))]))
            self.collecting.pull(pulled)
        for replay, new in zip(self.replays, self.collecting.collect(t, acting, environments), strict=True):
            replay.push(new)

    def _policy(self, x: Tensor, row: int) -> Tensor:
        """What acts of hosted worker ``row``, (c,)."""
        statistics = {name: rows[row] for name, rows in self.statistics.items()}
        return self.carried.row_of({**self.layout.views(x[row]), **statistics})

    def _row(self, row: int, x: Tensor, t: int, g: Tensor) -> Tensor:
        """Hosted worker ``row``'s gradient into g (d,); its critics' loss."""
        replay, size = self.replays[row], self.place.batch_size
        assert size != "full"
        rng = stream(self.place.seed, "transitions", self.place.rows[row], t)
        drawn = replay.draw(rng, size)
        noise = torch.from_numpy(rng.standard_normal((2, size, self.acting.env.actions)))
        rows = replay.rows[torch.from_numpy(drawn.which)].to(x.device)
        batch = self.rows.batch(rows, torch.from_numpy(drawn.weight).to(x))
        found = self.rows.gradient(x, self.buffers["slow"][row], batch, Noise(*noise.to(x)), t, g)
        replay.learned(drawn.which, found.errors)
        return found.critic

    def alone(self, row: int) -> ReinforcementObjective:
        """See :class:`decentral.problems.objective.Objective`."""
        one = copy.copy(self)
        one.place, one.losses = one_worker(self.place, row), self.losses[row : row + 1]
        one._have({name: rows[row : row + 1].clone() for name, rows in self.buffers.items()})
        return one

    def redrawn(self, batch_size: int, of_all: bool) -> ReinforcementObjective:
        """See :class:`decentral.problems.objective.Objective`; a worker has no samples but its own."""
        del of_all
        one = copy.copy(self)
        one.place = replace(self.place, batch_size=batch_size)
        return one

    def renew_statistics(self, x: Tensor, batch_size: int) -> int:
        """There are no training samples to pass over: a representation's statistics stay its worker's."""
        del x, batch_size
        return 0

    def record_cost_rounds(self) -> float:
        """By the steps of an episode, each a pass of every model that is judged, against those of a round."""
        n, s = self.place.workers, self.settings
        models = 1 if n == 1 else n + 1
        return models * self.acting.env.steps / (n * (_FORWARDS + s.actors * s.steps))

    def evaluate(self, mean: Tensor, x: Tensor, comm: Communicator, last: bool) -> dict[str, float]:
        """Returns of episodes without noise: of the averaged model, on rank 0, and of the workers'."""
        del last
        averaged = average(self.statistics, comm)
        of_mean = float("nan")
        if comm.rank == 0:
            named = {**self.layout.views(mean[0]), **averaged}
            of_mean = float(self.acting.returns(self.carried.put(self.carried.row_of(named))).mean())
        own = [of_mean] if comm.n == 1 else [self._return(x, row) for row in range(len(x))]
        returns = comm.observe(np.array(own))
        pushed = comm.observe(self.buffers["pushed"][:, 0].double().cpu().numpy())
        return {
            "return": of_mean,
            "return_worker_mean": float(returns.mean()),
            "return_worker_min": float(returns.min()),
            "environment_steps": int(pushed.sum()),
        }

    def _return(self, x: Tensor, row: int) -> float:
        return float(self.acting.returns(self.carried.put(self._policy(x, row))).mean())

    def samples(self, rounds: int) -> int:
        """Transitions that gradients of all workers are of."""
        assert self.place.batch_size != "full"
        return rounds * self.place.batch_size * self.place.workers

    def epoch(self, rounds: int) -> None:
        """A replay changes: there is nothing to pass over."""
