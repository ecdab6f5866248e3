"""Checkers of chapter 6: wrong choices caught and named, right ones in any style."""

from __future__ import annotations

import bisect
import itertools
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lib
from lib import check

LAST = 1 - 2**-53


def rows(function):
    """A function of one row, applied to every row by a plain loop."""

    def looped(z, *u):
        if z.ndim == 1:
            return function(z.tolist(), *(x.tolist() for x in u))
        return [looped(z[i], *(x[i] for x in u)) for i in range(len(z))]

    return looped


def sums(z):
    return torch.softmax(z.double(), -1).cumsum(-1)


@rows
def sample_in_loops(z, u):
    top = max(z)
    running = list(itertools.accumulate(np.exp(np.array(z) - top).tolist()))
    return bisect.bisect_right(running, u * running[-1])


def sample_in_numpy(logits, u):
    z, u = np.asarray(logits, dtype=np.float64), np.asarray(u)
    mass = np.exp(z - z.max(-1, keepdims=True)).cumsum(-1)
    return (mass <= u[..., None] * mass[..., -1:]).sum(-1)


def scaled(s, u):
    return (s > u[..., None] * s[..., -1:]).int().argmax(-1)


def sample_backwards(z, u):
    """The number of ids whose sum from above is what is left of the mass."""
    s = sums(z)
    return (s > u[..., None] * s[..., -1:]).long().argmax(-1)


def sample_by_search(z, u):
    s = sums(z)
    s = s / s[..., -1:]
    found = torch.searchsorted(s, u[..., None], right=True)[..., 0]
    return found.clamp_max(z.shape[-1] - 1)


def gumbel(u):
    return -(-u.log()).log()


@rows
def gumbel_in_loops(z, u):
    times = [
        np.inf if x == -np.inf else -np.log(y) / np.exp(x - max(z))
        for x, y in zip(z, u, strict=True)
    ]
    return times.index(min(times))


RIGHT = {
    "greedy": [
        lib.greedy,
        rows(lambda z: z.index(max(z))),
        lambda z: np.asarray(z).argmax(-1),
        lambda z: z.max(dim=-1).indices,
        lambda z: F.log_softmax(z.double(), -1).argmax(-1),
        lambda z: z.sort(dim=-1, descending=True, stable=True).indices[..., 0],
    ],
    "sample": [
        lib.sample,
        sample_in_loops,
        sample_in_numpy,
        sample_backwards,
        sample_by_search,
        lambda z, u: scaled(torch.softmax(z, -1).double().cumsum(-1), u),
    ],
    "gumbel_max": [
        lambda z, u: (z + gumbel(u)).argmax(-1),
        lambda z, u: (F.log_softmax(z, -1) + gumbel(u)).argmax(-1),
        lambda z, u: (-u.log() / torch.softmax(z.double(), -1)).argmin(-1),
        lambda z, u: np.asarray(z + gumbel(u)).argmax(-1),
        # float32 is wide enough for the noise, though not for u
        lambda z, u: (z.float() + gumbel(u).float()).argmax(-1),
        lambda z, u: ((-u.log()).float() / torch.softmax(z.float(), -1)).argmin(-1),
        lambda z, u: (torch.softmax(z.double(), -1) / -u.log()).argmax(-1),
        gumbel_in_loops,
    ],
}


def by_rank(z, u):
    p, order = torch.softmax(z.double(), -1).sort(descending=True, stable=True)
    s = p.cumsum(-1)
    return order, (s > u[..., None] * s[..., -1:]).int().argmax(-1)


def own(z):
    return torch.softmax(z, -1).cumsum(-1)


SHORT = "a sum that may end below u"
NARROW = "a sum that is not in float64"

