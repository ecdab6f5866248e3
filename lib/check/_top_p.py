"""Checkers of chapter 4: top-p, and the size of the nucleus."""

from __future__ import annotations

import math
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

Rule = Callable[[Tensor, float], Tensor]  # (logits, top_p) -> True where a token stays

_CLOSE = 1e-3  # random inputs keep this far from a boundary: float32 sums will do

# Weights, and the mass to ask for. In the first three the mass reaches top_p exactly,
# in every dtype: the logits 0, log 2 and 2 log 2 have exact exponentials.
_BY_HAND: tuple[tuple[list[float], float], ...] = (
    ([4, 2, 1, 1], 0.5),
    ([4, 2, 1, 1], 0.75),
    ([1, 4, 1, 2], 0.75),
    ([5, 3, 2], 0.6),  # .5 is short, .8 is enough
    ([2, 5, 3], 0.6),  # the same, ids not in order of rank
    ([90, 5, 5], 0.5),  # the first exceeds top_p
    ([30, 30, 25, 15], 0.5),  # two share the crossing
    ([10, 40, 25, 25], 0.5),  # two share the crossing, at the end of the ids
    ([6, 1, 1, 1, 1], 0.7),  # four share it
    ([1, 1, 1], 0.5),  # nothing but ties
    ([1, 1, 1, 1], 0.3),
    ([1, 90, 9], 0.1),
    ([1, 90, 9], 0.95),
)
_EDGES: tuple[tuple[list[Any], float, torch.dtype], ...] = (
    ([0.0], 0.9, torch.float32),  # a single token
    ([0.0, -200.0], 1.0, torch.float32),  # in float32 the mass is 1 too early
    ([0.0, -20.0, -30.0], 1.0, torch.float32),
    ([[3.0, -20.0], [-30.0, 2.0]], 1.0, torch.float32),
    ([2.0, 1.0, 0.0], 1.0, torch.float32),
    ([1000.0, 0.0], 0.9, torch.float32),
    ([-1000.0, -1000.0], 0.6, torch.float32),
    ([0.0, -INF], 0.9, torch.float32),
    ([0.0, -INF], 1.0, torch.float32),
    ([-INF, 3.0, -INF, 3.0], 0.5, torch.float32),
    ([-INF, 3.0, 2.0, -INF, 1.0], 0.8, torch.float32),
    ([[9.0, 0.0, 1.0], [0.0, 0.2, 0.1]], 0.9, torch.float32),  # narrow and wide rows
    ([[0.0, 0.2, 0.1], [9.0, 0.0, 1.0]], 0.9, torch.float32),
    ([[[0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]]], 0.8, torch.float32),
    ([0.1, 0.2, 0.3], 0.5, torch.float64),
    ([12.0, 0.0], 0.9, torch.float16),
)


def _inputs() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [
        (torch.tensor(weights, dtype=dtype).log(), rho)
        for weights, rho in _BY_HAND
        for dtype in (torch.float32, torch.float64)
    ]
    found += [(torch.tensor(z, dtype=dtype), rho) for z, rho, dtype in _EDGES]
    for number, z in enumerate(logits()[-40:]):
        rho = (0.9, 0.5, 0.7, 0.95, 0.3, 0.8)[number % 6]
        mass = torch.softmax(z.double(), -1).sort(-1, descending=True).values.cumsum(-1)
        if float((mass - rho).abs().min()) > _CLOSE:
            found.append((z, rho))
    return found


# ── Rules that are nearly right ─────────────────────────────────────────────────────


