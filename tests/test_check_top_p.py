"""The checkers of chapter 4: right functions pass, wrong ones are caught and named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import TopPLogitsWarper

import lib
from lib import check

INF = math.inf


def kept(z):
    return z > -INF


def cut(z, removed):
    return z.masked_fill(removed, -INF)


# ── Right functions, in other styles ────────────────────────────────────────────────


def by_definition(z, rho):
    """Every pair of tokens: what is above what."""
    if rho == 1:
        return z.clone()
    p = F.softmax(z.double(), -1)
    above = ((z[..., None, :] > z[..., :, None]) * p[..., None, :]).sum(-1)
    return cut(z, above >= rho - 1e-12)


def by_threshold(z, rho):
    if rho == 1:
        return z
    ranked = z.sort(-1, descending=True).values
    mass = F.softmax(ranked, -1).cumsum(-1)
    crossing = (mass < rho).sum(-1, keepdim=True).clamp_max(z.shape[-1] - 1)
    return torch.where(z >= ranked.gather(-1, crossing), z, -INF)


def from_below(z, rho):
    """The mass from the bottom, as transformers counts, but with classes whole."""
    if rho >= 1:
        return z.clone()
    ranked = z.sort(-1).values
    gone = (F.softmax(ranked, -1).cumsum(-1) <= 1 - rho).sum(-1, keepdim=True)
    return cut(z, z < ranked.gather(-1, gone.clamp_max(z.shape[-1] - 1)))


def in_numpy(z, rho):
    if rho == 1:
        return z
    a = np.asarray(z, dtype=np.float64)
    p = np.exp(a - a.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    ranked = -np.sort(-p, -1)
    crossing = (ranked.cumsum(-1) < rho - 1e-12).sum(-1, keepdims=True)
    least = np.take_along_axis(ranked, np.minimum(crossing, a.shape[-1] - 1), -1)
    return np.where((p >= least) & (p > 0), a, -np.inf)


def in_loops(z, rho):
    if z.ndim > 1:
        return [in_loops(row, rho) for row in z]
    row = z.tolist()
    if rho == 1:
        return row
    weights = [math.exp(x - max(row)) for x in row]
    total = math.fsum(weights)
    return [
        x
        if math.fsum(w for w, y in zip(weights, row, strict=True) if y > x)
        < (rho - 1e-12) * total
        else -INF
        for x in row
    ]


def size_of(stage):
    return lambda z, rho: kept(torch.as_tensor(stage(z, rho))).sum(-1)


RIGHT = {
    "top_p": [
        lib.apply_top_p,
        by_definition,
        by_threshold,
        from_below,
        in_numpy,
        in_loops,
    ],
    "nucleus_size": [
        size_of(lib.apply_top_p),
        size_of(by_definition),
        size_of(by_threshold),
        size_of(in_numpy),
        lambda z, rho: np.asarray((np.asarray(in_loops(z, rho)) > -INF).sum(-1)),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in RIGHT.items() for i in range(len(functions))],
)
def test_right_functions_pass_in_any_style(name, number):
    result = getattr(check, name)(RIGHT[name][number])
    assert result.passed is True, result
    assert repr(result) == f"✓ {name}: right on all {result.tried} inputs."


# ── Wrong functions: each must be caught and named ──────────────────────────────────


def of_the_note(z, rho):
    """The seed note's code, on any number of axes."""
    z = z.clone()
    ranked, order = torch.sort(z, descending=True)
    remove = torch.cumsum(F.softmax(ranked, dim=-1), dim=-1) > rho
    remove[..., 1:] = remove[..., :-1].clone()
    remove[..., 0] = 0
    return cut(z, remove.scatter(-1, order, remove))


def of_transformers(z, rho):
    flat = z.reshape(-1, z.shape[-1])
    return TopPLogitsWarper(rho)(None, flat).reshape(z.shape)


def the_formula(z, rho):
    probs, order = F.softmax(z, -1).sort(dim=-1, descending=True)
    remove = probs.cumsum(-1) > rho
    return cut(z, remove.scatter(-1, order, remove))


def the_formula_but_one(z, rho):
    probs, order = F.softmax(z, -1).sort(dim=-1, descending=True)
    remove = probs.cumsum(-1) > rho
    remove[..., 0] = False
    return cut(z, remove.scatter(-1, order, remove))


def without_scatter(z, rho):
    probs = F.softmax(z, -1).sort(dim=-1, descending=True).values
    return cut(z, probs.cumsum(-1) - probs >= rho)


def without_sort(z, rho):
    probs = F.softmax(z, -1)
    return cut(z, probs.cumsum(-1) - probs >= rho)


