"""Checkers of chapter 2: temperature, and the slope of the entropy along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib import distribution
from lib.check._engine import (
    INF,
    LAST_AXIS,
    NARROWED,
    Exercise,
    Mistake,
    Result,
    logits,
)


def _tiny(z: Tensor) -> float:
    """A temperature that the dtype can hold, and at which a logit of 100 overflows."""
    return 1e-4 if z.dtype == torch.float16 else 1e-37


def _down_from_the_best(y: Tensor) -> Tensor:
    """Logits without their common shift: each row's maximum at 0.

    What lies 10,000 nats below has probability 0 in every float type, and counts as
    removed.
    """
    y = y if y.is_floating_point() else y.double()
    y = y - y.amax(-1, keepdim=True)
    return y.masked_fill(y < -1e4, -INF)


def _inputs() -> list[tuple[Any, ...]]:
    bank = logits()
    found: list[tuple[Any, ...]] = [(z, t) for z in bank for t in (0.5, 2)]
    return found + [(z, _tiny(z)) for z in bank[:17]]


_TEMPERATURE = Exercise(
    "temperature",
    ("logits", "temperature"),
    distribution.apply_temperature,
    _inputs,
    (
        NARROWED,
        Mistake(
            "no maximum subtracted, so that z / T overflows",
            "A logit of 100 over a tiny T is infinite, and inf - inf is NaN. Subtract "
            "the row's maximum first: then nothing is above 0, at any T > 0 that "
            "float32 can hold.",
            lambda z, t: z / t,
        ),
        Mistake(
            "T is held above a smallest value, and the rest overflows",
            "That saves the division by 0, not the quotient, which half precision "
            "cannot hold. Subtract the row's maximum before dividing.",
            lambda z, t: z / max(t, 1e-5),
        ),
        Mistake(
            "one maximum for the whole batch",
            "A row far below it falls to -inf altogether. Each row has a maximum of "
            "its own: amax(dim=-1, keepdim=True).",
            lambda z, t: (z - z.max()) / t,
        ),
        Mistake(
            "the mean is subtracted, not the maximum",
            "With a removed token the mean is -inf, and a row of one high and many "
            "low logits still overflows.",
            lambda z, t: (z - z.mean(-1, keepdim=True)) / t,
        ),
        Mistake(
            "multiplied by T, not divided",
            "T > 1 must flatten: it makes the differences smaller.",
            lambda z, t: (z - z.amax(-1, keepdim=True)) * t,
        ),
        Mistake(
            "temperature has no effect",
            "Adding or subtracting T moves all logits alike, which softmax ignores. "
            "Divide.",
            lambda z, t: z - t,
        ),
        Mistake(
            "divided by the square of T",
            "The log-odds are (z_v - z_w) / T: one division.",
            lambda z, t: (z - z.amax(-1, keepdim=True)) / t**2,
        ),
        Mistake(
            "divided by the square root of T",
            "The square root belongs to attention. The log-odds are (z_v - z_w) / T.",
            lambda z, t: (z - z.amax(-1, keepdim=True)) / t**0.5,
        ),
        Mistake(
            "probabilities returned, not logits",
            "The distribution is right, but the stage hands on logits. Whoever takes "
            "softmax of the result takes it twice.",
            lambda z, t: torch.softmax((z - z.amax(-1, keepdim=True)) / t, -1),
        ),
        Mistake(
            "probabilities divided by T",
            "Dividing probabilities is undone by the next normalisation. Divide the "
            "logits; on probabilities, temperature is the power 1/T.",
            lambda z, t: torch.softmax(z, -1) / t,
        ),
        Mistake(
            "the power 1/T of the logits",
            "It is the probabilities that are raised to 1/T. On logits, which are "
            "their logarithms, the power becomes a division.",
            lambda z, t: z ** (1 / t),
        ),
        Mistake(
            "the quotient is rounded down",
            "// is whole-number division; / is meant.",
            lambda z, t: z // t,
        ),
        Mistake(
            "the sign is reversed",
            "Physics divides energies, of which the lowest is the most probable; "
            "logits are their negatives.",
            lambda z, t: -(z - z.amax(-1, keepdim=True)) / t,
        ),
        Mistake(
            "only cooling works",
            "A T above 1 is taken for 1 here; it must flatten.",
            lambda z, t: (z - z.amax(-1, keepdim=True)) / min(t, 1),
        ),
        Mistake(
            "only heating works",
            "A T below 1 is taken for 1 here; it must sharpen.",
            lambda z, t: (z - z.amax(-1, keepdim=True)) / max(t, 1),
        ),
    ),
    view=_down_from_the_best,
)


def temperature(function: Callable[[Tensor, float], Any]) -> Result:
    """Check a function ``my_temperature(logits, temperature)``, equation (2.1).

    Args:
        function: takes float logits ``(..., vocab)`` and T > 0, and returns logits of
            the same shape, as a tensor, an array or nested lists. A shift common to a
            row does not count; results show each row's best token at 0.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _TEMPERATURE.check(function)


