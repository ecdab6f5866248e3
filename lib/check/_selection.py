"""Checkers of chapter 6: greedy choice, and sampling by the inverse CDF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib import selection
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

LAST = 1 - 2**-53  # the largest uniform in [0, 1)


def _is_a_scalar_of_a_batch(failure: Failure) -> bool:
    return failure.kind == "raised" and "scalar" in failure.note.lower()


ITEM = Mistake(
    ".item() on a batch",
    "It takes the number out of a tensor that holds one; a batch holds one a row. "
    "Return the tensor of ids.",
    sign=_is_a_scalar_of_a_batch,
)


# ── Greedy ──────────────────────────────────────────────────────────────────────────


def _greedy_inputs() -> list[tuple[Any, ...]]:
    more = [
        torch.tensor([100.0, 1000.0]),  # both weights overflow
        torch.tensor([0.0, 1e-8]),  # one probability in float32, two logits
        torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]]),
        torch.tensor([-INF, -1000.0]),
    ]
    return [(z,) for z in (*logits(), *more)]


def _softmax_naively(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(-1, keepdim=True)


_GREEDY = Exercise(
    "greedy",
    ("logits",),
    selection.greedy,
    _greedy_inputs,
    (
        ITEM,
        Mistake(
            "e^z overflows before the maximum is taken",
            "It is infinite above 88.7, and infinities tie. The largest logit is the "
            "largest probability: no softmax is needed.",
            lambda z: _softmax_naively(z).argmax(-1),
        ),
        Mistake(
            "e^z overflows before the maximum is taken",
            "It is infinite above 88.7, and infinities tie. The largest logit is the "
            "largest weight: no exponential is needed.",
            lambda z: z.exp().argmax(-1),
        ),
        Mistake(
            "the maximum of rounded probabilities",
            "Softmax in float32 can give two different logits the same probability. "
            "Take the maximum of the logits themselves.",
            lambda z: torch.softmax(z, -1).argmax(-1),
        ),
        Mistake(
            "the highest id at a tie",
            "Where logits are equal, the book takes the lowest id, as argmax does.",
            lambda z: z.shape[-1] - 1 - z.flip(-1).argmax(-1),
        ),
        Mistake(
            "one token for the whole batch",
            f"argmax without dim looks at the flattened tensor. {ONE_FOR_ALL}",
            lambda z: z.argmax(),
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one id a row: argmax without keepdim.",
            lambda z: z.argmax(-1, keepdim=True),
        ),
        Mistake(
            "the least probable token",
            "The sign is reversed: greedy takes the largest logit.",
            lambda z: z.argmin(-1),
        ),
        Mistake(
            "the value in place of its place",
            "This is the largest logit. The token is the id that has it: argmax.",
            lambda z: z.amax(-1),
        ),
        Mistake(
            "the probability in place of the token",
            "This is the largest probability. The token is the id that has it: argmax.",
            lambda z: torch.softmax(z, -1).amax(-1),
        ),
        Mistake(
            "a one-hot vector in place of the id",
            "The answer is an id, one integer a row.",
            lambda z: torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]),
        ),
        Mistake(
            "a rank in place of the token",
            "This is the rank of token 0 among its rivals. Sorting once gives ids in "
            "order of rank, and the first of them is the answer.",
            lambda z: z.argsort(-1, descending=True, stable=True).argsort(-1)[..., 0],
        ),
        Mistake(
            "wrong axis: the maximum over dim 0, the batch",
            LAST_AXIS,
            lambda z: z.argmax(0),
        ),
        Mistake(
            "wrong axis: dim 1 is the vocabulary only in a (batch, vocab) tensor",
            LAST_AXIS,
            lambda z: z.argmax(1),
        ),
    ),
    shrinks=True,
)


def greedy(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_greedy(logits)``, equation (6.1).

    Args:
        function: takes float logits ``(..., vocab)`` and returns the id of the largest
            one, the lowest id at a tie, shape ``(...)``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _GREEDY.check(function)


# ── Sampling by the inverse of the cumulative distribution ─────────────────────────


def _far_from_a_boundary(z: Tensor, u: Tensor) -> bool:
    """Whether float32 and float64 agree on what u gives."""
    sums = torch.softmax(z.double(), -1).cumsum(-1)
    inner = (sums > 0) & (sums < 1 - 1e-12)
    return bool(((sums - u.unsqueeze(-1)).abs() > 1e-6)[inner].all())


def _sample_inputs() -> list[tuple[Any, ...]]:
    def luck(*values: float) -> Tensor:
        u = values[0] if len(values) == 1 else values
        return torch.tensor(u, dtype=torch.float64)

    exact = [
        (torch.tensor([0.0, 0.0]), luck(0.5)),  # on a boundary, exact in binary
        (torch.tensor([-INF, 0.0]), luck(0.0)),
        (torch.tensor([-INF, 0.0, 0.0, -INF]), luck(0.5)),
        (torch.tensor([1.0, 1.0, 1.0, 1.0]), luck(0.25)),
        (torch.tensor([[0.0, 0.0], [0.0, 0.0]]), luck(0.75, 0.25)),
        (torch.tensor([[-INF, 0.0], [0.0, -INF]]), luck(0.0, 0.0)),
        (torch.tensor([0.0, 5.0, 1.0]), luck(0.5)),
    ]
    found: list[tuple[Any, ...]] = list(exact)
    generator = torch.Generator().manual_seed(2)
    for z in logits():
        shape = z.shape[:-1]
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
        drawn = (drawn * 1000).round() / 1000
        for edge in (0.0, LAST):
            u = torch.full(shape, edge, dtype=torch.float64)
            if _far_from_a_boundary(z, u):
                found.append((z, u))
        if _far_from_a_boundary(z, drawn):
            found.append((z, drawn))
    return found


def _first(condition: Tensor) -> Tensor:
    """The first place that satisfies a condition; 0 where none does."""
    return condition.int().argmax(-1)


def _count(condition: Tensor) -> Tensor:
    """How many places satisfy a condition: V where all do, which is no id."""
    return condition.sum(-1)


def _count_to_the_last(condition: Tensor) -> Tensor:
    return _count(condition).clamp_max(condition.shape[-1] - 1)


def _sums(z: Tensor) -> Tensor:
    return torch.softmax(z, -1).cumsum(-1)


def _sums_widened(z: Tensor) -> Tensor:
    """Sums in float64 of probabilities that are rounded to the logits' dtype."""
    return torch.softmax(z, -1).double().cumsum(-1)


