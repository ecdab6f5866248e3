"""Checkers of chapter 8: the exponential race, and the cut from block maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.check._engine import (
    INF,
    LAST_AXIS,
    ONE_FOR_ALL,
    Exercise,
    Failure,
    Mistake,
    Result,
    logits,
)

# ── The race ────────────────────────────────────────────────────────────────────────


def _race(probs: Tensor, times: Tensor) -> Tensor:
    # Where inputs are made smaller to be shown, they stay distributions.
    if not bool(((probs.sum(-1) - 1).abs() < 1e-4).all()):
        raise ValueError("probs must sum to 1")
    return (times / probs.double()).argmin(-1)


def _race_inputs() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [
        (torch.tensor([0.5, 0.5]), torch.tensor([2.0, 1.0]).double()),
        (torch.tensor([0.0, 1.0]), torch.tensor([0.1, 3.0]).double()),
        (torch.tensor([0.75, 0.25]), torch.tensor([2.0, 1.0]).double()),
        (torch.tensor([0.2, 0.8]), torch.tensor([0.01, 0.1]).double()),
        (torch.tensor([0.6, 0.3, 0.1]), torch.tensor([1.0, 0.2, 0.1]).double()),
        # Where a small number added to a probability or a time decides.
        (torch.tensor([0.0, 1.0]), torch.tensor([1e-12, 3.0]).double()),
        (torch.tensor([0.0, 1.0]), torch.tensor([1e-30, 3.0]).double()),
        (torch.tensor([1e-6, 1.0]), torch.tensor([1e-5, 3.0]).double()),
        (torch.tensor([1e-29, 1.0]), torch.tensor([1e-30, 3.0]).double()),
    ]
    generator = torch.Generator().manual_seed(8)
    for z in logits():
        probs = torch.softmax(z.float(), dim=-1)
        times = torch.empty(z.shape, dtype=torch.float64)
        times.exponential_(generator=generator)
        times = (times * 100).ceil() / 100  # never 0
        first = (times / probs.double()).sort().values
        # No tie, and none that rounding could make.
        if z.shape[-1] == 1 or bool((first[..., 1] > 1.01 * first[..., 0]).all()):
            found.append((probs, times))
    return found


_RACE = Exercise(
    "race",
    ("probs", "times"),
    _race,
    _race_inputs,
    (
        Mistake(
            "time multiplied by probability",
            "A token of probability p runs p times as fast, so that its time is "
            "divided by p.",
            lambda p, e: (p * e).argmin(-1),
        ),
        Mistake(
            "the largest product p·E wins",
            "The race is won by the smallest E/p, or the largest p/E. Multiplied, a "
            "late token would win for being late.",
            lambda p, e: (p * e).argmax(-1),
        ),
        Mistake(
            "the last to arrive wins",
            "The first to arrive wins: argmin of E/p, or argmax of p/E.",
            lambda p, e: (e / p).argmax(-1),
        ),
        Mistake(
            "Gumbel's logarithms, taken of a time",
            "The times are exponential already. Gumbel-max on them is the largest "
            "log p - log E, with one logarithm.",
            lambda p, e: (p.log() - (-e.log()).log()).argmax(-1),
        ),
        Mistake(
            "the time subtracted from the logit",
            "log(p/E) = log p - log E. Without the second logarithm the noise is no "
            "Gumbel noise, and the law another one.",
            lambda p, e: (p.log() - e).argmax(-1),
        ),
        Mistake(
            "the time subtracted from the probability",
            "Probabilities and times are divided, or their logarithms subtracted.",
            lambda p, e: (p - e).argmax(-1),
        ),
        Mistake(
            "probabilities that weigh nothing",
            "This takes the token with the smallest time, whatever p is: the draw is "
            "uniform.",
            lambda p, e: e.argmin(-1),
        ),
        Mistake(
            "greedy: the times are not used",
            "This takes the most probable token whatever the times are.",
            lambda p, e: p.argmax(-1),
        ),
        Mistake(
            "one token's time for all",
            "A time common to all tokens changes nothing: each needs its own.",
            lambda p, e: (e[..., :1] / p).argmin(-1),
        ),
        *(
            Mistake(
                "a small number is added to the probability",
                "A token with p = 0 must never win, and with p + ε it does if its time "
                "is short enough. No guard is needed: E/0 is inf, which is never the "
                "smallest.",
                lambda p, e, small=small: (e / (p + small)).argmin(-1),
            )
            for small in (1e-9, 1e-3)
        ),
        Mistake(
            "a small number is added to the time",
            "With E + ε a token of small probability cannot win, however early it "
            "comes. A time is never 0: no guard is needed.",
            lambda p, e: (p / (e + 1e-9)).argmax(-1),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one id a row: argmin without keepdim.",
            lambda p, e: _race(p, e).unsqueeze(-1),
        ),
        Mistake(
            "one token for the whole batch",
            f"argmin without dim looks at the flattened tensor. {ONE_FOR_ALL}",
            lambda p, e: (e / p).argmin(),
        ),
        Mistake(
            "wrong axis: the minimum over dim 0, the batch",
            LAST_AXIS,
            lambda p, e: (e / p).argmin(0),
        ),
    ),
    shrinks=False,
)


def race(function: Callable[[Tensor, Tensor], Any]) -> Result:
    """Check a function ``my_race(probs, times)``, equation (8.12).

    Args:
        function: takes float probabilities and exponential times, float64 > 0, both
            ``(..., vocab)``, and returns for each row the id of the token that wins
            the race, shape ``(...)``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _RACE.check(function)


