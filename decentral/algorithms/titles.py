"""How figures and tables write the names of methods."""

from __future__ import annotations

from decentral.algorithms import ALGORITHMS
from decentral.algorithms.asynchronous import ASYNCHRONOUS
from decentral.algorithms.traits import traits_of


def titles() -> dict[str, str]:
    """Of every method, in rounds and without: the name it is registered by -> its title, where it has one."""
    every = {**ALGORITHMS, **ASYNCHRONOUS}
    return {name: title for name, make in every.items() if (title := traits_of(make()).title)}