def ascending(z, rho):
    probs, order = F.softmax(z, -1).sort(dim=-1)
    remove = probs.cumsum(-1) - probs >= rho
    return cut(z, remove.scatter(-1, order, remove))


def off_at_one_but_torn(z, rho):
    if rho == 1:
        return z.clone()
    probs, order = F.softmax(z, -1).sort(dim=-1, descending=True)
    remove = probs.cumsum(-1) - probs >= rho
    return cut(z, remove.scatter(-1, order, remove))


def torn(z, rho):
    probs, order = F.softmax(z, -1).sort(dim=-1, descending=True)
    remove = probs.cumsum(-1) - probs >= rho
    return cut(z, remove.scatter(-1, order, remove))


def off_at_one(stage):
    return lambda z, rho: z.clone() if rho == 1 else stage(z, rho)


def one_more_than_below(z, rho):
    mass = F.softmax(z, -1).sort(-1, descending=True).values.cumsum(-1)
    return (mass < rho).sum(-1) + 1


def not_off_at_one(z, rho):
    ranked = z.sort(-1, descending=True).values
    mass = F.softmax(ranked, -1).cumsum(-1)
    crossing = (mass < rho).sum(-1, keepdim=True).clamp_max(z.shape[-1] - 1)
    return cut(z, z < ranked.gather(-1, crossing))


def at_most(z, rho):
    if rho == 1:
        return z.clone()
    ranked = z.sort(-1, descending=True).values
    mass = F.softmax(ranked, -1).cumsum(-1)
    crossing = (mass <= rho).sum(-1, keepdim=True).clamp_max(z.shape[-1] - 1)
    return cut(z, z < ranked.gather(-1, crossing))


def shifted_twice(z, rho):
    probs, order = F.softmax(z, -1).sort(dim=-1, descending=True)
    remove = probs.cumsum(-1) > rho
    remove = F.pad(remove, (2, 0), value=False)[..., : z.shape[-1]]
    return cut(z, remove.scatter(-1, order, remove))


def in_place(z, rho):
    z[~kept(lib.apply_top_p(z, rho))] = -INF
    return z


def over_batch(z, rho):
    probs, order = F.softmax(z, 0).sort(dim=0, descending=True)
    remove = probs.cumsum(0) - probs >= rho
    return cut(z, remove.scatter(0, order, remove))


def slicing(z, rho):
    """The size of the first row, for all."""
    size = int(kept(lib.apply_top_p(z, rho)).sum(-1).flatten()[0])
    best = z.topk(size, dim=-1).indices
    return torch.full_like(z, -INF).scatter(-1, best, z.gather(-1, best))


def share_of_tokens(z, rho):
    best = z.topk(math.ceil(rho * z.shape[-1]), dim=-1)
    return torch.full_like(z, -INF).scatter(-1, best.indices, best.values)


def logits_summed(z, rho):
    ranked, order = z.sort(-1, descending=True)
    remove = ranked.cumsum(-1) - ranked >= rho
    return cut(z, remove.scatter(-1, order, remove))


