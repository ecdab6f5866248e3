"""Checkers of chapter 3: truncation to the k best tokens, renormalising it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib import truncation
from lib.check._engine import (
    INF,
    LAST_AXIS,
    NARROWED,
    Exercise,
    Failure,
    Mistake,
    Result,
    logits,
)


def _logits_and_k() -> list[tuple[Any, ...]]:
    """The shared logits, each with k at both ends of the vocabulary and between."""
    found: list[tuple[Any, ...]] = []
    for z in logits():
        vocab = z.shape[-1]
        ks = {1, 2, vocab // 2 + 1, vocab - 1, vocab, vocab + 2} - {0}
        found += [(z, k) for k in sorted(ks)]
    return found


def _kth(z: Tensor, k: int) -> Tensor:
    """The k-th largest logit of each row, the least one where there are fewer."""
    return z.topk(min(k, z.shape[-1]), dim=-1).values[..., -1:]


def _over_all(z: Tensor, k: int) -> Tensor:
    """One threshold for all rows."""
    return z.masked_fill(z < z.flatten().topk(min(k, z.numel())).values[-1], -INF)


def _by_classes(z: Tensor, k: int) -> Tensor:
    """The k best different logits, however many tokens have them."""
    rows = []
    for row in z.reshape(-1, z.shape[-1]):
        values = row.unique(sorted=True)
        rows.append(row.masked_fill(row < values[-min(k, len(values))], -INF))
    return torch.stack(rows).view(z.shape)


def _first_ids(z: Tensor, k: int) -> Tensor:
    """The tokens 0 to k - 1, as if ids were ranks."""
    return z.masked_fill(torch.arange(z.shape[-1]) >= k, -INF)


def _ranked(z: Tensor, k: int) -> Tensor:
    """Sorted, cut, and left in the order of ranks."""
    return _first_ids(z.sort(dim=-1, descending=True).values, k)


def _cuts_a_tie(failure: Failure, removed: float = -INF) -> bool:
    """Right, but only so many of a tied class stay as make exactly k tokens."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    kept, meant = answer > removed, right > removed
    count = meant.sum(-1).clamp_max(failure.arguments[1])
    some = bool((kept <= meant).all()) and not torch.equal(kept, meant)
    return some and bool((kept.sum(-1) == count).all())


def _cuts_a_tied_logit(failure: Failure) -> bool:
    if not _cuts_a_tie(failure) or failure.answer is None:
        return False
    kept = failure.answer > -INF
    return bool((failure.answer == failure.expected)[kept].all())


def _cuts_a_tied_probability(failure: Failure) -> bool:
    if not _cuts_a_tie(failure, removed=0.0) or failure.answer is None:
        return False
    p = failure.expected.where(failure.answer > 0, 0.0)
    q = p / p.sum(-1, keepdim=True)
    return torch.allclose(failure.answer.to(q), q, rtol=1e-2)


def _crashes_beyond_the_vocabulary(failure: Failure) -> bool:
    """An error where k > V, from an index or a shape that is not there."""
    z, k = failure.arguments
    signs = ("out of range", "out of bounds", "must match", "IndexError")
    return (
        failure.kind == "raised"
        and bool(k > z.shape[-1])
        and any(sign in failure.note for sign in signs)
    )


