"""Checkers of chapter 1: softmax, log-probabilities, entropy."""

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
    Failure,
    Mistake,
    Result,
    logits_alone,
)


def _exp(z: Tensor) -> Tensor:
    """The numerators of softmax, safely."""
    return (z - z.amax(-1, keepdim=True)).exp()


def _is_finite_where_removed(failure: Failure) -> bool:
    """A log-probability of a removed token that is a number, not -inf."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    gone = right == -INF
    return bool(gone.any()) and bool(answer[gone].isfinite().all())


_OVERFLOW = (
    "Subtract the row's maximum first: no exponent is then above 0, and the result is "
    "the same."
)
_SOFTMAX = Exercise(
    "softmax",
    ("logits",),
    distribution.softmax,
    logits_alone,
    (
        NARROWED,
        Mistake(
            "no maximum subtracted, so that e^z overflows",
            f"Above z = 88.7, e^z is no float32 number any more. {_OVERFLOW}",
            lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
        ),
        Mistake(
            "the mean is subtracted, not the maximum",
            f"A row of one high and many low logits still overflows. {_OVERFLOW}",
            lambda z: (
                (e := (z - z.mean(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True)
            ),
        ),
        Mistake(
            "the minimum is subtracted, not the maximum",
            f"That makes the exponents larger. {_OVERFLOW}",
            lambda z: (
                (e := (z - z.amin(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True)
            ),
        ),
        Mistake(
            "one maximum for the whole batch",
            "A row far below it underflows to 0/0. Take the maximum of each row: "
            "z.max(dim=-1, keepdim=True).values or z.amax(-1, keepdim=True).",
            lambda z: (e := (z - z.max()).exp()) / e.sum(-1, keepdim=True),
        ),
        Mistake(
            "wrong axis: normalised over dim 0, the batch",
            LAST_AXIS,
            lambda z: torch.softmax(z, 0),
        ),
        Mistake(
            "wrong axis: dim 1 is the vocabulary only in a (batch, vocab) tensor",
            LAST_AXIS,
            lambda z: torch.softmax(z, 1),
        ),
        Mistake(
            "normalised over the whole tensor, not row by row",
            "Each row is a distribution of its own: sum over dim=-1 with keepdim=True.",
            lambda z: (z - z.max()).exp() / (z - z.max()).exp().sum(),
        ),
        Mistake(
            "softmax applied twice",
            "The result is flatter than it should be: e^p lies between 1 and e. "
            "Softmax takes logits, not probabilities.",
            lambda z: torch.softmax(torch.softmax(z, -1), -1),
        ),
        Mistake(
            "not normalised",
            "The numerators e^z are there; divide them by their sum over dim=-1.",
            lambda z: _exp(z),
        ),
        Mistake(
            "not normalised, and e^z overflows",
            f"Divide by the sum over dim=-1. {_OVERFLOW}",
            lambda z: z.exp(),
        ),
        Mistake(
            "the exponential is missing",
            "Logits divided by their sum can be negative. The odds must be e to the "
            "difference of the logits: equation (1.3).",
            lambda z: z / z.sum(-1, keepdim=True),
        ),
        Mistake(
            "the sign is reversed",
            "This gives the lowest logit the highest probability. Physics has "
            "e^(-energy); a logit is a score, with a plus.",
            lambda z: torch.softmax(-z, -1),
        ),
        Mistake(
            "base 2 in place of e",
            "2^z is a softmax at temperature 1/log 2 = 1.44. Use exp.",
            lambda z: torch.softmax(z * float(np.log(2)), -1),
        ),
        Mistake(
            "log-probabilities returned",
            "These are the logarithms of the answer.",
            lambda z: torch.log_softmax(z, -1),
        ),
        Mistake(
            "rank in place of token id",
            "The probabilities come back sorted, so that place v no longer belongs to "
            "token v. Softmax keeps every token in its place.",
            lambda z: torch.softmax(z, -1).sort(-1, descending=True).values,
        ),
        Mistake(
            "a hard maximum",
            "All the mass is on the best token: that is the argmax, softmax at "
            "temperature 0.",
            lambda z: torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).to(z),
        ),
    ),
)


def softmax(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_softmax(logits)``, equation (1.4).

    Args:
        function: takes float logits ``(..., vocab)`` and returns probabilities of the
            same shape, as a tensor, an array or nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _SOFTMAX.check(function)


_LOG_SOFTMAX = Exercise(
    "log_softmax",
    ("logits",),
    distribution.log_softmax,
    logits_alone,
    (
        NARROWED,
        Mistake(
            "the logarithm of a probability that has underflowed to 0",
            "A softmax below 1e-45 is 0 in float32 and its logarithm -inf, though the "
            "true value is an ordinary number. Never form p: compute z - lse(z).",
            lambda z: torch.softmax(z, -1).log(),
        ),
        Mistake(
            "the logarithm of a softmax without the maximum subtracted",
            f"{_OVERFLOW} Then compute z - lse(z) without forming p.",
            lambda z: (z.exp() / z.exp().sum(-1, keepdim=True)).log(),
        ),
        Mistake(
            "no maximum subtracted, so that e^z overflows",
            "The sum of e^z leaves float32 above z = 88.7 and is 0 far below 0. "
            "Use lse(z) = m + log of the sum of e^(z - m) with the row's maximum m.",
            lambda z: z - z.exp().sum(-1, keepdim=True).log(),
        ),
        Mistake(
            "a small number is added inside the logarithm",
            "It hides log 0, but it gives a removed token a finite log-probability and "
            "bends all small ones. Compute z - lse(z); -inf stays -inf by itself.",
            sign=_is_finite_where_removed,
        ),
        Mistake(
            "probabilities returned: the logarithm is missing",
            "Log-probabilities are never positive; yours are from 0 to 1.",
            lambda z: torch.softmax(z, -1),
        ),
        Mistake(
            "the log of the sum is missing: only the maximum is subtracted",
            "The largest is then always 0, as if the best token were certain.",
            lambda z: z - z.amax(-1, keepdim=True),
        ),
        Mistake(
            "the sum is subtracted, not its logarithm",
            "log(a/b) = log a - log b.",
            lambda z: z - z.amax(-1, keepdim=True) - _exp(z).sum(-1, keepdim=True),
        ),
        Mistake(
            "the maximum is not put back",
            "lse(z) = m + log of the sum of e^(z - m): the m in front is missing.",
            lambda z: z - _exp(z).sum(-1, keepdim=True).log(),
        ),
        Mistake(
            "the sign is reversed",
            "This is -log p, the surprisal. Log-probabilities are at most 0.",
            lambda z: -torch.log_softmax(z, -1),
        ),
        Mistake(
            "bits in place of nats",
            "This is the logarithm to base 2. The book and torch use the natural one.",
            lambda z: torch.log_softmax(z, -1) / float(np.log(2)),
        ),
        Mistake(
            "the logarithm to base 10",
            "The book and torch use the natural logarithm, torch.log.",
            lambda z: torch.log_softmax(z, -1) / float(np.log(10)),
        ),
        Mistake(
            "one maximum for the whole batch",
            "A row far below it underflows to log 0. Take each row's own maximum.",
            lambda z: z - z.max() - (z - z.max()).exp().sum(-1, keepdim=True).log(),
        ),
        Mistake(
            "wrong axis: normalised over dim 0, the batch",
            LAST_AXIS,
            lambda z: torch.log_softmax(z, 0),
        ),
        Mistake(
            "wrong axis: dim 1 is the vocabulary only in a (batch, vocab) tensor",
            LAST_AXIS,
            lambda z: torch.log_softmax(z, 1),
        ),
        Mistake(
            "normalised over the whole tensor, not row by row",
            "Each row is a distribution of its own: sum over dim=-1 with keepdim=True.",
            lambda z: z - z.flatten().logsumexp(0),
        ),
    ),
)


def log_softmax(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_log_softmax(logits)``, equation (1.9).

    Args:
        function: takes float logits ``(..., vocab)`` and returns log-probabilities in
            nats of the same shape, as a tensor, an array or nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _LOG_SOFTMAX.check(function)


def _terms(z: Tensor) -> Tensor:
    """The terms p log p, that of a removed token being 0."""
    log_p = torch.log_softmax(z, -1)
    return torch.where(log_p == -INF, 0.0, log_p.exp() * log_p)


def _naive_terms(z: Tensor) -> Tensor:
    p = z.exp() / z.exp().sum(-1, keepdim=True)
    return torch.where(p > 0, p * p.log(), p * 0)


_ENTROPY = Exercise(
    "entropy",
    ("logits",),
    distribution.entropy,
    logits_alone,
    (
        NARROWED,
        Mistake(
            "0 log 0 comes out as NaN",
            "A removed token has p = 0 and log p = -inf, and 0 × -inf is NaN. Its term "
            "is 0, the limit of x log x: put it there with torch.where or nansum.",
            lambda z: -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum(-1),
        ),
        Mistake(
            "0 log 0 comes out as NaN",
            "A p that is 0, because the token was removed or because it underflowed, "
            "has the log -inf, and 0 × -inf is NaN. Its term is 0, the limit of "
            "x log x: put it there with torch.where or nansum.",
            lambda z: -(torch.softmax(z, -1) * torch.softmax(z, -1).log()).sum(-1),
        ),
        Mistake(
            "no maximum subtracted, and 0 log 0 comes out as NaN",
            f"{_OVERFLOW} And where p = 0 the term is 0, the limit of x log x.",
            lambda z: (
                -((p := z.exp() / z.exp().sum(-1, keepdim=True)) * p.log()).sum(-1)
            ),
        ),
        Mistake(
            "no maximum subtracted, so that e^z overflows",
            f"Above z = 88.7, e^z is no float32 number any more. {_OVERFLOW}",
            lambda z: -_naive_terms(z).sum(-1),
        ),
        Mistake(
            "bits in place of nats",
            "This is the entropy with the logarithm to base 2. In nats it is smaller "
            "by the factor log 2 = 0.693.",
            lambda z: -_terms(z).sum(-1) / float(np.log(2)),
        ),
        Mistake(
            "the minus sign is missing",
            "log p is at most 0, so the sum of p log p is; entropy is its negative.",
            lambda z: _terms(z).sum(-1),
        ),
        Mistake(
            "divided by the number of tokens",
            "The weights p already make it an average. Sum; do not take the mean.",
            lambda z: -_terms(z).mean(-1),
        ),
        Mistake(
            "divided by log V",
            "That is the entropy as a share of the most possible. Leave it in nats.",
            lambda z: -_terms(z).sum(-1) / float(np.log(z.shape[-1]) or float("nan")),
        ),
        Mistake(
            "the exponential of the entropy",
            "e^H is the perplexity, the effective number of choices. H is its "
            "logarithm.",
            lambda z: (-_terms(z).sum(-1)).exp(),
        ),
        Mistake(
            "logits taken for probabilities",
            "The argument holds logits: softmax comes first.",
            lambda z: -(z * z.log()).sum(-1),
        ),
        Mistake(
            "softmax applied twice",
            "The distribution is flattened before its entropy is taken.",
            lambda z: -_terms(torch.softmax(z, -1)).sum(-1),
        ),
        Mistake(
            "the weights p are missing",
            "This sums -log p over the vocabulary, each token alike. Entropy weighs "
            "each surprisal with the token's probability.",
            lambda z: -torch.log_softmax(z, -1).sum(-1),
        ),
        Mistake(
            "the surprisal of the best token only",
            "-log of the largest p is the min-entropy; entropy averages over all.",
            lambda z: -torch.log_softmax(z, -1).amax(-1),
        ),
        Mistake(
            "one number for the whole batch",
            "Each row has an entropy of its own: sum over dim=-1 only.",
            lambda z: -_terms(z).sum(),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one number a row: sum without keepdim.",
            lambda z: -_terms(z).sum(-1, keepdim=True),
        ),
        Mistake(
            "the terms are not summed",
            "These are the terms -p log p; entropy is their sum over dim=-1.",
            lambda z: -_terms(z),
        ),
        Mistake(
            "wrong axis: dim 0 is the batch",
            LAST_AXIS,
            lambda z: (
                -(torch.softmax(z, 0) * torch.log_softmax(z, 0).clamp_min(-1e9)).sum(0)
            ),
        ),
        Mistake(
            "wrong axis: summed over dim 0, the batch",
            LAST_AXIS,
            lambda z: -_terms(z).sum(0),
        ),
    ),
)


def entropy(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_entropy(logits)``, equation (1.13).

    Args:
        function: takes float logits ``(..., vocab)`` and returns the entropy of their
            softmax in nats, shape ``(...)``, as a tensor, an array or a number.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _ENTROPY.check(function)
