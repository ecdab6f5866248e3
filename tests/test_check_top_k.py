"""The checkers of chapter 3: right functions pass, wrong ones are caught and named."""

from __future__ import annotations

import heapq
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lib
from lib import check

INF = float("inf")


def rows(function):
    """A function of one row of numbers and k, applied to every row by a plain loop."""

    def looped(z, k):
        if z.ndim == 1:
            return function(z.tolist(), k)
        return [looped(row, k) for row in z]

    return looped


def clamped(z, k):
    return min(k, z.shape[-1])


def threshold(z, k):
    return z.topk(clamped(z, k)).values[..., -1:]


def cut(z, k):
    return z.masked_fill(z < threshold(z, k), -INF)


def zeroed(z, k):
    return F.softmax(z, -1).masked_fill(z < threshold(z, k), 0)


# ── Right functions, in other styles ────────────────────────────────────────────────


def by_sorting(z, k):
    k = clamped(z, k)
    kth = z.sort(dim=-1, descending=True).values[..., k - 1 : k]
    return torch.where(z < kth, -INF, z)


def by_counting(z, k):
    better = z[..., None, :] > z[..., :, None]
    return torch.where(better.sum(-1) < k, z, -INF)


def in_numpy(logits, k):
    z = np.array(logits)
    k = min(k, z.shape[-1])
    kth = np.partition(z, -k, axis=-1)[..., -k, None]
    return np.where(z < kth, -np.inf, z)


@rows
def by_heap(z, k):
    least = heapq.nlargest(k, z)[-1]
    return [x if x >= least else -INF for x in z]


@rows
def by_division(z, k):
    p = F.softmax(torch.tensor(z, dtype=torch.float64), -1).tolist()
    least = heapq.nlargest(k, z)[-1]
    mass = sum(x for x, logit in zip(p, z, strict=True) if logit >= least)
    return [x / mass if y >= least else 0.0 for x, y in zip(p, z, strict=True)]


RIGHT = {
    "top_k": [lib.apply_top_k, by_sorting, by_counting, in_numpy, by_heap, cut],
    "top_k_probs": [
        lambda z, k: lib.softmax(lib.apply_top_k(z, k)),
        lambda z, k: F.softmax(by_counting(z, k), -1),
        lambda z, k: F.softmax(torch.as_tensor(in_numpy(z, k)), -1),
        by_division,
        lambda z, k: (p := zeroed(z, k)) / p.sum(-1, keepdim=True),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in RIGHT.items() for i in range(len(functions))],
)
def test_right_functions_pass_in_any_style(name, number):
    result = getattr(check, name)(RIGHT[name][number])
    assert result, result
    assert repr(result) == f"✓ {name}: right on all {result.tried} inputs."


# ── Wrong functions: each must be caught and named ──────────────────────────────────


def exactly_k(z, k):
    best = z.topk(clamped(z, k))
    return torch.full_like(z, -INF).scatter(-1, best.indices, best.values)


def exactly_k_the_last(logits, k):
    """As numpy sorts: of a tied class the highest ids stay."""
    z = np.array(logits)
    removed = np.argsort(z, axis=-1, kind="stable")[..., : max(z.shape[-1] - k, 0)]
    np.put_along_axis(z, removed, -np.inf, axis=-1)
    return z


def note_top_k(z, k):
    z = z.clone()
    z[z < torch.topk(z, k)[0][..., -1, None]] = -float("Inf")
    return z


def in_place(z, k):
    z[z < threshold(z, k)] = -INF
    return z


def without_clamp_by_sorting(z, k):
    return z.masked_fill(z < z.sort(descending=True).values[..., k - 1, None], -INF)


@rows
def best_values(z, k):
    values = sorted(set(z), reverse=True)
    return [x if x in values[:k] else -INF for x in z]


def first_row(z, k):
    return z.masked_fill(z < z.flatten().topk(min(k, z.numel())).values[-1], -INF)


