"""Environments by name."""

from __future__ import annotations

from collections.abc import Callable

from decentral.errors import nearest
from decentral.problems.reinforcement.environment import GYMNASIUM, Environment
from topologies.places import later
from topologies.wording import shown

ENVIRONMENTS: dict[str, Callable[..., Environment]] = {
    "pendulum": later("decentral.problems.reinforcement.pendulum:Pendulum"),
    "point-mass": later("decentral.problems.reinforcement.point_mass:PointMass"),
}
"""By name, as ``problem.env`` has it; each is called with the steps of an episode, or with nothing."""


def check_name(env: str) -> None:
    """Refuse what is neither in the table nor gymnasium's. Raises ValueError."""
    if env not in ENVIRONMENTS and not (env.startswith(GYMNASIUM) and env != GYMNASIUM):
        near = nearest(env, [*ENVIRONMENTS, "gymnasium:Pendulum-v1"])
        raise ValueError(f"env = {shown(env)} is not known; {near}")


def environment(env: str, steps: int | None) -> Environment:
    """The environment of this name. Raises UserError where gymnasium has none that fits."""
    if not env.startswith(GYMNASIUM):
        return ENVIRONMENTS[env](**({} if steps is None else {"steps": steps}))
    from decentral.problems.reinforcement.gymnasium_adapter import GymnasiumEnvironment

    return GymnasiumEnvironment(env.removeprefix(GYMNASIUM), steps)