WRONG = {
    "greedy": [
        (lambda z: z.argmax(), "one token for the whole batch"),
        (lambda z: int(torch.argmax(z)), "one token for the whole batch"),
        (lambda z: z.argmax(-1).item(), ".item() on a batch"),
        (lambda z: z.argmax(-1, keepdim=True), "the last axis is kept"),
        (lambda z: torch.softmax(z, -1).argmax(-1), "rounded probabilities"),
        (
            lambda z: (z.exp() / z.exp().sum(-1, keepdim=True)).argmax(-1),
            "e^z overflows",
        ),
        (lambda z: z.exp().argmax(-1), "e^z overflows"),
        (lambda z: (-z).argmax(-1), "the least probable token"),
        (lambda z: z.max(-1).values, "the value in place of its place"),
        (lambda z: torch.softmax(z, -1).max(-1).values, "the probability in place"),
        (
            lambda z: (z.shape[-1] - 1) - z.flip(-1).argmax(-1),
            "the highest id at a tie",
        ),
        (lambda z: z.argmax(0), "wrong axis: the maximum over dim 0"),
        (lambda z: z.argmax(1), "dim 1 is the vocabulary only"),
        (lambda z: F.one_hot(z.argmax(-1), z.shape[-1]), "a one-hot vector"),
        (
            lambda z: z.argsort(-1, descending=True, stable=True).argsort(-1)[..., 0],
            "a rank in place of the token",
        ),
    ],
    "sample": [
        (lambda z, u: torch.searchsorted(sums(z), u[..., None])[..., 0], "sum ≥ u"),
        (
            lambda z, u: (torch.softmax(z, -1).cumsum(-1) < u[..., None]).sum(-1),
            "sum ≥ u",
        ),
        (
            lambda z, u: (
                (torch.softmax(z, -1).cumsum(-1) >= u[..., None]).int().argmax(-1)
            ),
            "sum ≥ u",
        ),
        (
            lambda z, u: (
                (torch.softmax(z, -1).cumsum(-1) > u[..., None]).int().argmax(-1)
            ),
            "a sum that may end below u",
        ),
        (
            lambda z, u: (torch.softmax(z, -1).cumsum(-1) <= u[..., None]).sum(-1),
            "a sum that may end below u",
        ),
        # in float64, but not scaled
        (lambda z, u: (sums(z) > u[..., None]).int().argmax(-1), SHORT),
        (
            lambda z, u: torch.searchsorted(sums(z), u[..., None], right=True)[..., 0],
            SHORT,
        ),
        (lambda z, u: (sums(z) <= u[..., None]).sum(-1), SHORT),
        (
            lambda z, u: (sums(z) <= u[..., None]).sum(-1).clamp_max(z.shape[-1] - 1),
            SHORT,
        ),
        (
            lambda z, u: (
                (torch.softmax(z, -1).double().cumsum(-1) > u[..., None])
                .int()
                .argmax(-1)
            ),
            SHORT,
        ),
        (
            lambda z, u: (sums(z) >= u[..., None]).int().argmax(-1),
            "sum ≥ u in place of sum > u, and a sum that may end below u",
        ),
        # scaled, but not in float64
        (lambda z, u: scaled(own(z), u), NARROW),
        (
            lambda z, u: (own(z) / own(z)[..., -1:] > u[..., None]).int().argmax(-1),
            NARROW,
        ),
        (lambda z, u: (own(z) <= u[..., None] * own(z)[..., -1:]).sum(-1), NARROW),
        (
            lambda z, u: scaled((z - z.amax(-1, True)).exp().cumsum(-1), u),
            NARROW,
        ),
        (lambda z, u: scaled(own(z.float()), u), NARROW),
        (
            lambda z, u: (
                (torch.softmax(z, -1).cumsum(-1) > u.float()[..., None])
                .int()
                .argmax(-1)
            ),
            "a uniform rounded up to 1",
        ),
        (
            lambda z, u: (
                ((z - z.amax(-1, keepdim=True)).exp().cumsum(-1) > u[..., None])
                .int()
                .argmax(-1)
            ),
            "weights that are not normalised",
        ),
        (
            lambda z, u: (
                ((s := z.exp().cumsum(-1)) > u[..., None] * s[..., -1:])
                .int()
                .argmax(-1)
            ),
            "no maximum subtracted",
        ),
        (
            lambda z, u: (torch.softmax(z, -1) > u[..., None]).int().argmax(-1),
            "u compared with probabilities",
        ),
        (
            lambda z, u: (z.cumsum(-1) > u[..., None]).int().argmax(-1),
            "logits summed",
        ),
        (lambda z, u: by_rank(z, u)[1], "a rank in place of a token id"),
        (
            lambda z, u: torch.gather(
                by_rank(z, u)[0], -1, by_rank(z, u)[1][..., None]
            )[..., 0],
            "the sum runs in order of rank",
        ),
        (lambda z, u: lib.sample(z, (1 - u).clamp_max(LAST)), "u taken from the top"),
        (lambda z, u: lib.greedy(z), "greedy: u is not used"),
        (
            lambda z, u: lib.sample(z, u.flatten()[0].expand_as(u)),
            "one u for the whole batch",
        ),
        (
            lambda z, u: (torch.softmax(z, -1) * u[..., None]).argmax(-1),
            "the maximum of p times u",
        ),
        (lambda z, u: (u * z.shape[-1]).long(), "a uniform choice among the ids"),
        (lambda z, u: lib.sample(z, u) - 1, "the token before the right one"),
        (lambda z, u: lib.sample(z, u) + 1, "the token after the right one"),
        (lambda z, u: lib.sample(z, u)[..., None], "the last axis is kept"),
        (lambda z, u: lib.sample(z, u).item(), ".item() on a batch"),
        (
            lambda z, u: (
                (torch.softmax(z, -1).cumsum(0) > u[..., None]).int().argmax(-1)
            ),
            "summed over dim 0",
        ),
        (
            lambda z, u: (
                (
                    torch.softmax(z.double(), -1).flatten().cumsum(0).view(z.shape)
                    > u[..., None]
                )
                .int()
                .argmax(-1)
            ),
            "one sum through the whole tensor",
        ),
    ],
    "gumbel_max": [
        (lambda z, u: (z - gumbel(u)).argmax(-1), "the sign of the noise"),
        (lambda z, u: (z - u.log()).argmax(-1), "one logarithm only"),
        (lambda z, u: (z + u.log()).argmax(-1), "one logarithm only"),
        (lambda z, u: (z + u).argmax(-1), "uniform noise"),
        (
            lambda z, u: (torch.softmax(z, -1) + gumbel(u)).argmax(-1),
            "noise on probabilities",
        ),
        (
            lambda z, u: (torch.softmax(z, -1) * u).argmax(-1),
            "one logarithm only",
        ),
        (
            lambda z, u: (-u.log() / torch.softmax(z, -1)).argmax(-1),
            "the largest quotient",
        ),
        (lambda z, u: z.argmax(-1), "u is not used"),
        (lambda z, u: gumbel(u).argmax(-1), "the logits are not used"),
        (lambda z, u: (z + gumbel(u[..., :1])).argmax(-1), "u is not used"),
        (lambda z, u: (z + gumbel(u)).argmax(-1)[..., None], "the last axis is kept"),
        (lambda z, u: (z + gumbel(u)).argmax(), "one token for the whole batch"),
        (lambda z, u: (z + gumbel(u)).argmax(-1).item(), ".item() on a batch"),
        (lambda z, u: (z + gumbel(u)).argmax(0), "wrong axis"),
        *(
            (lambda z, u, guard=guard: (z + guard(u)).argmax(-1), "kept away from")
            for guard in (
                lambda u: gumbel(u.clamp(1e-2, 0.99)),
                lambda u: gumbel(u.clamp(1e-6, 1 - 1e-6)),
                lambda u: gumbel(u.clamp_min(1e-20)),
                lambda u: -(-(u + 1e-9).log() + 1e-9).log(),
                lambda u: -(-u.log() + 1e-10).log(),
                lambda u: gumbel(u + 1e-10),
            )
        ),
        (lambda z, u: (z + gumbel(u.float())).argmax(-1), "rounded up to 1"),
        *(
            (lambda z, u, low=low: (z.clamp_min(low) + gumbel(u)).argmax(-1), "lucky")
            for low in (-10, -20, -50, -100)
        ),
        *(
            (
                lambda z, u, e=e: ((torch.softmax(z, -1) + e).log() + gumbel(u)).argmax(
                    -1
                ),
                "a removed token that wins if it is lucky",
            )
            for e in (1e-9, 1e-12, 1e-15)
        ),
        (
            lambda z, u: (-u.log() / (torch.softmax(z, -1) + 1e-9)).argmin(-1),
            "a removed token that wins if it is lucky",
        ),
    ],
}


