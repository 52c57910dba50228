"""Each compressor's encoding of a million float32 numbers, against one pass over them (``x.add(x)``).

Question: how many passes over a vector does it cost to compress it before it is sent? Encoding gives the packet and
what the receiver will decode. In layers: a convolution of 400,000 weights and a dense layer of 600,000. All take turns
at eight vectors, each at another one than its neighbours, so that nobody finds in cache what another has just read. A
generator of its own for each call is part of the encoding, as in a run (some 10 microseconds). By compiled loops where
numba is installed, as after the first 2^27 numbers of a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from benchmarks.timing import Line, at_most, interleaved, print_lines
from decentral.allocator import keep_freed_memory
from decentral.comm.compression import COMPRESSORS, Compressor, Layout, Span
from decentral.kernels import repaid
from topologies.streams import stream

LAYOUT = Layout(
    (
        Span("0", 0, 400_000, (200, 200, 10), "convolution"),
        Span("1", 400_000, 1_000_000, (600, 1000), "dense"),
    )
)
WARM_ROUNDS = 5  # AdaComp sends most in its first rounds, when there is no residue


def measure() -> list[Line]:
    keep_freed_memory()
    torch.set_num_threads(1)  # as links encode
    torch.manual_seed(0)
    repaid(1 << 27)  # as after some rounds of a run: kernels are used, where numba is installed
    vectors = [torch.randn(LAYOUT.d) for _ in range(8)]
    works: dict[str, Callable[[], int]] = {"floor": _pass(vectors)}
    works |= {
        name: _encoding(compressor(), vectors, first)
        for first, (name, compressor) in enumerate(COMPRESSORS.items(), 1)
    }
    times = interleaved(dict(works), repeats=15, warm=WARM_ROUNDS)
    return [
        at_most(
            f"{name}, {8 * works[name]() / LAYOUT.d:.2f} bits an entry: encode / a pass",
            times[name],
            times["floor"],
            5.0,
        )
        for name in COMPRESSORS
    ]


def _pass(vectors: list[torch.Tensor]) -> Callable[[], int]:
    turns = itertools.cycle(vectors)

    def work() -> int:
        x = next(turns)
        return x.add(x).nbytes

    return work


def _encoding(compressor: Compressor, vectors: list[torch.Tensor], first: int) -> Callable[[], int]:
    state, round_ = compressor.init(vectors[0], LAYOUT), 0

    def work() -> int:
        """Bytes of the packet."""
        nonlocal state, round_
        x = vectors[(first + round_) % len(vectors)]
        packet, _, state = compressor.encode(x, state, LAYOUT, stream(0, "compression", round_))
        round_ += 1
        return len(packet)

    return work


if __name__ == "__main__":
    print_lines("compression", measure())