# ── The cut ─────────────────────────────────────────────────────────────────────────


def _in_blocks(z: Tensor, size: int) -> Tensor:
    """``(..., vocab)`` -> ``(..., blocks, size)``, the last block filled with -inf."""
    missing = -z.shape[-1] % size
    return F.pad(z, (0, missing), value=-INF).reshape(*z.shape[:-1], -1, size)


def _block_cut(z: Tensor, count: int, size: int) -> Tensor:
    largest = _in_blocks(z, size).amax(-1)
    if count > largest.shape[-1]:
        raise ValueError(f"count={count} must be at most the number of blocks")
    return largest.topk(count).values[..., -1]


def _block_cut_inputs() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [
        (torch.tensor([1.0, 2.0]), 1, 2),
        (torch.tensor([3.0, 1.0, 2.0]), 2, 2),  # the last block has one token
        (torch.tensor([-3.0, -1.0, -2.0]), 2, 2),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), 2, 2),
        (torch.tensor([0.0, 5.0, 4.0, 1.0, 3.0, 2.0]), 2, 2),
        (torch.tensor([0.0, 5.0, 4.0, 1.0, 3.0, 2.0]), 2, 3),
    ]
    for number, z in enumerate(logits()):
        vocab = z.shape[-1]
        for size in (1, 2, 3):
            blocks = -(-vocab // size)
            found.append((z, 1 + number % max(1, blocks - 1), size))
    return found


def _does_not_divide(failure: Failure) -> bool:
    reshaping = "shape" in failure.note or "unflatten" in failure.note
    return failure.kind == "raised" and reshaping


def _cropped(z: Tensor, size: int) -> Tensor:
    return _in_blocks(z[..., : z.shape[-1] // size * size], size).amax(-1)


def _every_so_many(z: Tensor, size: int) -> Tensor:
    return _in_blocks(z, size).transpose(-1, -2)


_BLOCK_CUT = Exercise(
    "block_cut",
    ("logits", "count", "size"),
    _block_cut,
    _block_cut_inputs,
    (
        Mistake(
            "a last block that is not full",
            "The vocabulary need not be a multiple of the block. Fill the last block "
            "up with -inf, or take its maximum apart.",
            sign=_does_not_divide,
        ),
        Mistake(
            "the last block is filled up with 0",
            "Logits may be negative, and then 0 would be the block's maximum. Fill "
            "with -inf.",
            lambda z, count, size: _block_cut(
                F.pad(z, (0, -z.shape[-1] % size)), count, size
            ),
        ),
        Mistake(
            "the last block is left out",
            "The tokens after the last full block are a block, too, only shorter.",
            lambda z, count, size: _cropped(z, size).topk(count).values[..., -1],
        ),
        Mistake(
            "the k-th largest token in place of the k-th largest maximum",
            "That is what is sought in the end, and it takes a selection among all "
            "tokens. The cut is the k-th largest of the blocks' maxima.",
            lambda z, count, size: z.topk(count).values[..., -1],
        ),
        Mistake(
            "counting from 0: one maximum too far",
            "The k-th largest is at index k - 1.",
            lambda z, count, size: _block_cut(z, count + 1, size),
        ),
        Mistake(
            "the largest maximum in place of the k-th largest",
            "Above the largest maximum lies no token, and at it perhaps one. k tokens "
            "are wanted.",
            lambda z, count, size: z.amax(-1),
        ),
        Mistake(
            "the k-th smallest maximum",
            "The best tokens are the large ones: sort in descending order.",
            lambda z, count, size: (
                _in_blocks(z, size).amax(-1).sort(-1).values[..., count - 1]
            ),
        ),
        Mistake(
            "the maximum over the blocks in place of within each block",
            "After the reshaping, the tokens of a block are the last axis.",
            lambda z, count, size: (
                _every_so_many(z, size).amax(-1).topk(count).values[..., -1]
            ),
        ),
        Mistake(
            "the maxima, or the ids, of all k blocks",
            "The cut is one number a row.",
            lambda z, count, size: _in_blocks(z, size).amax(-1).topk(count).values,
        ),
        Mistake(
            "one cut for the whole batch",
            "Each row has a cut of its own: select along dim=-1.",
            lambda z, count, size: (
                _in_blocks(z, size).amax(-1).flatten().topk(count).values[-1]
            ),
        ),
    ),
)


def block_cut(function: Callable[[Tensor, int, int], Any]) -> Result:
    """Check a function ``my_block_cut(logits, count, size)``, Proposition 8.4.

    Args:
        function: takes float logits ``(..., vocab)``, how many tokens are wanted and
            how many tokens make a block, and returns for each row the count-th
            largest of the blocks' maxima, shape ``(...)``. The last block may be
            shorter; there are at least ``count`` blocks.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _BLOCK_CUT.check(function)