def _at(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Probabilities at temperature t; the logits, removed ones as 0."""
    y = distribution.apply_temperature(z.double(), t)
    return torch.softmax(y, -1), z.double().masked_fill(z == -INF, 0.0)


def _variance(z: Tensor, t: float, dim: int = -1) -> Tensor:
    p, finite = _at(z, t)
    mean = (p * finite).sum(dim, keepdim=True)
    return (p * (finite - mean) ** 2).sum(dim)


def _entropy_slope(z: Tensor, t: float) -> Tensor:
    """The reference: Var(z) / T³, in float64."""
    return (_variance(z, t) / t**3).to(z.dtype)


def _unmasked(z: Tensor, t: float) -> Tensor:
    p = torch.softmax(z / t, -1)
    mean = (p * z).sum(-1, keepdim=True)
    return (p * (z - mean) ** 2).sum(-1) / t**3


def _difference_of_squares(z: Tensor, t: float) -> Tensor:
    """E[z²] - E[z]², in the dtype of the logits."""
    p = torch.softmax((z - z.amax(-1, keepdim=True)) / t, -1)
    finite = z.masked_fill(z == -INF, 0.0)
    return ((p * finite**2).sum(-1) - (p * finite).sum(-1) ** 2) / t**3


_POWER = "Var(z) is in squared units of the logits: divide by T three times."
_ENTROPY_SLOPE = Exercise(
    "entropy_slope",
    ("logits", "temperature"),
    _entropy_slope,
    lambda: [(z, t) for z in logits() for t in (0.5, 2)],
    (
        NARROWED,
        Mistake(
            "a removed token makes NaN",
            "It has p = 0 and z = -inf, and 0 × inf is NaN. Its term is 0: leave it "
            "out with torch.where before multiplying.",
            _unmasked,
        ),
        Mistake(
            "a small difference of large numbers",
            "E[z²] - E[z]² is the variance, and rounding of the two squares hides it "
            "where it is small. Average the squared deviations from the mean.",
            _difference_of_squares,
        ),
        Mistake(
            "the variance is not weighted",
            "Every token counts alike here. Weigh each squared deviation with the "
            "token's probability at temperature T.",
            lambda z, t: z.var(-1) / t**3,
        ),
        Mistake(
            "the variance is not weighted",
            "Every token counts alike here. Weigh each squared deviation with the "
            "token's probability at temperature T.",
            lambda z, t: z.var(-1, correction=0) / t**3,
        ),
        Mistake(
            "weighted with the probabilities of temperature 1",
            "The variance is taken under the distribution one stands at, p_T.",
            lambda z, t: _variance(z, 1.0) / t**3,
        ),
        Mistake(
            "the slope against log T",
            f"Var(z) / T² is T times dH/dT. {_POWER}",
            lambda z, t: _variance(z, t) / t**2,
        ),
        Mistake(
            "the slope against 1/T",
            "-Var(z) / T is the derivative by 1/T. The chain rule adds the factor "
            "-1/T², the derivative of 1/T.",
            lambda z, t: -_variance(z, t) / t,
        ),
        Mistake(
            "divided by T once, not three times",
            _POWER,
            lambda z, t: _variance(z, t) / t,
        ),
        Mistake("the division by T³ is missing", _POWER, _variance),
        Mistake(
            "the sign is reversed",
            "A variance is never negative, and entropy never falls with T.",
            lambda z, t: -_variance(z, t) / t**3,
        ),
        Mistake(
            "the slope of the mean score",
            "-Var(z) / T² is the derivative of the mean score, by (2.7).",
            lambda z, t: -_variance(z, t) / t**2,
        ),
        Mistake(
            "the standard deviation in place of the variance",
            "Do not take the square root.",
            lambda z, t: _variance(z, t).sqrt() / t**3,
        ),
        Mistake(
            "the mean is not subtracted",
            "E[z²] depends on a common shift of the logits; the variance does not.",
            lambda z, t: ((pz := _at(z, t))[0] * pz[1] ** 2).sum(-1) / t**3,
        ),
        Mistake(
            "bits in place of nats",
            "This is the slope of the entropy with logarithms to base 2. In nats it is "
            "smaller by the factor log 2 = 0.693.",
            lambda z, t: _variance(z, t) / t**3 / float(np.log(2)),
        ),
        Mistake(
            "the entropy itself",
            "Asked for is its derivative by T.",
            lambda z, t: distribution.entropy(
                distribution.apply_temperature(z.double(), t)
            ),
        ),
        Mistake(
            "one number for the whole batch",
            "Each row has a slope of its own: sum over dim=-1 only.",
            lambda z, t: (_variance(z, t) / t**3).sum(),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one number a row: sum without keepdim.",
            lambda z, t: (_variance(z, t) / t**3).unsqueeze(-1),
        ),
        Mistake(
            "wrong axis: dim 0 is the batch",
            LAST_AXIS,
            lambda z, t: (
                (
                    (p := torch.softmax(z / t, 0))
                    * (z - (p * z).sum(0, keepdim=True)) ** 2
                ).sum(0)
                / t**3
            ),
        ),
    ),
)


def entropy_slope(function: Callable[[Tensor, float], Any]) -> Result:
    """Check a function ``my_entropy_slope(logits, temperature)``, equation (2.8).

    Args:
        function: takes float logits ``(..., vocab)`` and T > 0, and returns dH/dT in
            nats, shape ``(...)``, as a tensor, an array or a number.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _ENTROPY_SLOPE.check(function)
