"""The checkers of chapter 2: right functions pass, wrong ones are caught and named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lib
from lib import check


def top(z):
    return z.amax(-1, keepdim=True)


def temperature_in_numpy(logits, temperature):
    z = np.asarray(logits)
    with np.errstate(all="ignore"):
        return (z - z.max(axis=-1, keepdims=True)) / temperature


def temperature_in_loops(logits, temperature):
    if logits.ndim > 1:
        return [temperature_in_loops(row, temperature) for row in logits]
    best = max(logits.tolist())
    return [(x - best) / temperature for x in logits.tolist()]


def slope_of(p, z):
    """Var(z) under p, removed tokens left out."""
    z = z.masked_fill(z == -torch.inf, 0.0)
    return (p * (z - (p * z).sum(-1, keepdim=True)) ** 2).sum(-1)


def finite(z):
    return z.masked_fill(z == -torch.inf, 0.0)


def at(z, t):
    return F.softmax((z - top(z)) / t, -1)


def slope(z, t):
    return slope_of(at(z, t), z) / t**3


def slope_in_loops(logits, temperature):
    if logits.ndim > 1:
        return [slope_in_loops(row, temperature) for row in logits]
    z = [x for x in logits.double().tolist() if x > -math.inf]
    e = [math.exp((x - max(z)) / temperature) for x in z]
    p = [x / sum(e) for x in e]
    mean = sum(a * b for a, b in zip(p, z, strict=True))
    return sum(a * (b - mean) ** 2 for a, b in zip(p, z, strict=True)) / temperature**3


def slope_by_differences(z, t):
    h = 1e-4 * t

    def entropy(at):
        return lib.entropy(lib.apply_temperature(z.double(), at))

    return (entropy(t + h) - entropy(t - h)) / (2 * h)


def slope_by_autograd(z, t):
    t = torch.tensor(float(t), dtype=torch.float64, requires_grad=True)
    best = z.double() - top(z.double())
    y = torch.where(best > -torch.inf, best, -1e30) / t
    log_p = F.log_softmax(y, -1)
    h = -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
    rows = h.reshape(-1)
    grads = [torch.autograd.grad(r, t, retain_graph=True)[0] for r in rows]
    return torch.stack(grads).reshape(h.shape)


def slope_from_surprisals(z, t):
    """Var(-log p) / T, equation (2.9)."""
    log_p = lib.log_softmax(lib.apply_temperature(z.double(), t))
    return slope_of(log_p.exp(), log_p) / t


RIGHT = {
    "temperature": [
        lib.apply_temperature,
        temperature_in_numpy,
        temperature_in_loops,
        lambda z, t: (z - top(z)) / t,
        lambda z, t: (z - top(z)) / torch.tensor(t),
        lambda z, t: (z - top(z)).double() / t,
        lambda z, t: F.log_softmax(z, -1) / t,
        lambda z, t: F.log_softmax((z - top(z)) / t, -1),
        # z / T, where float64 is wide enough for what the bank holds
        lambda z, t: z.double() / t,
    ],
    "entropy_slope": [
        slope,
        slope_in_loops,
        slope_by_autograd,
        slope_from_surprisals,
        lambda z, t: slope(z.double(), t).to(z.dtype),
        # E[z²] - E[z]², where float64 is wide enough for what the bank holds
        lambda z, t: (
            (
                (at(z.double(), t) * finite(z).double() ** 2).sum(-1)
                - (at(z.double(), t) * finite(z).double()).sum(-1) ** 2
            )
            / t**3
        ),
    ],
}


def in_place(z, t):
    z -= top(z)
    return z.div_(t)


WRONG = {
    "temperature": [
        (lambda z, t: z / t, "z / T overflows"),
        (lambda z, t: z / torch.tensor(t), "z / T overflows"),
        (lambda z, t: z / max(t, 1e-5), "held above a smallest value"),
        (lambda z, t: (z - z.max()) / t, "one maximum for the whole batch"),
        (lambda z, t: (z - z.mean(-1, keepdim=True)) / t, "the mean is subtracted"),
        (lambda z, t: z * t, "multiplied by T"),
        (lambda z, t: (z - top(z)) * t, "multiplied by T"),
        (lambda z, t: z - t, "no effect"),
        (lambda z, t: z + t, "no effect"),
        (lambda z, t: z.clone(), "no effect"),
        (lambda z, t: (z - top(z)) / t**2, "the square of T"),
        (lambda z, t: (z - top(z)) / math.sqrt(t), "the square root of T"),
        (at, "probabilities returned"),
        (lambda z, t: F.softmax(z / t, -1), "probabilities returned"),
        (lambda z, t: F.softmax(z, -1) / t, "probabilities divided by T"),
        (lambda z, t: z ** (1 / t), "the power 1/T of the logits"),
        (lambda z, t: z // t, "rounded down"),
        (lambda z, t: -(z - top(z)) / t, "the sign is reversed"),
        (lambda z, t: (z - top(z)) / min(t, 1), "only cooling works"),
        (lambda z, t: (z - top(z)) / max(t, 1.0), "only heating works"),
        (lambda z, t: ((z - top(z)) / t).half(), "less precise than the input"),
        (in_place, "changes its argument in place"),
    ],
    "entropy_slope": [
        (
            lambda z, t: (
                ((p := at(z, t)) * (z - (p * z).sum(-1, keepdim=True)) ** 2).sum(-1)
                / t**3
            ),
            "a removed token makes NaN",
        ),
        (lambda z, t: z.var(-1) / t**3, "not weighted"),
        (lambda z, t: z.var(-1, correction=0) / t**3, "not weighted"),
        (lambda z, t: slope_of(F.softmax(z, -1), z) / t**3, "of temperature 1"),
        (lambda z, t: t * slope(z, t), "the slope against log T"),
        (lambda z, t: -(t**2) * slope(z, t), "the slope against 1/T"),
        (lambda z, t: t**2 * slope(z, t), "once, not three times"),
        (lambda z, t: t**3 * slope(z, t), "the division by T³ is missing"),
        (lambda z, t: -slope(z, t), "the sign is reversed"),
        (lambda z, t: -t * slope(z, t), "the slope of the mean score"),
        (
            lambda z, t: slope_of(at(z, t), z).sqrt() / t**3,
            "the standard deviation",
        ),
        (
            lambda z, t: (
                (at(z, t) * z.masked_fill(z == -torch.inf, 0) ** 2).sum(-1) / t**3
            ),
            "the mean is not subtracted",
        ),
        (
            lambda z, t: (
                (
                    (at(z, t) * finite(z) ** 2).sum(-1)
                    - (at(z, t) * finite(z)).sum(-1) ** 2
                )
                / t**3
            ),
            "a small difference of large numbers",
        ),
        (
            lambda z, t: (
                (
                    (F.softmax(z / t, -1) * z.nan_to_num(neginf=0.0).square()).sum(-1)
                    - (F.softmax(z / t, -1) * z.nan_to_num(neginf=0.0)).sum(-1).square()
                )
                / t**3
            ),
            "a small difference of large numbers",
        ),
        (lambda z, t: slope(z, t) / math.log(2), "bits in place of nats"),
        (lambda z, t: lib.entropy((z - top(z)) / t), "the entropy itself"),
        (lambda z, t: slope(z, t).sum(), "one number for the whole batch"),
        (lambda z, t: slope(z, t).unsqueeze(-1), "the last axis is kept"),
        (
            lambda z, t: (
                (
                    (p := F.softmax(z / t, 0)) * (z - (p * z).sum(0, keepdim=True)) ** 2
                ).sum(0)
                / t**3
            ),
            "wrong axis",
        ),
        (lambda z, t: slope(z.double(), t).float(), "less precise than the input"),
    ],
}


def bank(functions):
    return [(name, i) for name, those in functions.items() for i in range(len(those))]


@pytest.mark.parametrize(("name", "number"), bank(RIGHT))
def test_right_functions_pass_in_any_style(name, number):
    result = getattr(check, name)(RIGHT[name][number])
    assert result, result


@pytest.mark.parametrize(("name", "number"), bank(WRONG))
def test_wrong_functions_are_caught_and_named(name, number):
    function, mistake = WRONG[name][number]
    result = getattr(check, name)(function)
    assert not result
    assert mistake in f"{result.mistake} {result.advice}", result
    z, t = result.counterexample.values()
    if name == "temperature":
        right = lib.softmax(lib.apply_temperature(z, t).double())
        shown = lib.softmax(result.expected.double())
        assert torch.allclose(right, shown, atol=1e-6)
    else:
        right = slope_by_differences(z, t)
        assert torch.allclose(right, result.expected.double(), rtol=2e-2, atol=1e-3)
    prose = repr(result).splitlines()
    assert all(len(line) <= 76 for line in prose if not line.startswith("  "))


def test_a_common_shift_does_not_count():
    for shift in (-3.0, 100.0):
        assert check.temperature(lambda z, t, c=shift: (z - top(z)) / t + c)


def test_results_show_the_best_token_at_0():
    result = check.temperature(lambda z, t: z * t + 7)
    assert result.expected.amax() == 0
    assert result.got.amax() == 0
