"""Luck is data: one uniform for each (seed, sample, step), from a counter.

A generator with a hidden state gives a prompt another text when its place in the
batch changes, since all rows draw from one stream. A counter-based generator has no
state: the number at (seed, sample, step) is a function of these three alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib import _validate

MAX_SEED = 2**53  # seeds are exact in the float64 of JavaScript

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (
    0x9E3779B9,
    0xBB67AE85,
)  # golden ratio and sqrt(3) - 1, as 32-bit fractions
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint64]


def philox4x32(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """The Philox-4x32 block function with ten rounds.

    Args:
        counter: four arrays of 32-bit words (held in uint64), of one shape.
        key: two 32-bit words.

    Returns:
        Four arrays of 32-bit words (held in uint64), of the counter's shape.

    Source: Salmon et al. (2011), section 5.2; constants and known answers as in
    Random123.
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (right >> _HALF) ^ b ^ np.uint64(k0),
            right & _LOW,
            (left >> _HALF) ^ d ^ np.uint64(k1),
            left & _LOW,
        )
        k0 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF
        k1 = (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return [a, b, c, d]


def uniforms(seed: int, samples: Sequence[int], steps: Sequence[int]) -> Tensor:
    """The uniforms of one prompt: 53-bit fractions in [0, 1).

    Entry (i, j) depends on ``seed``, ``samples[i]`` and ``steps[j]`` alone: the first
    two words of Philox-4x32 with key (seed mod 2^32, seed div 2^32) and counter
    (step, sample, 0, 0), as ``((x0 >> 5) * 2^26 + (x1 >> 6)) / 2^53``.

    Args:
        seed: 0 <= seed < 2^53.
        samples: which of the ``num_return_sequences``, each from 0 to 2^32 - 1.
        steps: indices of new tokens, the first being 0, each from 0 to 2^32 - 1.

    Returns:
        float64 ``(len(samples), len(steps))``.

    Raises:
        TypeError: a seed or index is no integer.
        ValueError: a seed or index is out of range.

    Source: Salmon et al. (2011). Defined in chapter 6, equation (6.13).
    """
    seed = check_seed(seed)
    rows, columns = _indices("samples", samples), _indices("steps", steps)
    step, sample = np.broadcast_arrays(columns[None, :], rows[:, None])
    zero = np.zeros_like(step)
    words = philox4x32([step, sample, zero, zero], (seed & 0xFFFFFFFF, seed >> 32))
    fraction = (words[0] >> np.uint64(5)) * np.uint64(2**26) + (
        words[1] >> np.uint64(6)
    )
    return torch.from_numpy(fraction.astype(np.float64) / 2.0**53)


def check_seed(seed: int) -> int:
    """Return a legal seed, or raise."""
    return _validate.integer("seed", seed, low=0, high=MAX_SEED - 1)


def _indices(name: str, values: Sequence[int]) -> Words:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise TypeError(
            f"{name}={values!r} must be a sequence of integers from 0 to 2^32 - 1, "
            f"such as range({values!r})"
        )
    indices = [_validate.integer(name, v, low=0, high=2**32 - 1) for v in values]
    return np.asarray(indices, dtype=np.uint64)