WRONG = {
    "top_k": [
        (exactly_k, "exactly k"),
        (exactly_k_the_last, "exactly k"),
        (best_values, "ties counted once"),
        (note_top_k, "larger than the vocabulary crashes"),
        (without_clamp_by_sorting, "larger than the vocabulary crashes"),
        (lambda z, k: in_numpy(z, k) if k <= z.shape[-1] else z[k], "crashes"),
        (lambda z, k: z.masked_fill(z <= threshold(z, k), -INF), "<= where <"),
        (lambda z, k: cut(z, k + 1), "one token too many"),
        (lambda z, k: cut(z, max(k - 1, 1)), "one token too few"),
        (lambda z, k: cut(z, min(k, z.shape[-1] - 1) or 1), "limited to V - 1"),
        (lambda z, k: z.masked_fill(z < threshold(z, k), -1e9), "a large negative"),
        (
            lambda z, k: z.masked_fill(z < threshold(z, k), torch.finfo(z.dtype).min),
            "a large negative",
        ),
        (lambda z, k: z.masked_fill(z < threshold(z, k), 0), "the logit 0"),
        (lambda z, k: z * (z >= threshold(z, k)).to(z.dtype), "the logit 0"),
        (lambda z, k: z.masked_fill(z >= threshold(z, k), -INF), "the best are"),
        (lambda z, k: -cut(-z, k).nan_to_num(neginf=INF), "k lowest"),
        (first_row, "for the whole batch"),
        (
            lambda z, k: z.masked_fill(
                z < z.sort(0, descending=True).values[min(k, len(z)) - 1], -INF
            ),
            "wrong axis",
        ),
        (
            lambda z, k: torch.cat(
                [z[..., :k], torch.full_like(z[..., k:], -INF)], dim=-1
            ),
            "the first k ids",
        ),
        (lambda z, k: cut(z, k).sort(-1, descending=True).values, "is sorted"),
        (lambda z, k: z.topk(clamped(z, k)).values, "only the k values"),
        (lambda z, k: F.softmax(cut(z, k), -1), "probabilities returned"),
        (lambda z, k: F.log_softmax(cut(z, k), -1), "log-probabilities returned"),
        (lambda z, k: cut(z, k).half(), "less precise"),
        (in_place, "changes its argument in place"),
    ],
    "top_k_probs": [
        (lambda z, k: F.softmax(zeroed(z, k), -1), "softmax of zeroed"),
        (
            lambda z, k: F.softmax(
                F.softmax(z, -1).masked_fill(z < threshold(z, k), -INF), -1
            ),
            "softmax of probabilities",
        ),
        (
            lambda z, k: F.softmax(z.masked_fill(z < threshold(z, k), 0), -1),
            "are 0, not -inf",
        ),
        (lambda z, k: F.softmax(z * (z >= threshold(z, k)), -1), "are 0, not -inf"),
        (zeroed, "not renormalised"),
        (
            lambda z, k: (
                (p := zeroed(z, k))
                + (1 - p.sum(-1, keepdim=True))
                * (s := (z >= threshold(z, k)).double())
                / s.sum(-1, keepdim=True)
            ),
            "shared out equally",
        ),
        (
            lambda z, k: (
                (p := zeroed(z, k))
                + F.one_hot(z.argmax(-1), z.shape[-1]) * (1 - p.sum(-1)[..., None])
            ),
            "goes to the best",
        ),
        (
            lambda z, k: F.normalize((z >= threshold(z, k)).to(z.dtype), p=1, dim=-1),
            "equally probable",
        ),
        (lambda z, k: F.softmax(exactly_k(z, k), -1), "exactly k"),
        (
            lambda z, k: F.softmax(torch.as_tensor(exactly_k_the_last(z, k)), -1),
            "exactly k",
        ),
        (
            lambda z, k: F.softmax(torch.tensor(best_values(z, k), dtype=z.dtype), -1),
            "counted once",
        ),
        (lambda z, k: F.softmax(note_top_k(z, k), -1), "crashes"),
        (
            lambda z, k: F.softmax(z.masked_fill(z <= threshold(z, k), -INF), -1),
            "<= where <",
        ),
        (lambda z, k: F.softmax(cut(z, k + 1), -1), "one token too many"),
        (lambda z, k: F.softmax(first_row(z, k), -1), "for the whole batch"),
        (lambda z, k: (p := zeroed(z, k)) / p.sum(), "for the whole batch"),
        (lambda z, k: (p := zeroed(z, k)) / p.sum(0), "wrong axis"),
        (lambda z, k: F.softmax(z, -1), "nothing is removed"),
        (cut, "logits returned"),
        (lambda z, k: F.log_softmax(cut(z, k), -1), "log-probabilities returned"),
        (
            lambda z, k: F.softmax(cut(z, k), -1).sort(-1, descending=True).values,
            "is sorted",
        ),
        (lambda z, k: F.softmax(z.topk(clamped(z, k)).values, -1), "only k numbers"),
        (lambda z, k: F.softmax(cut(z, k).half(), -1), "less precise"),
        (lambda z, k: F.softmax(in_place(z, k), -1), "changes its argument in place"),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, functions in WRONG.items() for i in range(len(functions))],
)
def test_wrong_functions_are_caught_and_named(name, number):
    function, mistake = WRONG[name][number]
    result = getattr(check, name)(function)
    assert not result
    assert mistake in f"{result.mistake} {result.advice}", result
    # The counterexample is one: the right answer to it is what is shown.
    z, k = result.counterexample.values()
    right = lib.apply_top_k(z, k)
    if name == "top_k_probs":
        right = torch.softmax(right, dim=-1)
    assert torch.equal(right, result.expected)
    prose = repr(result).splitlines()
    assert all(len(line) <= 76 for line in prose if not line.startswith("  "))


def test_an_unknown_mistake_is_shown_but_not_named():
    result = check.top_k(lambda z, k: lib.apply_top_k(z, k) * 1.5)
    assert not result
    assert result.mistake == ""


def test_an_error_of_another_kind_is_no_crash_beyond_the_vocabulary():
    result = check.top_k(lambda z, k: 1 / 0)
    assert result.mistake == ""
    assert "ZeroDivisionError" in repr(result)


def test_the_counterexample_is_small():
    tie = check.top_k(exactly_k).counterexample
    assert tie["logits"].tolist() == [0.0, 0.0]
    assert tie["top_k"] == 1
    again = check.top_k_probs(WRONG["top_k_probs"][0][0])
    assert again.counterexample["logits"].numel() == 2


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