right = lib.apply_top_p
TORN = "tokens with equal logits are torn apart"
BOTH = f"top_p = 1.0 is not left alone, and {TORN}"
WRONG = {
    "top_p": [
        (of_the_note, "the <= rule"),
        (at_most, "the <= rule"),
        (the_formula, "the crossing token is dropped"),
        (the_formula_but_one, "the crossing token is dropped, save the first"),
        (of_transformers, BOTH),
        (torn, BOTH),
        (off_at_one_but_torn, TORN),
        (off_at_one(of_transformers), TORN),
        (not_off_at_one, "top_p = 1.0 is not left alone"),
        (shifted_twice, "one token more"),
        (without_scatter, "rank used as token id"),
        (without_sort, "summed without sorting"),
        (ascending, "sorted the wrong way round"),
        (lambda z, rho: cut(z, kept(right(z, rho))), "the tail kept"),
        (lambda z, rho: right(z, max(1 - rho, 1e-9)), "1 - top_p in place"),
        (lambda z, rho: cut(z, F.softmax(z, -1) < rho), "compared with top_p"),
        (lambda z, rho: cut(z, F.softmax(z, -1) < 1 - rho), "compared with 1 - top_p"),
        (
            lambda z, rho: cut(z, (p := F.softmax(z, -1)) < rho * p.amax(-1, True)),
            "min-p in place of top-p",
        ),
        (share_of_tokens, "a share of the tokens"),
        (logits_summed, "logits summed"),
        (
            lambda z, rho: cut(z, ~kept(right(F.softmax(z, -1), rho))),
            "softmax applied twice",
        ),
        (
            lambda z, rho: right(z.flatten(), rho).view_as(z),
            "one nucleus for the whole tensor",
        ),
        (slicing, "the first row's size"),
        (over_batch, "wrong axis"),
        (lambda z, rho: F.softmax(right(z, rho), -1), "probabilities returned"),
        (
            lambda z, rho: F.softmax(z, -1) * kept(right(z, rho)),
            "probabilities returned, not logits, and not renormalised",
        ),
        (lambda z, rho: F.log_softmax(right(z, rho), -1), "log-probabilities"),
        (
            lambda z, rho: cut(F.log_softmax(z, -1), ~kept(right(z, rho))),
            "log-probabilities",
        ),
        (lambda z, rho: z * kept(right(z, rho)), "the logit 0"),
        (lambda z, rho: right(z, rho).clamp_min(-1e4), "a low number"),
        (
            lambda z, rho: z.masked_fill(
                ~kept(right(z, rho)), torch.finfo(z.dtype).min
            ),
            "a low number",
        ),
        (
            lambda z, rho: right(z, rho).sort(-1, descending=True).values,
            "come back sorted",
        ),
        (in_place, "changes its argument in place"),
        (lambda z, rho: right(z, rho).half(), "less precise than the input"),
    ],
    "nucleus_size": [
        (
            lambda z, rho: (
                F.softmax(z, -1).sort(-1, descending=True)[0].cumsum(-1) < rho
            ).sum(-1),
            "the crossing token is not counted",
        ),
        (size_of(of_the_note), "the <= rule"),
        (size_of(of_transformers), BOTH),
        (size_of(torn), BOTH),
        (one_more_than_below, BOTH),
        (size_of(off_at_one_but_torn), TORN),
        (size_of(the_formula_but_one), "the crossing token is dropped, save"),
        (size_of(not_off_at_one), "top_p = 1.0 is not left alone"),
        (size_of(shifted_twice), "one token more"),
        (size_of(without_sort), "summed without sorting"),
        (size_of(share_of_tokens), "a share of the tokens"),
        (size_of(over_batch), "wrong axis"),
        (
            lambda z, rho: (
                torch.full(z.shape[:-1], z.shape[-1])
                if rho == 1
                else kept(right(z, rho)).sum(-1)
            ),
            "removed tokens are counted",
        ),
        (lambda z, rho: (right(z, rho) == -INF).sum(-1), "outside are counted"),
        (
            lambda z, rho: (F.softmax(z, -1) * kept(right(z, rho))).sum(-1),
            "the mass of the nucleus",
        ),
        (lambda z, rho: lib.entropy(z).exp(), "the exponential of the entropy"),
        (lambda z, rho: kept(right(z, rho)).sum(), "one number for the whole batch"),
        (
            lambda z, rho: kept(right(z, rho)).sum(-1, keepdim=True),
            "the last axis is kept",
        ),
        (lambda z, rho: (F.softmax(z, -1) >= rho).sum(-1), "compared with top_p"),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in WRONG.items() for i in range(len(functions))],
)
def test_wrong_functions_are_caught_and_named(name, number):
    function, mistake = WRONG[name][number]
    result = getattr(check, name)(function)
    assert result.passed is False
    assert mistake in f"{result.mistake} {result.advice}", result
    # The counterexample is one: the function and the right one part there.
    expected = RIGHT[name][0](*result.counterexample.values())
    assert torch.equal(expected, result.expected)
    prose = [line for line in repr(result).splitlines() if not line.startswith("  ")]
    assert all(len(line) <= 76 for line in prose)


def test_an_unknown_mistake_is_shown_but_not_named():
    result = check.top_p(lambda z, rho: right(z, rho) * 1.5)
    assert not result
    assert result.mistake == ""


def test_the_counterexample_of_the_at_most_rule_is_an_exact_tie():
    shown = check.top_p(at_most)
    p = lib.softmax(shown.counterexample["logits"].double())
    mass = p.sort(descending=True).values.cumsum(-1)
    assert float((mass - shown.counterexample["top_p"]).abs().min()) < 1e-6


@pytest.mark.parametrize(
    ("name", "function"),
    [
        (name, function)
        for name, cases in WRONG.items()
        for function, mistake in cases
        if mistake in (TORN, BOTH)
    ],
)
def test_a_counterexample_belongs_to_the_mistake_that_is_named(name, function):
    result = getattr(check, name)(function)
    z, rho = result.counterexample.values()
    tied = len(z.flatten().unique()) < z.numel()
    at_one = rho == 1 and "top_p = 1.0 is not left alone" in result.mistake
    assert tied or at_one