def _ranked(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities by rank, their running sum, and the token ids by rank."""
    ranked, ids = z.sort(dim=-1, descending=True)
    p = torch.softmax(ranked, -1)
    return p, p.cumsum(-1), ids


def _by_rank(stays: Callable[[Tensor, Tensor, float], Tensor]) -> Rule:
    """Decide rank by rank, given probability and running sum; ties are torn apart."""

    def rule(z: Tensor, rho: float) -> Tensor:
        p, mass, ids = _ranked(z)
        kept = stays(p, mass, rho)
        return kept.scatter(-1, ids, kept) & (z > -INF)

    return rule


def _by_class(stays: Callable[[Tensor, float], Tensor]) -> Rule:
    """Decide where the running sum ends the nucleus; tied tokens stay together."""

    def rule(z: Tensor, rho: float) -> Tensor:
        ranked = z.sort(dim=-1, descending=True).values
        mass = torch.softmax(ranked, -1).cumsum(-1)
        last = stays(mass, rho).sum(-1, keepdim=True).clamp(0, z.shape[-1] - 1)
        return (z >= ranked.gather(-1, last)) & (z > -INF)

    return rule


def _off_at_one(rule: Rule) -> Rule:
    return lambda z, rho: rule(z, rho) if rho < 1 else z > -INF


def _above(p: Tensor, mass: Tensor, rho: float) -> Tensor:
    return mass - p < rho


def _shifted(p: Tensor, mass: Tensor, rho: float, places: int = 1) -> Tensor:
    """The textbook's mask ``mass <= rho``, moved down by some places."""
    kept = mass <= rho
    first = torch.ones_like(kept[..., :places])
    return torch.cat([first, kept[..., :-places]], -1)[..., : kept.shape[-1]]


def _at_least_one(p: Tensor, mass: Tensor, rho: float) -> Tensor:
    kept = mass <= rho
    return torch.cat([torch.ones_like(kept[..., :1]), kept[..., 1:]], -1)


def _right(z: Tensor, rho: float) -> Tensor:
    return truncation.apply_top_p(z, rho) > -INF


def _probability(z: Tensor) -> Tensor:
    return torch.softmax(z, -1)


def _rank_as_id(z: Tensor, rho: float) -> Tensor:
    p, mass, _ = _ranked(z)
    return (mass - p < rho) & (z > -INF)


def _unsorted(z: Tensor, rho: float) -> Tensor:
    p = _probability(z)
    return p.cumsum(-1) - p < rho


def _least_probable(z: Tensor, rho: float) -> Tensor:
    ranked, ids = z.sort(dim=-1)
    p = torch.softmax(ranked, -1)
    kept = p.cumsum(-1) - p < rho
    return kept.scatter(-1, ids, kept) & (z > -INF)


def _from_below(z: Tensor, rho: float) -> Tensor:
    """Remove from the bottom what is not needed, as transformers does."""
    ranked, ids = z.sort(dim=-1)
    gone = torch.softmax(ranked, -1).cumsum(-1) <= 1 - rho
    gone[..., -1] = False
    return ~gone.scatter(-1, ids, gone) & (z > -INF)


def _over_batch(z: Tensor, rho: float) -> Tensor:
    ranked, ids = z.sort(dim=0, descending=True)
    p = torch.softmax(ranked, 0)
    kept = p.cumsum(0) - p < rho
    return kept.scatter(0, ids, kept)


def _whole_tensor(z: Tensor, rho: float) -> Tensor:
    return _right(z.flatten(), rho).view_as(z)


def _first_row(z: Tensor, rho: float) -> Tensor:
    """As many tokens in every row as the first row's nucleus has."""
    size = _right(z, rho).sum(-1).flatten()[0]
    return z.argsort(-1, descending=True).argsort(-1) < size


def _share_of_tokens(z: Tensor, rho: float) -> Tensor:
    size = math.ceil(rho * z.shape[-1])
    return z.argsort(-1, descending=True).argsort(-1) < size


def _sums_of_logits(z: Tensor, rho: float) -> Tensor:
    ranked, ids = z.sort(dim=-1, descending=True)
    kept = ranked.cumsum(-1) - ranked < rho
    return kept.scatter(-1, ids, kept)


_AT_ONE = (
    "The sum reaches 1 before the last token, since rounding hides small "
    "probabilities, and what comes after is removed. A top_p of 1 removes nothing: "
    "give it a line of its own."
)
_TORN = (
    "Where the crossing token has equals, some stay and some go by their place in the "
    "sort. Find the logit of the crossing token and keep all that are at least as "
    "high. (transformers cuts by place; see Pitfalls.)"
)
_RULES: tuple[tuple[str, str, Rule], ...] = (
    (
        "top_p = 1.0 is not left alone",
        _AT_ONE,
        _by_class(lambda mass, rho: mass < rho),
    ),
    *(
        ("tokens with equal logits are torn apart", _TORN, _off_at_one(torn))
        for torn in (_by_rank(_above), _from_below)
    ),
    *(
        (
            "top_p = 1.0 is not left alone, and tokens with equal logits are torn "
            "apart",
            f"{_AT_ONE} {_TORN}",
            torn,
        )
        for torn in (_by_rank(_above), _from_below)
    ),
    (
        "the <= rule, one token too many at an exact tie",
        "Where the mass reaches top_p exactly, the nucleus is complete. Keep a token "
        "if the mass above it is < top_p, equation (4.5), not <=.",
        _off_at_one(_by_class(lambda mass, rho: mass <= rho)),
    ),
    (
        "the <= rule, one token too many at an exact tie",
        "Where the mass reaches top_p exactly, the nucleus is complete. Keep a token "
        "if the mass above it is < top_p, equation (4.5), not <=.",
        _by_rank(_shifted),
    ),
    (
        "the crossing token is dropped",
        "This keeps tokens while the sum, the token included, is at most top_p. What "
        "is left holds less than top_p, and may be nothing. Look at the mass above a "
        "token, equation (4.5).",
        _by_rank(lambda p, mass, rho: mass <= rho),
    ),
    (
        "the crossing token is dropped, save the first",
        "The best token always stays, but otherwise the sum with the token is "
        "compared. What is left holds less than top_p: compare the mass above it.",
        _by_rank(_at_least_one),
    ),
    (
        "one token more than the nucleus",
        "The token after the crossing one stays too. The mask moves by one place, "
        "not by two.",
        _by_rank(lambda p, mass, rho: _shifted(p, mass, rho, places=2)),
    ),
    (
        "rank used as token id",
        "The mask is in sorted order and the logits are not. Bring it back with "
        "mask.scatter(-1, order, mask), or compare logits with a threshold.",
        _rank_as_id,
    ),
    (
        "summed without sorting",
        "The running sum goes through the tokens in the order of their ids. Sort by "
        "probability first.",
        _unsorted,
    ),
    (
        "sorted the wrong way round",
        "This takes the least probable tokens first: descending=True.",
        _least_probable,
    ),
    (
        "the nucleus is removed, the tail kept",
        "The mask is the wrong way round.",
        lambda z, rho: ~_right(z, rho) & (z > -INF),
    ),
    (
        "1 - top_p in place of top_p",
        "top_p is the mass that stays, not the mass that goes.",
        lambda z, rho: _right(z, 1 - rho) if rho < 1 else z == z.amax(-1, keepdim=True),
    ),
    (
        "each probability is compared with top_p",
        "It is the mass above a token that counts, not its own probability: sort and "
        "sum.",
        lambda z, rho: _probability(z) >= rho,
    ),
    (
        "each probability is compared with 1 - top_p",
        "It is the mass above a token that counts, not its own probability: sort and "
        "sum.",
        lambda z, rho: _probability(z) >= 1 - rho,
    ),
    (
        "min-p in place of top-p",
        "This compares each probability with a share of the largest one. That is "
        "another rule, and a good one; top-p compares the mass above a token.",
        lambda z, rho: (p := _probability(z)) >= (rho * p.amax(-1, keepdim=True)).to(p),
    ),
    (
        "a share of the tokens, not of the mass",
        "This keeps top_p times V tokens whatever their probabilities.",
        _share_of_tokens,
    ),
    (
        "logits summed in place of probabilities",
        "Softmax first: logits can be negative, and their sum means nothing.",
        _sums_of_logits,
    ),
    (
        "softmax applied twice",
        "The distribution is flattened before it is summed, so that too much stays.",
        lambda z, rho: _right(_probability(z), rho) & (z > -INF),
    ),
    (
        "one nucleus for the whole tensor",
        "Each row has its own: sort and sum over dim=-1.",
        _whole_tensor,
    ),
    (
        "the first row's size for every row",
        "Each row has a nucleus of its own size, which is the point of top-p: keep "
        "the size as a tensor, with keepdim=True.",
        _first_row,
    ),
    ("wrong axis: sorted and summed over dim 0, the batch", LAST_AXIS, _over_batch),
)


def _truncated(rule: Rule) -> Callable[[Tensor, float], Tensor]:
    return lambda z, rho: z.masked_fill(~rule(z, rho), -INF)


def _counted(rule: Rule) -> Callable[[Tensor, float], Tensor]:
    return lambda z, rho: rule(z, rho).sum(-1)


def _is_a_low_number(failure: Failure) -> bool:
    """Removed tokens have got a large negative number, not -inf."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    gone = right == -INF
    return (
        bool(gone.any())
        and bool((answer[gone].isfinite()).all())
        and bool((answer[gone] < -1e3).all())
    )


def _sorted(z: Tensor, rho: float) -> Tensor:
    return truncation.apply_top_p(z, rho).sort(-1, descending=True).values


_TOP_P = Exercise(
    "top_p",
    ("logits", "top_p"),
    truncation.apply_top_p,
    _inputs,
    (
        NARROWED,
        Mistake(
            "removed tokens get a low number, not -inf",
            "A softmax over many of them adds up, and the next rule cannot see that "
            "they are gone. Use -torch.inf.",
            sign=_is_a_low_number,
        ),
        Mistake(
            "removed tokens get the logit 0",
            "e^0 = 1 is not nothing: a logit of 0 may even be the highest. Removed "
            "is -inf.",
            lambda z, rho: z.masked_fill(~_right(z, rho), 0.0),
        ),
        Mistake(
            "probabilities returned, not logits",
            "The answer is the logits, those removed at -inf. One softmax at the very "
            "end renormalises.",
            lambda z, rho: _probability(truncation.apply_top_p(z, rho)),
        ),
        Mistake(
            "probabilities returned, not logits, and not renormalised",
            "The answer is the logits, those removed at -inf. One softmax at the very "
            "end renormalises.",
            lambda z, rho: _probability(z).masked_fill(~_right(z, rho), 0.0),
        ),
        Mistake(
            "log-probabilities returned, not logits",
            "The distribution is right, but a token that stays should keep its logit.",
            lambda z, rho: torch.log_softmax(truncation.apply_top_p(z, rho), -1),
        ),
        Mistake(
            "log-probabilities returned, not logits",
            "They are those before truncation; and a token that is kept should keep "
            "its logit.",
            lambda z, rho: torch.log_softmax(z, -1).masked_fill(~_right(z, rho), -INF),
        ),
        Mistake(
            "the logits come back sorted",
            "Place v should still belong to token v: use the sorted copy to find the "
            "threshold, and compare the logits as they came.",
            _sorted,
        ),
        *(Mistake(name, advice, _truncated(rule)) for name, advice, rule in _RULES),
    ),
)


def top_p(function: Callable[[Tensor, float], Any]) -> Result:
    """Check a function ``my_top_p(logits, top_p)``, equation (4.5).

    Args:
        function: takes float logits ``(..., vocab)`` and a mass in (0, 1], and returns
            the logits with what is outside the nucleus at -inf.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _TOP_P.check(function)


def _mass_kept(z: Tensor, rho: float) -> Tensor:
    return (_probability(z) * _right(z, rho)).sum(-1)


def _effective(z: Tensor, rho: float) -> Tensor:
    nats: Tensor = torch.special.entr(_probability(z)).sum(-1)
    return nats.exp()


_NUCLEUS_SIZE = Exercise(
    "nucleus_size",
    ("logits", "top_p"),
    _counted(_right),
    _inputs,
    (
        Mistake(
            "the crossing token is not counted",
            "The number of partial sums below top_p is the rank at which it is "
            "reached, counted from 0: the size is one more.",
            lambda z, rho: (_ranked(z)[1] < rho).sum(-1),
        ),
        Mistake(
            "removed tokens are counted",
            "Where top_p is 1, tokens at -inf have crept in. They are in no nucleus, "
            "having no probability.",
            lambda z, rho: (_right(z, rho) | (rho == 1)).sum(-1),
        ),
        Mistake(
            "the tokens outside are counted",
            "This is the number of tokens removed.",
            lambda z, rho: (~_right(z, rho)).sum(-1),
        ),
        Mistake(
            "the mass of the nucleus, not its size",
            "How many tokens, not how much probability.",
            _mass_kept,
        ),
        Mistake(
            "the exponential of the entropy",
            "e^H is an effective number of choices, and it does not know top_p. Count.",
            _effective,
        ),
        Mistake(
            "one number for the whole batch",
            "Each row has a size of its own: sum over dim=-1 only.",
            lambda z, rho: _right(z, rho).sum(),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one number a row: sum without keepdim.",
            lambda z, rho: _right(z, rho).sum(-1, keepdim=True),
        ),
        *(
            Mistake(name, advice, _counted(rule))
            for name, advice, rule in _RULES
            if rule not in (_rank_as_id, _whole_tensor, _first_row)
        ),
    ),
)


def nucleus_size(function: Callable[[Tensor, float], Any]) -> Result:
    """Check a function ``my_nucleus_size(logits, top_p)``, equation (4.5).

    Args:
        function: takes float logits ``(..., vocab)`` and a mass in (0, 1], and returns
            the number of tokens in the nucleus, shape ``(...)``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _NUCLEUS_SIZE.check(function)