def _scaled(sums: Tensor, u: Tensor) -> Tensor:
    """The first sum that exceeds u times the last."""
    return _first(sums > u.unsqueeze(-1) * sums[..., -1:])


def _by_rank(z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Ids in order of rank, and the rank at which the sum exceeds u."""
    p, order = torch.softmax(z.double(), -1).sort(descending=True, stable=True)
    sums = p.cumsum(-1)
    return order, _first(sums > u.unsqueeze(-1) * sums[..., -1:])


_CLOSED = (
    "At u = 0 this takes token 0 even if it was removed. The interval of a token "
    "begins where the sum before it ends: the first id whose sum is strictly greater "
    "than u."
)
_SHORT = (
    "The probabilities of softmax do not sum to 1 exactly, and where u lies above "
    "their sum no token is found: id 0 comes out, id V, or the last one though it was "
    "removed. Add in float64, and compare with u times the last sum."
)
_NARROW = (
    "A small probability at the end is lost: added to a sum near 1, one below 2e-4 "
    "changes nothing in float16, and one below 3e-8 nothing in float32. Take softmax "
    "and sum of logits.double()."
)
_CLOSED_AND_SHORT = f"{_CLOSED} And compare with u times the last sum, in float64."

_SAMPLE = Exercise(
    "sample",
    ("logits", "u"),
    selection.sample,
    _sample_inputs,
    (
        ITEM,
        Mistake(
            "sum ≥ u in place of sum > u",
            _CLOSED,
            lambda z, u: _first(
                (s := _sums(z.double())) >= u.unsqueeze(-1) * s[..., -1:]
            ),
        ),
        *(
            Mistake(
                "sum ≥ u in place of sum > u, and a sum that may end below u",
                _CLOSED_AND_SHORT,
                closed_and_short,
            )
            for closed_and_short in (
                lambda z, u: _first(_sums(z) >= u.unsqueeze(-1)),
                lambda z, u: _first(_sums(z.double()) >= u.unsqueeze(-1)),
                lambda z, u: _count(_sums(z) < u.unsqueeze(-1)),
                lambda z, u: _count(_sums(z.double()) < u.unsqueeze(-1)),
            )
        ),
        *(
            Mistake(
                "a sum that may end below u",
                _SHORT,
                lambda z, u, sums=sums, place=place: place(sums(z) <= u.unsqueeze(-1)),
            )
            for sums in (_sums, _sums_widened, lambda z: _sums(z.double()))
            for place in (lambda below: _first(~below), _count, _count_to_the_last)
        ),
        *(
            Mistake("a sum that is not in float64", _NARROW, narrow)
            for narrow in (
                lambda z, u: _scaled(_sums(z), u),
                lambda z, u: _scaled(_sums(z.float()), u),
            )
        ),
        Mistake(
            "a uniform rounded up to 1",
            "The largest u, 1 - 2^-53, becomes 1 in float32, and no sum exceeds 1. "
            "Keep u in float64.",
            lambda z, u: _first(_sums(z) > u.float().unsqueeze(-1)),
        ),
        Mistake(
            "a uniform rounded up to 1",
            "The largest u, 1 - 2^-53, becomes 1 in float32, and no sum exceeds 1. "
            "Keep u in float64.",
            lambda z, u: _count(_sums(z) <= u.float().unsqueeze(-1)),
        ),
        Mistake(
            "weights that are not normalised",
            "The sums of e^(z - max) do not end at 1. Compare with u times the last.",
            lambda z, u: _first(
                (z.double() - z.double().amax(-1, keepdim=True)).exp().cumsum(-1)
                > u.unsqueeze(-1)
            ),
        ),
        Mistake(
            "no maximum subtracted, so that e^z overflows",
            "Use torch.softmax, or subtract the row's maximum first.",
            lambda z, u: _scaled(z.exp().cumsum(-1), u),
        ),
        Mistake(
            "u compared with probabilities, not with their sums",
            "A token owns an interval as long as its probability, and the intervals "
            "stand one after the other: cumsum.",
            lambda z, u: _first(torch.softmax(z, -1) > u.unsqueeze(-1)),
        ),
        Mistake(
            "logits summed, not probabilities",
            "Softmax comes before cumsum.",
            lambda z, u: _first(z.cumsum(-1) > u.unsqueeze(-1)),
        ),
        Mistake(
            "a rank in place of a token id",
            "After sorting, the place found is a rank; order.gather turns it into an "
            "id. And the book adds in order of ids, without sorting.",
            lambda z, u: _by_rank(z, u)[1],
        ),
        Mistake(
            "the sum runs in order of rank",
            "The law is right, but the same u gives other tokens than the book's "
            "order, that of ids.",
            lambda z, u: (
                (found := _by_rank(z, u))[0]
                .gather(-1, found[1].unsqueeze(-1))
                .squeeze(-1)
            ),
        ),
        Mistake(
            "u taken from the top",
            "The law is right, but with 1 - u in place of u: the sum must run "
            "upwards from id 0.",
            lambda z, u: selection.sample(z, (1 - u).clamp_max(LAST)),
        ),
        Mistake(
            "greedy: u is not used",
            "This takes the most probable token whatever u is.",
            lambda z, u: z.argmax(-1),
        ),
        Mistake(
            "one u for the whole batch",
            "Each row has luck of its own: u has one number a row.",
            lambda z, u: selection.sample(z, u.flatten()[0].expand(u.shape)),
        ),
        Mistake(
            "the maximum of p times u",
            "One u multiplies all tokens alike, so that this is greedy. Noise that "
            "works needs one number a token, and another formula: Gumbel-max.",
            lambda z, u: (torch.softmax(z, -1) * u.unsqueeze(-1)).argmax(-1),
        ),
        Mistake(
            "a uniform choice among the ids",
            "u times V ignores the probabilities.",
            lambda z, u: (u * z.shape[-1]).long(),
        ),
        Mistake(
            "the token before the right one",
            "The answer is the first token whose sum exceeds u, not the last whose "
            "sum does not.",
            lambda z, u: selection.sample(z, u) - 1,
        ),
        Mistake(
            "the token before the right one",
            "The answer is the first token whose sum exceeds u, not the last whose "
            "sum does not.",
            lambda z, u: (selection.sample(z, u) - 1).clamp_min(0),
        ),
        Mistake(
            "the token after the right one",
            "The answer is the first token whose sum exceeds u; ids count from 0.",
            lambda z, u: selection.sample(z, u) + 1,
        ),
        Mistake(
            "the last axis is kept",
            "The answer has one id a row: squeeze the last axis, as after "
            "torch.multinomial or searchsorted.",
            lambda z, u: selection.sample(z, u).unsqueeze(-1),
        ),
        Mistake(
            "wrong axis: summed over dim 0, the batch",
            LAST_AXIS,
            lambda z, u: _first(torch.softmax(z, -1).cumsum(0) > u.unsqueeze(-1)),
        ),
        Mistake(
            "one sum through the whole tensor",
            f"The running sum must begin anew in each row. {ONE_FOR_ALL}",
            lambda z, u: _first(
                torch.softmax(z.double(), -1).flatten().cumsum(0).view(z.shape)
                > u.unsqueeze(-1)
            ),
        ),
    ),
)


def sample(function: Callable[[Tensor, Tensor], Any]) -> Result:
    """Check a function ``my_sample(logits, u)``, equation (6.8).

    Args:
        function: takes float logits ``(..., vocab)`` and uniforms ``(...)``, float64
            in [0, 1), and returns for each row the first id, in order of ids, at which
            the sum of the probabilities exceeds u; shape ``(...)``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _SAMPLE.check(function)
