"""Checkers of chapter 5: the n-gram ban, distinct n-grams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lib import metrics, repetition
from lib.check._engine import INF, NARROWED, Exercise, Failure, Mistake, Result

Grams = list[tuple[int, ...]]

# Histories of one length each, and the order n.
_HISTORIES: tuple[tuple[list[list[int]], int], ...] = (
    ([[0]], 1),  # n = 1: no token twice
    ([[0, 1, 0]], 2),
    ([[0, 0, 0]], 2),  # the n-gram that has just been completed counts
    ([[0, 0, 0]], 3),
    ([[0, 1, 0, 2, 0]], 2),  # two followers of one suffix
    ([[0, 1, 2, 0, 1, 3, 0, 1]], 3),
    ([[2, 2, 0, 1]], 2),  # a repeated token, and nothing to ban
    ([[0, 1, 2, 3, 0, 1, 2, 3]], 3),  # a cycle
    ([[1, 0, 2, 0, 1]], 3),  # the suffix has occurred, but backwards
    ([[0, 1]], 2),
    ([[0, 1]], 3),  # no trigram yet
    ([[1]], 4),
    ([[]], 1),
    ([[]], 2),
    ([[0, 1, 0]], 0),  # off
    ([[0, 1, 0], [2, 3, 3]], 2),  # each row has a history of its own
    ([[0, 1, 2], [2, 0, 1], [1, 1, 1]], 1),
)


def _inputs() -> list[tuple[Any, ...]]:
    """Edge cases, then 60 seeded random histories with random logits."""
    luck = torch.Generator().manual_seed(5)

    def with_logits(history: Tensor, n: int, vocab: int) -> tuple[Any, ...]:
        logits = torch.randn(len(history), vocab, generator=luck)
        return history, (logits * 10).round() / 10, n

    found = [
        with_logits(torch.tensor(rows, dtype=torch.long), n, 4)
        for rows, n in _HISTORIES
    ]
    for number in range(60):
        vocab = 2 + number % 5
        shape = (1 + number % 3, 1 + number // 3)
        history = torch.randint(vocab, shape, generator=luck)
        ids, logits, n = with_logits(history, 1 + number % 4, vocab + 3)
        if number % 6 == 0:
            logits[:, 0] = -INF  # a token that an earlier rule has removed
        if number % 10 == 3:
            logits = logits.double()
        found.append((ids, logits, n))
    return found


def _grams(row: list[int], n: int) -> Grams:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def _suffix(row: list[int], n: int) -> tuple[int, ...]:
    return tuple(row[len(row) - n + 1 :]) if len(row) >= n - 1 else (-1,)


def _bans(
    rule: Callable[[list[int], int], Iterable[int]], value: float = -INF
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A ban made of a rule that names the banned tokens of one history."""

    def ban(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
        out = logits.clone()
        for row, history in enumerate(input_ids.tolist()):
            gone = (
                [v for v in rule(history, n) if 0 <= v < logits.shape[-1]] if n else ()
            )
            out[row, list(gone)] = value
        return out

    return ban


def _right(row: list[int], n: int) -> list[int]:
    suffix = _suffix(row, n)
    return [gram[-1] for gram in _grams(row, n) if gram[:-1] == suffix]


def _without_off(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    """Right, but n = 0 is treated as n = 1."""
    return _bans(_right)(input_ids, logits, max(n, 1))


def _of_the_batch(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    """Every row loses what any row loses."""
    gone = (_bans(_right)(input_ids, torch.zeros_like(logits), n) == -INF).any(0)
    return logits.masked_fill(gone, -INF)


def _of_the_first_row(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    return _bans(_right)(input_ids[:1].expand_as(input_ids), logits, n)


def _of_the_next_row(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    return _bans(_right)(input_ids.roll(-1, 0), logits, n)


def _of_the_row_before(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    return _bans(_right)(input_ids.roll(1, 0), logits, n)


def _kept_instead(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    gone = _bans(_right)(input_ids, torch.zeros_like(logits), n) == -INF
    return logits.masked_fill(~gone, -INF)


def _of_the_whole_text(input_ids: Tensor, logits: Tensor, n: int) -> Tensor:
    """Nothing may follow a history that has repeated itself."""
    repeated = [
        n > 0 and len(set(grams := _grams(row, n))) < len(grams)
        for row in input_ids.tolist()
    ]
    out = _bans(_right)(input_ids, logits, n)
    return out.masked_fill(torch.tensor(repeated).unsqueeze(-1), -INF)


def _is_a_low_number(failure: Failure) -> bool:
    """A banned token has got a number, and a very low one."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    banned = answer[right == -INF]
    return bool((banned.isfinite() & (banned < -100)).any())


_SUFFIX = (
    "What matters is whether the last n - 1 tokens have occurred before, and what "
    "followed them: equation (5.3)."
)
_NO_REPEAT_NGRAM = Exercise(
    "no_repeat_ngram",
    ("input_ids", "logits", "no_repeat_ngram_size"),
    repetition.apply_no_repeat_ngram,
    _inputs,
    (
        NARROWED,
        Mistake(
            "for n = 1 the suffix is the whole history",
            "row[-(n - 1):] is row[-0:], and that is everything, not nothing. Count "
            "from the left: row[len(row) - (n - 1):].",
            _bans(lambda row, n: [] if n == 1 else _right(row, n)),
        ),
        Mistake(
            "n = 0 is not treated as off",
            "no_repeat_ngram_size=0 means that nothing is banned.",
            _without_off,
        ),
        Mistake(
            "n equal tokens in a row are looked for",
            f"This is the ban of the note, erratum a1 and a2. {_SUFFIX}",
            _bans(lambda row, n: [g[0] for g in _grams(row, n) if len(set(g)) == 1]),
        ),
        Mistake(
            "the n-gram is one token too long",
            "An n-gram is the last n - 1 tokens and the next one; this compares n "
            "tokens of the past (erratum a4).",
            _bans(lambda row, n: _right(row, n + 1)),
        ),
        Mistake(
            "the n-gram is one token too short",
            "An n-gram is the last n - 1 tokens and the next one; this compares n - 2 "
            "tokens of the past.",
            _bans(lambda row, n: _right(row, max(n - 1, 1))),
        ),
        Mistake(
            "every token of the history is banned",
            f"That is the rule for n = 1. {_SUFFIX}",
            _bans(lambda row, n: row),
        ),
        Mistake(
            "the last token of every n-gram is banned",
            f"It would complete that n-gram only after its first n - 1. {_SUFFIX}",
            _bans(lambda row, n: [g[-1] for g in _grams(row, n)]),
        ),
        Mistake(
            "a repetition that is already written bans every token",
            "Looking for any repeated n-gram in the history and the new token finds "
            "the old ones, too. Only the n-gram that the new token completes counts.",
            _of_the_whole_text,
        ),
        Mistake(
            "the last token's followers are banned, whatever n is",
            f"That is the rule for n = 2. {_SUFFIX}",
            _bans(lambda row, n: _right(row, 2)),
        ),
        Mistake(
            "the first token of the repeated n-gram is banned",
            "The n-gram begins with the suffix, which is already written. Ban its "
            "last token, the one that would complete it.",
            _bans(
                lambda row, n: [
                    g[0] for g in _grams(row, n) if g[:-1] == _suffix(row, n)
                ]
            ),
        ),
        Mistake(
            "every token of the repeated n-gram is banned",
            "Only the token that would complete the n-gram must go: its last one.",
            _bans(
                lambda row, n: [
                    v for g in _grams(row, n) if g[:-1] == _suffix(row, n) for v in g
                ]
            ),
        ),
        Mistake(
            "only the latest follower of the suffix is banned",
            "A dictionary that holds one token a suffix overwrites the earlier ones. "
            "Keep a set of followers.",
            _bans(lambda row, n: _right(row, n)[-1:]),
        ),
        Mistake(
            "only the first follower of the suffix is banned",
            "Go on after the first match: the suffix may have been followed by "
            "several tokens.",
            _bans(lambda row, n: _right(row, n)[:1]),
        ),
        Mistake(
            "the latest n-gram of the history is left out",
            "The loop ends one window too early. A history of t tokens has t - n + 1 "
            "n-grams, and the last one counts: after 0 0, with n = 2, 0 is banned.",
            _bans(lambda row, n: _right_among(row, n, _grams(row, n)[:-1])),
        ),
        Mistake(
            "the first n-gram of the history is left out",
            "The loop begins one window too late.",
            _bans(lambda row, n: _right_among(row, n, _grams(row, n)[1:])),
        ),
        Mistake(
            "only every n-th window is looked at",
            "n-grams overlap: a new one begins at every position.",
            _bans(lambda row, n: _right_among(row, n, _grams(row, n)[::n])),
        ),
        Mistake(
            "the order of the tokens is ignored",
            "0 1 and 1 0 are different: compare tuples, not sets.",
            _bans(
                lambda row, n: [
                    g[-1]
                    for g in _grams(row, n)
                    if sorted(g[:-1]) == sorted(_suffix(row, n))
                ]
            ),
        ),
        Mistake(
            "one history for the whole batch",
            "A row may repeat what another row has said. Each has its own history.",
            _of_the_batch,
        ),
        Mistake(
            "the first row's history is used for every row",
            "Take input_ids[row], not input_ids[0].",
            _of_the_first_row,
        ),
        *(
            Mistake(
                "a row is banned what its neighbour has said",
                "The histories and the logits belong together row by row.",
                neighbour,
            )
            for neighbour in (_of_the_next_row, _of_the_row_before)
        ),
        Mistake(
            "what should be banned is kept, and the rest banned",
            "The mask is the wrong way round.",
            _kept_instead,
        ),
        Mistake(
            "the logit is set to 0",
            "A logit of 0 is nothing special, and may be the highest of all. A token "
            "is removed by -inf.",
            _bans(_right, 0.0),
        ),
        Mistake(
            "the logit is set to a large negative number",
            "If all the others are removed, such a token is chosen after all, and "
            "nobody notices. A token is removed by -inf.",
            sign=_is_a_low_number,
        ),
        Mistake(
            "probabilities returned",
            "A stage takes logits and returns logits; one softmax comes at the end.",
            lambda ids, z, n: torch.softmax(_bans(_right)(ids, z, n), -1),
        ),
        Mistake(
            "nothing is banned",
            _SUFFIX,
            lambda ids, z, n: z.clone(),
        ),
    ),
    shrinks=False,
)


def _right_among(row: list[int], n: int, grams: Grams) -> list[int]:
    return [gram[-1] for gram in grams if gram[:-1] == _suffix(row, n)]


def no_repeat_ngram(function: Callable[[Tensor, Tensor, int], Any]) -> Result:
    """Check ``my_no_repeat_ngram(input_ids, logits, no_repeat_ngram_size)``, (5.5).

    Args:
        function: takes token ids ``(batch, length)``, float logits ``(batch, vocab)``
            and n >= 0, and returns logits with -inf at the banned tokens.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _NO_REPEAT_NGRAM.check(function)


_TEXTS: tuple[tuple[list[int], int], ...] = (
    ([0], 1),
    ([0, 0], 1),
    ([0, 1, 2], 1),
    ([0, 1], 2),  # a single bigram
    ([0, 0, 0], 2),
    ([0, 1, 0], 2),
    ([0, 1, 0, 1], 2),
    ([0, 1, 2, 3] * 3, 3),  # a cycle: four trigrams among ten
    ([7, 7, 8, 7, 7, 8, 7], 2),
)


def _texts() -> list[tuple[Any, ...]]:
    """Edge cases, then 40 seeded random texts."""
    luck = torch.Generator().manual_seed(6)
    found = [(torch.tensor(tokens), n) for tokens, n in _TEXTS]
    for number in range(40):
        n = 1 + number % 4
        length = (n + number // 2,)
        found.append((torch.randint(2 + number % 3, length, generator=luck), n))
    return found


def _share(part: Iterable[Any], whole: int) -> float:
    """How many different things there are, over a number."""
    return len(set(part)) / whole if whole else float("nan")


def _measured(rule: Callable[[list[int], int], float]) -> Callable[..., float]:
    return lambda tokens, n: rule(tokens.tolist(), n)


_DISTINCT_N = Exercise(
    "distinct_n",
    ("tokens", "n"),
    lambda tokens, n: torch.tensor(metrics.distinct_n(tokens, n)),
    _texts,
    (
        Mistake(
            "single tokens are counted, whatever n is",
            "Count n-grams: tuples of n neighbours.",
            _measured(lambda x, n: _share(x, len(x))),
        ),
        Mistake(
            "divided by the number of tokens",
            "A text of L tokens has L - n + 1 n-grams, not L: one without any "
            "repetition would score below 1.",
            _measured(lambda x, n: _share(_grams(x, n), len(x))),
        ),
        Mistake(
            "divided by L - n",
            "A text of L tokens has L - n + 1 n-grams: a text of n tokens has one.",
            _measured(lambda x, n: _share(_grams(x, n), len(x) - n)),
        ),
        Mistake(
            "the last n-gram is left out",
            "The loop ends one window too early: there are L - n + 1 of them.",
            _measured(lambda x, n: _share(_grams(x, n)[:-1], len(x) - n)),
        ),
        Mistake(
            "the share of repeated n-grams",
            "That is rep-n, 1 - distinct-n.",
            _measured(lambda x, n: 1 - _share(_grams(x, n), len(x) - n + 1)),
        ),
        Mistake(
            "only n-grams that occur once are counted",
            "An n-gram that occurs twice is one distinct n-gram, not none.",
            _measured(
                lambda x, n: _share(
                    (g for g in _grams(x, n) if _grams(x, n).count(g) == 1),
                    len(x) - n + 1,
                )
            ),
        ),
        Mistake(
            "only every n-th window is looked at",
            "n-grams overlap: a new one begins at every position.",
            _measured(lambda x, n: _share((g := _grams(x, n)[::n]), len(g))),
        ),
        Mistake(
            "the number of distinct n-grams, not their share",
            "Divide by the number of n-grams, L - n + 1.",
            _measured(lambda x, n: float(len(set(_grams(x, n))))),
        ),
        Mistake(
            "the fraction is upside down",
            "Distinct n-grams over all n-grams: at most 1.",
            _measured(lambda x, n: (len(x) - n + 1) / len(set(_grams(x, n)))),
        ),
        Mistake(
            "the order of the tokens is ignored",
            "0 1 and 1 0 are different bigrams: compare tuples, not sets.",
            _measured(
                lambda x, n: _share(
                    (frozenset(g) for g in _grams(x, n)), len(x) - n + 1
                )
            ),
        ),
        Mistake(
            "bigrams are counted, whatever n is",
            "zip(x, x[1:]) gives pairs. For n-grams take n shifted copies.",
            _measured(lambda x, n: _share(pairwise(x), len(x) - 1)),
        ),
    ),
)


def distinct_n(function: Callable[[Tensor, int], Any]) -> Result:
    """Check a function ``my_distinct_n(tokens, n)``, equation (5.11).

    Args:
        function: takes token ids ``(length,)`` and n >= 1, and returns the share of
            distinct ones among the n-grams, a number.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _DISTINCT_N.check(function)