def _finite_where_removed(failure: Failure) -> bool:
    """A removed token has a huge negative number in place of -inf."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    gone = (right == -INF) & (failure.arguments[0] > -INF)
    there = answer[gone]
    return bool(gone.any()) and bool((there.isfinite() & (there < -2000)).all())


_BEYOND = Mistake(
    "k larger than the vocabulary crashes",
    "“The 50 best of 9” means all 9: use min(k, logits.shape[-1]).",
    sign=_crashes_beyond_the_vocabulary,
)
_TIES = (
    "Of tokens with equal logits none is better: keep all that are not below the k-th "
    "largest logit, equation (3.1)."
)
_SORTED = (
    "After a sort, place r holds the token of rank r, not token r. Use the k-th "
    "largest value as a threshold on the unsorted logits."
)
_ROWS = (
    "Each row has a k-th largest logit of its own: topk(k, dim=-1), and keep the "
    "axis, [..., -1:]."
)
_TOP_K = Exercise(
    "top_k",
    ("logits", "top_k"),
    truncation.apply_top_k,
    _logits_and_k,
    (
        NARROWED,
        _BEYOND,
        Mistake(
            "exactly k tokens: a tie is cut by position",
            _TIES,
            sign=_cuts_a_tied_logit,
        ),
        Mistake(
            "ties counted once: the k best values, not the k best tokens",
            "Two tokens with the same logit take two of the k places.",
            _by_classes,
        ),
        Mistake(
            "the threshold itself is removed: <= where < is meant",
            "The k-th best token is one of the k best. Remove what is strictly below.",
            lambda z, k: z.masked_fill(z <= _kth(z, k), -INF),
        ),
        Mistake(
            "one token too many: places count from 0",
            "In a list sorted in descending order the k-th largest stands at index "
            "k - 1.",
            lambda z, k: z.masked_fill(z < _kth(z, k + 1), -INF),
        ),
        Mistake(
            "one token too few",
            "The k-th largest stands at index k - 1 of a descending list, which is -1 "
            "in the result of topk(k).",
            lambda z, k: z.masked_fill(z < _kth(z, max(k - 1, 1)), -INF),
        ),
        Mistake(
            "k is limited to V - 1, so that the last token can never stay",
            "min(k, V) with V = logits.shape[-1], not V - 1.",
            lambda z, k: z.masked_fill(z < _kth(z, min(k, z.shape[-1] - 1)), -INF),
        ),
        Mistake(
            "a large negative number in place of -inf",
            "It is a logit like any other: where all the rest has been removed too, it "
            "comes back to life. A removed token is -inf.",
            sign=_finite_where_removed,
        ),
        Mistake(
            "removed tokens have the logit 0",
            "A logit of 0 is nothing special: the token keeps the weight e^0 = 1, and "
            "beats every negative logit. Removed is -inf.",
            lambda z, k: torch.where(z < _kth(z, k), 0.0, z),
        ),
        Mistake(
            "removed tokens have the logit 0",
            "Multiplying by a mask of 0 and 1 gives the logit 0, and NaN where it was "
            "-inf. Removed is -inf: masked_fill or torch.where.",
            lambda z, k: z * (z >= _kth(z, k)),
        ),
        Mistake(
            "the best are removed and the rest kept",
            "The mask is the wrong way round.",
            lambda z, k: z.masked_fill(z >= _kth(z, k), -INF),
        ),
        Mistake(
            "the k lowest are kept",
            "topk has largest=True; sort needs descending=True.",
            lambda z, k: z.masked_fill(
                z > z.sort(-1).values[..., min(k, z.shape[-1]) - 1, None], -INF
            ),
        ),
        Mistake(
            "one threshold for the whole batch",
            _ROWS,
            _over_all,
        ),
        Mistake(
            "wrong axis: the k best along dim 0, the batch",
            LAST_AXIS,
            lambda z, k: z.masked_fill(
                z < z.topk(min(k, z.shape[0]), dim=0).values[-1:], -INF
            ),
        ),
        Mistake(
            "rank in place of token id: the first k ids are kept",
            _SORTED,
            _first_ids,
        ),
        Mistake(
            "rank in place of token id: the result is sorted",
            _SORTED,
            _ranked,
        ),
        Mistake(
            "only the k values are returned",
            "The vocabulary keeps its length: a token that is removed keeps its place "
            "and gets -inf.",
            lambda z, k: z.topk(min(k, z.shape[-1]), dim=-1).values,
        ),
        Mistake(
            "probabilities returned",
            "A stage takes logits and returns logits, so that another can follow. One "
            "softmax at the end renormalises.",
            lambda z, k: torch.softmax(z.masked_fill(z < _kth(z, k), -INF), -1),
        ),
        Mistake(
            "log-probabilities returned",
            "The same distribution, but not the same logits: what stays keeps its "
            "logit, equation (3.3).",
            lambda z, k: torch.log_softmax(z.masked_fill(z < _kth(z, k), -INF), -1),
        ),
    ),
)


def top_k(function: Callable[[Tensor, int], Any]) -> Result:
    """Check a function ``my_top_k(logits, top_k)``, equations (3.1) and (3.3).

    Args:
        function: takes float logits ``(..., vocab)`` and k >= 1, and returns logits of
            the same shape with -inf at what is removed, as a tensor, an array or
            nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _TOP_K.check(function)


def _probs(z: Tensor, k: int) -> Tensor:
    """The right answer: conditioned on the k best."""
    return torch.softmax(z.masked_fill(z < _kth(z, k), -INF), dim=-1)


def _zeroed(z: Tensor, k: int) -> Tensor:
    """Probabilities with those of the removed tokens set to 0."""
    p = torch.softmax(z, dim=-1)
    return p.masked_fill(z < _kth(z, k), 0.0)


def _shared(z: Tensor, k: int) -> Tensor:
    """The removed mass dealt out in equal parts."""
    p, kept = _zeroed(z, k), z >= _kth(z, k)
    share = (1 - p.sum(-1, keepdim=True)) / kept.sum(-1, keepdim=True)
    return p + share * kept


def _to_the_best(z: Tensor, k: int) -> Tensor:
    """The removed mass given to the best token."""
    p = _zeroed(z, k)
    best = torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1])
    return p + best * (1 - p.sum(-1, keepdim=True))


