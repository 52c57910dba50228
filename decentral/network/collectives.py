"""Seconds of an all-reduce of M bytes over n workers, by algorithm.

alpha: seconds until the first byte arrives, B: bytes a second of a link. Every worker has one full-duplex port, all
start at once, a step of an algorithm ends when its messages have arrived, and adding numbers takes no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def ring(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> float:
    """2 (n - 1) (alpha + M / (n B)): a reduce-scatter and an all-gather along a ring, for any n."""
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    return 2 * (n - 1) * (latency_s + message_bytes / n / bandwidth_bytes_s)


def tree(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> float:
    """2 ceil(log2 n) (alpha + M / B): a sum up a binomial tree and a broadcast down it, for any n."""
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    return 2 * (n - 1).bit_length() * (latency_s + message_bytes / bandwidth_bytes_s)


def recursive_doubling(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> float:
    """log2 n (alpha + M / B): in step k, i and i XOR 2^k exchange their sums.

    Where n = p + r with p = 2^floor(log2 n) and 0 < r: log2 p steps and two more, in which r workers hand their
    vectors to r others at first, and get the sum from them in the end.
    """
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    p, r = _folded(n)
    return (p.bit_length() - 1 + 2 * (r > 0)) * (latency_s + message_bytes / bandwidth_bytes_s)


def halving_doubling(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> float:
    """2 log2 n alpha + 2 (n - 1) / n M / B: recursive halving, then doubling (Rabenseifner 2004).

    Where n = p + r with p = 2^floor(log2 n) and 0 < r: that of p, and 2 (alpha + M / B) as for recursive doubling.
    """
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    p, r = _folded(n)
    whole_s = message_bytes / bandwidth_bytes_s
    inner_s = 2 * (p.bit_length() - 1) * latency_s + 2 * (p - 1) / p * whole_s
    return inner_s + 2 * (r > 0) * (latency_s + whole_s)


def parameter_server(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> float:
    """2 (n - 1) (alpha + M / B): all vectors to one worker and the sum back to all, one by one over its port."""
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    return 2 * (n - 1) * (latency_s + message_bytes / bandwidth_bytes_s)


def hierarchical(
    n: int,
    message_bytes: float,
    latency_s: float,
    bandwidth_bytes_s: float,
    *,
    host_size: int = 1,
    inside_latency_s: float | None = None,
    inside_bandwidth_bytes_s: float | None = None,
) -> float:
    """2 (L - 1) (alpha_in + M / (L B_in)) + 2 (H - 1) (alpha + M / (n B)) for H hosts of L workers, n = H L.

    A ring reduce-scatter inside each host; then L rings side by side, the k-th over the k-th workers of all hosts and
    with the k-th part of the vector; a ring all-gather inside. Where ``inside_...`` are left out, they are as between
    hosts.
    Raises ValueError unless ``host_size`` divides n.
    """
    inside_latency_s, inside = _inside(
        n, host_size, inside_latency_s, inside_bandwidth_bytes_s, latency_s, bandwidth_bytes_s
    )
    inside_s = ring(host_size, message_bytes, inside_latency_s, inside)
    return inside_s + ring(n // host_size, message_bytes / host_size, latency_s, bandwidth_bytes_s)


def direct(
    n: int,
    message_bytes: float,
    latency_s: float,
    bandwidth_bytes_s: float,
    *,
    host_size: int = 1,
    inside_latency_s: float | None = None,
    inside_bandwidth_bytes_s: float | None = None,
) -> float:
    """2 (L - 1) (alpha_in + M / (n B_in)) + 2 (n - L) (alpha + M / (n B)) for hosts of L workers.

    Everyone sends every other one its n-th part, adds what has come, and sends the sum to all: the exact mean of MPI's
    ranks here. On equal links it takes as long as a ring. The rest as for :func:`hierarchical`.
    """
    _check(n, message_bytes, latency_s, bandwidth_bytes_s)
    inside_latency_s, inside = _inside(
        n, host_size, inside_latency_s, inside_bandwidth_bytes_s, latency_s, bandwidth_bytes_s
    )
    part = message_bytes / n
    inside_s = (host_size - 1) * (inside_latency_s + part / inside)
    return 2 * (inside_s + (n - host_size) * (latency_s + part / bandwidth_bytes_s))


COLLECTIVES: dict[str, Callable[..., float]] = {
    "ring": ring,
    "halving-doubling": halving_doubling,
    "recursive-doubling": recursive_doubling,
    "tree": tree,
    "hierarchical": hierarchical,
    "direct": direct,
    "parameter-server": parameter_server,
}
"""Algorithms by name: (n, message_bytes, latency_s, bandwidth_bytes_s) -> seconds."""


def mean_bytes_sent(name: str, n: int, message_bytes: float) -> float:
    """Bytes that a worker sends in one all-reduce, in the mean over the workers.

    2 (n - 1) / n M, the least there can be, for all but recursive doubling, which sends (p log2 p + 2 r) / n M.
    """
    if name == "recursive-doubling":
        p, r = _folded(n)
        return (p * (p.bit_length() - 1) + 2 * r) / n * message_bytes
    return 2 * (n - 1) / n * message_bytes


def _inside(
    n: int,
    host_size: int,
    inside_latency_s: float | None,
    inside_bandwidth_bytes_s: float | None,
    latency_s: float,
    bandwidth_bytes_s: float,
) -> tuple[float, float]:
    """Latency and bandwidth inside a host; those between hosts where they are left out."""
    if host_size < 1 or n % host_size:
        raise ValueError(
            f"hosts must have as many workers each (n = {n}, host_size = {host_size}); use a divisor of n"
        )
    return (
        latency_s if inside_latency_s is None else inside_latency_s,
        bandwidth_bytes_s if inside_bandwidth_bytes_s is None else inside_bandwidth_bytes_s,
    )


def _folded(n: int) -> tuple[int, int]:
    """(p, r) with n = p + r and p the largest power of two that is not above n."""
    p = 1 << (n.bit_length() - 1)
    return p, n - p


def _check(n: int, message_bytes: float, latency_s: float, bandwidth_bytes_s: float) -> None:
    if n < 1:
        raise ValueError(f"an all-reduce needs at least one worker (n = {n}); use 1 or more")
    for key, value in (("message_bytes", message_bytes), ("latency_s", latency_s)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{key} = {value} must be a number that is not negative")
    if not bandwidth_bytes_s > 0:
        raise ValueError(f"bandwidth_bytes_s = {bandwidth_bytes_s} must be positive")
