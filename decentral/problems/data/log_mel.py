"""Log-mel features: what is left of a sound for a network that is to know words, a few numbers a frame."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from scipy import fft

Array = np.ndarray[Any, Any]

WINDOW_S, HOP_S = 0.025, 0.01
_FLOOR = 1e-10  # of a band's energy, about that of the last bit of 16


def frame_samples(frames: int, rate: int) -> int:
    """How many samples that many frames are made of."""
    return (frames - 1) * round(HOP_S * rate) + round(WINDOW_S * rate)


def log_mel(sound: Array, rate: int, bands: int) -> Array:
    """log(M |rfft(w x)|^2 / sum w^2 + 1e-10) of each frame x, (..., T, bands), of sounds (..., samples) at ``rate`` Hz.

    Frames of 25 ms every 10 ms, w the periodic Hann window, filled up with zeros to a power of two. M: triangles that
    are even on the mel scale 2595 log10(1 + f / 700), from 0 to half the rate, each 1 at its middle.
    """
    size, hop = round(WINDOW_S * rate), round(HOP_S * rate)
    frames = np.lib.stride_tricks.sliding_window_view(sound, size, axis=-1)[..., ::hop, :]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    points = 1 << (size - 1).bit_length()
    power = np.abs(fft.rfft(frames * window, points)) ** 2 / (window**2).sum()
    return np.asarray(np.log(power @ triangles(rate, points, bands) + _FLOOR))


@functools.cache
def triangles(rate: int, points: int, bands: int) -> Array:
    """M' (points / 2 + 1, bands): the weight of each frequency in each band."""
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    f = np.arange(points // 2 + 1)[:, None] * rate / points
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((f - low) / (middle - low), (high - f) / (high - middle)))