_TOP_K_PROBS = Exercise(
    "top_k_probs",
    ("logits", "top_k"),
    lambda z, k: torch.softmax(truncation.apply_top_k(z, k), dim=-1),
    _logits_and_k,
    (
        NARROWED,
        _BEYOND,
        Mistake(
            "softmax of zeroed probabilities",
            "Softmax exponentiates, and e^0 = 1 is not nothing: what was removed comes "
            "back, and the odds are others. Divide by the sum, or set logits to -inf "
            "before the only softmax.",
            lambda z, k: torch.softmax(_zeroed(z, k), -1),
        ),
        Mistake(
            "softmax of probabilities",
            "The removed tokens stay out, but the others are exponentiated twice and "
            "their odds are lost. Set logits to -inf, not probabilities.",
            lambda z, k: torch.softmax(
                torch.softmax(z, -1).masked_fill(z < _kth(z, k), -INF), -1
            ),
        ),
        Mistake(
            "removed logits are 0, not -inf",
            "A logit of 0 has the weight e^0 = 1. Removed is -inf.",
            lambda z, k: torch.softmax(torch.where(z < _kth(z, k), 0.0, z), -1),
        ),
        Mistake(
            "removed logits are 0, not -inf",
            "Multiplying by a mask of 0 and 1 gives the logit 0, and NaN where it was "
            "-inf. Removed is -inf: masked_fill or torch.where.",
            lambda z, k: torch.softmax(z * (z >= _kth(z, k)), -1),
        ),
        Mistake(
            "not renormalised",
            "What is left sums to the mass m of the kept tokens. Divide by it, "
            "equation (3.4).",
            _zeroed,
        ),
        Mistake(
            "the removed mass is shared out equally",
            "That changes the odds among the kept tokens. Conditioning multiplies "
            "them all by the same 1/m.",
            _shared,
        ),
        Mistake(
            "the removed mass goes to the best token",
            "That changes the odds among the kept tokens. Conditioning multiplies "
            "them all by the same 1/m.",
            _to_the_best,
        ),
        Mistake(
            "all kept tokens are made equally probable",
            "Their odds must stay as they were: divide p by the kept mass.",
            lambda z, k: (
                (kept := z >= _kth(z, k)) / kept.sum(-1, keepdim=True).to(z.dtype)
            ),
        ),
        Mistake(
            "exactly k tokens: a tie is cut by position",
            _TIES,
            sign=_cuts_a_tied_probability,
        ),
        Mistake(
            "ties counted once: the k best values, not the k best tokens",
            "Two tokens with the same logit take two of the k places.",
            lambda z, k: torch.softmax(_by_classes(z, k), -1),
        ),
        Mistake(
            "the threshold itself is removed: <= where < is meant",
            "The k-th best token is one of the k best. Remove what is strictly below.",
            lambda z, k: torch.softmax(z.masked_fill(z <= _kth(z, k), -INF), -1),
        ),
        Mistake(
            "one token too many: places count from 0",
            "In a list sorted in descending order the k-th largest stands at index "
            "k - 1.",
            lambda z, k: _probs(z, k + 1),
        ),
        Mistake(
            "one threshold or one sum for the whole batch",
            f"{_ROWS} And divide each row by its own sum.",
            lambda z, k: torch.softmax(_over_all(z, k), -1),
        ),
        Mistake(
            "one threshold or one sum for the whole batch",
            f"{_ROWS} And divide each row by its own sum.",
            lambda z, k: (p := _zeroed(z, k)) / p.sum(),
        ),
        Mistake(
            "wrong axis: dim 0 is the batch",
            LAST_AXIS,
            lambda z, k: (p := _zeroed(z, k)) / p.sum(0),
        ),
        Mistake(
            "nothing is removed",
            "This is the softmax of all logits. Truncate first.",
            lambda z, k: torch.softmax(z, -1),
        ),
        Mistake(
            "logits returned",
            "The exercise asks for probabilities: a softmax is missing at the end.",
            lambda z, k: z.masked_fill(z < _kth(z, k), -INF),
        ),
        Mistake(
            "log-probabilities returned",
            "These are the logarithms of the answer.",
            lambda z, k: _probs(z, k).log(),
        ),
        Mistake(
            "rank in place of token id: the result is sorted",
            _SORTED,
            lambda z, k: _probs(z, k).sort(-1, descending=True).values,
        ),
        Mistake(
            "only k numbers are returned",
            "The vocabulary keeps its length: a removed token has the probability 0.",
            lambda z, k: torch.softmax(z.topk(min(k, z.shape[-1])).values, -1),
        ),
    ),
)


def top_k_probs(function: Callable[[Tensor, int], Any]) -> Result:
    """Check a function ``my_top_k_probs(logits, top_k)``, equation (3.4).

    Args:
        function: takes float logits ``(..., vocab)`` and k >= 1, and returns the
            probabilities after top-k, as a tensor, an array or nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _TOP_K_PROBS.check(function)