def pairs(bank):
    return [
        (name, i) for name, functions in bank.items() for i in range(len(functions))
    ]


@pytest.mark.parametrize(("name", "number"), pairs(RIGHT))
def test_right_functions_pass_in_any_style(name, number):
    result = getattr(check, name)(RIGHT[name][number])
    assert result, result
    assert repr(result) == f"✓ {name}: right on all {result.tried} inputs."


@pytest.mark.parametrize(("name", "number"), pairs(WRONG))
def test_wrong_functions_are_caught_and_named(name, number):
    function, mistake = WRONG[name][number]
    result = getattr(check, name)(function)
    assert not result
    assert mistake in result.mistake, result
    assert all(
        len(line) <= 76
        for line in repr(result).splitlines()
        if not line.startswith("  ")
    )
    right = RIGHT[name][0](*result.counterexample.values())
    assert torch.equal(right, result.expected)


def test_a_sampler_with_luck_of_its_own_is_caught():
    """torch.multinomial ignores u: right in law, wrong here; it has no name."""
    random.seed(0)
    assert not check.sample(
        lambda z, u: torch.multinomial(
            torch.softmax(z.flatten(0, -2) if z.ndim > 1 else z[None], -1), 1
        ).view(u.shape)
    )


def test_the_bank_meets_the_edges():
    tried = check.sample(lib.sample).tried
    assert tried > 100
    # u = 0 where id 0 is removed, and the largest u, are among them.
    closed = check.sample(lambda z, u: (sums(z) < u[..., None]).sum(-1))
    assert closed.counterexample["u"].tolist() in (0.0, [0.0], [0.0, 0.0], 0.5)


def test_a_uniform_is_shown_so_that_it_can_be_typed():
    """The largest u is no 1, which would be refused."""
    for wrong in (
        lambda z, u: (sums(z) > u[..., None]).int().argmax(-1),
        lambda z, u: scaled(own(z), u),
    ):
        result = check.sample(wrong)
        shown = re.search(r"(?m)^ +u +\[?([^] ]+)", repr(result)).group(1)
        assert float(shown) == result.counterexample["u"].item() < 1


def test_the_bank_of_gumbel_max_meets_rare_luck():
    seen = []

    def watching(z, u):
        seen.append((z, u))
        return (z + gumbel(u)).argmax(-1)

    assert check.gumbel_max(watching)
    assert any((u < 1e-20).any() for _, u in seen)
    assert any((u > 1 - 1e-9).any() for _, u in seen)
    assert any((u[z == -torch.inf] > 1 - 1e-9).any() for z, u in seen)
    assert all(((u > 0) & (u < 1)).all() for _, u in seen)
