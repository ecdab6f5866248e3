"""Checker of chapter 6: sampling by Gumbel-max."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.check._engine import (
    INF,
    LAST_AXIS,
    ONE_FOR_ALL,
    Exercise,
    Mistake,
    Result,
    logits,
)
from lib.check._selection import ITEM, LAST


def _gumbel_max(z: Tensor, u: Tensor) -> Tensor:
    return (z.double() - (-u.log()).log()).argmax(-1)


def _gumbel_inputs() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [
        (torch.tensor([0.0, 0.0]), torch.tensor([0.25, 0.75]).double()),
        (torch.tensor([-INF, 0.0]), torch.tensor([0.9, 0.1]).double()),
        (torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.2, 0.9, 0.5]).double()),
    ]
    # Luck that is rare and yet drawn: very low, very high, and wasted on a removed
    # token.
    found += [
        (torch.tensor(values), torch.tensor(luck, dtype=torch.float64))
        for values, luck in (
            ([0.0, 0.0], [1e-300, 1e-30]),
            ([0.0, 0.0], [1 - 1e-12, LAST]),
            ([-INF, 0.0], [1 - 1e-12, 0.5]),
            ([-INF, 0.0], [LAST, 0.5]),
            ([0.0, 10.0], [LAST, 1 - 1e-9]),
            ([0.6, 0.0], [1 - LAST, 1e-6]),
            ([-INF, -1000.0], [0.9, 0.1]),
        )
    ]
    generator = torch.Generator().manual_seed(3)
    for z in logits():
        u = torch.rand(z.shape, generator=generator, dtype=torch.float64)
        u = (u * 98).round() / 100 + 0.01  # from 0.01 to 0.99
        race = (z.double() - (-u.log()).log()).sort(descending=True).values
        if z.shape[-1] == 1 or bool((race[..., 0] - race[..., 1] > 1e-2).all()):
            found.append((z, u))
    return found


_GUMBEL = Exercise(
    "gumbel_max",
    ("logits", "u"),
    _gumbel_max,
    _gumbel_inputs,
    (
        ITEM,
        Mistake(
            "the sign of the noise is reversed",
            "The noise is -log(-log u): it grows with u. Here a large u is bad luck.",
            lambda z, u: (z.double() + (-u.log()).log()).argmax(-1),
        ),
        Mistake(
            "one logarithm only",
            "-log u is exponential noise, which divides the weight e^z: the smallest "
            "quotient wins. Added to a logit, the noise must be -log(-log u).",
            lambda z, u: (z - u.log()).argmax(-1),
        ),
        Mistake(
            "one logarithm only",
            "log u is minus an exponential, and z + log u is the logarithm of weight "
            "times u. Added to a logit, the noise must be -log(-log u).",
            lambda z, u: (z + u.log()).argmax(-1),
        ),
        Mistake(
            "uniform noise",
            "Added to a logit, the noise must be Gumbel: -log(-log u).",
            lambda z, u: (z + u).argmax(-1),
        ),
        Mistake(
            "noise on probabilities, not on logits",
            "Gumbel noise goes onto the logits, or onto log p.",
            lambda z, u: (torch.softmax(z, -1).double() - (-u.log()).log()).argmax(-1),
        ),
        Mistake(
            "the largest quotient in place of the smallest",
            "In the race, the token with the shortest time -log(u)/p wins: argmin.",
            lambda z, u: (-u.log() / torch.softmax(z, -1)).argmax(-1),
        ),
        *(
            Mistake(
                "u is kept away from 0 and 1",
                "Clamping it, or adding a small number before a logarithm, makes the "
                "luckiest tokens equally lucky, or the unluckiest. u is never 0 and "
                "never 1: no guard is needed.",
                lambda z, u, guard=guard: _gumbel_max(z, guard(u)),
            )
            for guard in (
                lambda u: u.clamp(1e-6, 1 - 1e-6),
                lambda u: u.clamp_min(1e-20),
                lambda u: u.clamp_max(1 - 1e-9),
                lambda u: u + 1e-9,
            )
        ),
        *(
            Mistake(
                "a removed token that wins if it is lucky",
                "Noise can reach 36. A low number in place of -inf, or a small one "
                "added to a probability of 0, is not low enough; -inf plus noise is "
                "-inf.",
                lambda z, u, low=low: _gumbel_max(low(z), u),
            )
            for low in (
                lambda z: z.clamp_min(-20),
                lambda z: z.clamp_min(-100),
                lambda z: (torch.softmax(z, -1) + 1e-9).log(),
            )
        ),
        Mistake(
            "a uniform rounded up to 1",
            "A u near 1 becomes 1 in float32, its noise infinite, and -inf + inf is "
            "NaN. Keep u in float64.",
            lambda z, u: (z - (-u.float().log()).log()).argmax(-1),
        ),
        Mistake(
            "greedy: u is not used",
            "This takes the most probable token whatever u is.",
            lambda z, u: z.argmax(-1),
        ),
        Mistake(
            "the logits are not used",
            "This takes the token with the largest u, each alike.",
            lambda z, u: u.argmax(-1),
        ),
        Mistake(
            "one token's noise for all",
            "Noise common to all tokens changes nothing: each needs its own.",
            lambda z, u: (z - (-u[..., :1].log()).log()).argmax(-1),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one id a row: argmax without keepdim.",
            lambda z, u: _gumbel_max(z, u).unsqueeze(-1),
        ),
        Mistake(
            "one token for the whole batch",
            f"argmax without dim looks at the flattened tensor. {ONE_FOR_ALL}",
            lambda z, u: (z.double() - (-u.log()).log()).argmax(),
        ),
        Mistake(
            "wrong axis: the maximum over dim 0, the batch",
            LAST_AXIS,
            lambda z, u: (z.double() - (-u.log()).log()).argmax(0),
        ),
    ),
    shrinks=False,
)


def gumbel_max(function: Callable[[Tensor, Tensor], Any]) -> Result:
    """Check a function ``my_gumbel_max(logits, u)``, equation (6.9).

    Args:
        function: takes float logits and uniforms, float64 in (0, 1), both
            ``(..., vocab)``, and returns for each row the id that has the largest
            logit plus noise, shape ``(...)``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _GUMBEL.check(function)
