"""A method of your own: one class and one line, then the same commands as for any other.

python examples/own_method.py run experiments/quickstart.toml --set 'sweep.algorithm.name=["dsgd", "sleepy"]'
mpirun -n 4 python examples/own_method.py run ...
"""

from dataclasses import dataclass

from decentral.algorithms import ALGORITHMS
from decentral.cli import main


@dataclass(frozen=True)
class Sleepy:
    """Gossip in every ``every``-th round only, and local steps between.

        x = x - lr g;    in every ``every``-th round    x = W (x - lr g)

    Cost: one vector of d numbers to each neighbour in ``every`` rounds.
    """

    every: int = 2

    def init(self, x, comm):
        """No state."""
        return ()

    def step(self, x, state, g, comm, lr):
        """One round from x (h, d) with the gradients g (h, d) at x."""
        x = x.sub_(g, alpha=lr)
        return (comm.mix_(x) if (comm.t + 1) % self.every == 0 else x), state


ALGORITHMS["sleepy"] = Sleepy

if __name__ == "__main__":
    main()
