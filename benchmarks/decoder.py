"""The decoder of keywords, forward and backward, against the same dynamic programming as a loop over cells in Python.

Question: what does it save to take all states and examples of a frame at once? 64 examples of 100 frames, 20 states, as
in a batch of one worker: scores and durations of the best paths that end at each frame, and the gradient of the last
frame's score. The loop does the same from a tensor to a tensor, in plain floats and lists, which is the fastest that
Python does one cell at a time; its gradient needs one path only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.timing import Line, at_least, at_most, interleaved, print_lines
from decentral.allocator import keep_freed_memory
from decentral.comm.launch import one_thread
from decentral.problems.models.decoder import UNREACHED, Chain

BATCH, FRAMES, STATES = 64, 100, 20
PASSES = 10  # one after the other, as in training; the loop leaves the caches to nobody


def measure() -> list[Line]:
    keep_freed_memory()
    torch.manual_seed(0)
    e = torch.randn(BATCH, FRAMES, STATES, requires_grad=True)
    with one_thread():
        works = {"once": _ours(e, 0.0, 1), "hard": _ours(e, 0.0, PASSES), "soft": _ours(e, 0.5, PASSES)}
        times = interleaved({**works, "loop": _loop(e)}, repeats=9)
    what = f"decoder, T = {FRAMES}, S = {STATES}, batch {BATCH}, forward and backward"
    return [
        at_least(f"{what}, ten in a row: ours / Python loop", times["hard"] / PASSES, times["loop"], 20),
        at_least(f"{what}, one after the loop's: ours / Python loop", times["once"], times["loop"], 20),
        at_most(f"{what}: soft / hard", times["soft"], times["hard"], 3),
    ]


def _ours(e: torch.Tensor, temperature: float, passes: int) -> Callable[[], torch.Tensor]:
    chain = Chain(STATES, 0.8, temperature)

    def work() -> torch.Tensor:
        for _ in range(passes - 1):
            torch.autograd.grad(chain(e).score[:, -1].sum(), e)
        return torch.autograd.grad(chain(e).score[:, -1].sum(), e)[0]

    return work


def _loop(e: torch.Tensor) -> Callable[[], torch.Tensor]:
    def work() -> torch.Tensor:
        found = [_path(emissions) for emissions in e.tolist()]
        scores, durations, gradients = (torch.tensor(part) for part in zip(*found, strict=True))
        del scores, durations
        return gradients

    return work


def _path(emissions: list[list[float]]) -> tuple[list[float], list[int], list[list[float]]]:
    """Scores and durations at each frame, and 1 on the best path that ends at the last one, by pointers."""
    delta, begin, pointers = [UNREACHED] * STATES, [0] * STATES, []
    scores, durations = [], []
    for t, row in enumerate(emissions):
        came, now, began, before, begun = [], [], [], 0.0, t
        for s in range(STATES):
            moved = before > delta[s]
            now.append((before if moved else delta[s]) + row[s])
            began.append(begun if moved else begin[s])
            came.append(moved)
            before, begun = delta[s], begin[s]
        delta, begin = now, began
        pointers.append(came)
        scores.append(delta[-1])
        durations.append(t + 1 - begin[-1])
    gradient, s = [[0.0] * STATES for _ in emissions], STATES - 1
    for t in range(len(emissions) - 1, -1, -1):
        gradient[t][s] = 1.0
        s -= pointers[t][s]
        if s < 0:
            break
    return scores, durations, gradient


if __name__ == "__main__":
    print_lines("decoder", measure())
