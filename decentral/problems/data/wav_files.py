"""WAV files with plain samples: what is not as it should be is refused by the file's name."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from decentral.errors import UserError

Array = np.ndarray[Any, Any]


def read_wav(path: Path, rate: int, least_s: float, most_s: float) -> Array:
    """The samples (N,), float64 in [-1, 1), of a mono file of 16-bit PCM at ``rate`` Hz.

    Raises `UserError` that names the file: for another format, rate, number of channels or width, for fewer samples
    than its header says, and for less than ``least_s`` or more than ``most_s`` seconds.
    """
    try:
        with wave.open(str(path), "rb") as file:
            found, count = (file.getframerate(), file.getnchannels(), file.getsampwidth()), file.getnframes()
            _check_form(path, found, rate)
            if not least_s * rate <= count <= most_s * rate:
                raise UserError(
                    f"{path}: it has {count} samples, {count / rate:g} s; a word has {least_s:g} to {most_s:g} s"
                )
            raw = file.readframes(count)
    except (wave.Error, EOFError) as error:
        why = str(error) or "it ends too early"
        raise UserError(f"{path}: expected a WAV file of PCM samples ({why}); get the file again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from error
    if len(raw) != 2 * count:
        raise UserError(
            f"{path}: its header says {count} samples, it has {len(raw) // 2}; get the file again"
        )
    return np.frombuffer(raw, "<i2") / 32768.0


def _check_form(path: Path, found: tuple[int, int, int], rate: int) -> None:
    for what, value, wanted, unit in zip(
        ("a rate of", "channels:", "a width of"), found, (rate, 1, 2), (" Hz", "", " bytes"), strict=True
    ):
        if value != wanted:
            raise UserError(
                f"{path}: {what} {value}{unit}, expected {wanted}{unit}; convert it to {rate} Hz, mono, 16 bit"
            )
