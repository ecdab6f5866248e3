"""Checkers of chapter 8: wrong races and cuts caught and named, right ones passed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import check


def rows(function):
    """A function of one row, applied to every row by a plain loop."""

    def looped(z, *others):
        if z.ndim > 1:
            return [
                looped(z[i], *(x[i] if torch.is_tensor(x) else x for x in others))
                for i in range(len(z))
            ]
        return function(
            z.tolist(), *(x.tolist() if torch.is_tensor(x) else x for x in others)
        )

    return looped


@rows
def race_in_loops(probs, times):
    arrival = [t / p if p else np.inf for p, t in zip(probs, times, strict=True)]
    return arrival.index(min(arrival))


def race_by_halves(p, e):
    """A tournament: the winners of two halves race against each other."""
    if p.shape[-1] == 1:
        return torch.zeros(p.shape[:-1], dtype=torch.long)
    half = p.shape[-1] // 2
    left = race_by_halves(p[..., :half], e[..., :half])[..., None]
    right = race_by_halves(p[..., half:], e[..., half:])[..., None] + half
    arrival = e / p
    wins = arrival.gather(-1, left) <= arrival.gather(-1, right)
    return torch.where(wins, left, right)[..., 0]


@rows
def cut_in_loops(z, count, size):
    largest = [max(z[i : i + size]) for i in range(0, len(z), size)]
    return sorted(largest, reverse=True)[count - 1]


def cut_in_chunks(z, count, size):
    largest = torch.stack([part.amax(-1) for part in z.split(size, dim=-1)], dim=-1)
    return largest.sort(-1, descending=True).values[..., count - 1]


def maxima(z, size, fill=-torch.inf):
    padded = F.pad(z, (0, -z.shape[-1] % size), value=fill)
    return padded.unflatten(-1, (-1, size)).amax(-1)


RIGHT = {
    "race": [
        lambda p, e: (e / p).argmin(-1),
        lambda p, e: (p / e).argmax(-1),
        lambda p, e: (p.log() - e.log()).argmax(-1),
        lambda p, e: (p.double() / e).max(-1).indices,
        lambda p, e: np.argmin(e.numpy() / p.numpy(), axis=-1),
        lambda p, e: (e.float() / p).argmin(-1),
        lambda p, e: (p.log() - e.float().log()).argmax(-1),
        race_in_loops,
        race_by_halves,
    ],
    "block_cut": [
        cut_in_loops,
        cut_in_chunks,
        lambda z, count, size: maxima(z, size).topk(count).values[..., -1],
        lambda z, count, size: (
            maxima(z, size)
            .kthvalue(maxima(z, size).shape[-1] - count + 1, dim=-1)
            .values
        ),
    ],
}

WRONG = {
    "race": [
        (lambda p, e: (p * e).argmin(-1), "time multiplied"),
        (lambda p, e: (p * e).argmax(-1), "the largest product"),
        (lambda p, e: (e / p).argmax(-1), "the last to arrive"),
        (lambda p, e: (p / e).argmin(-1), "the last to arrive"),
        (lambda p, e: (p.log() - (-e.log()).log()).argmax(-1), "Gumbel's logarithms"),
        (lambda p, e: (p.log() - e).argmax(-1), "subtracted from the logit"),
        (lambda p, e: (p - e).argmax(-1), "subtracted from the probability"),
        (lambda p, e: e.argmin(-1), "probabilities that weigh nothing"),
        (lambda p, e: p.argmax(-1), "the times are not used"),
        (lambda p, e: (e[..., -1:] / p).argmin(-1), "the times are not used"),
        (lambda p, e: (e / p).argmin(-1, keepdim=True), "the last axis is kept"),
        (lambda p, e: (e / p).argmin(), "one token for the whole batch"),
        (lambda p, e: (e / p).argmin(0), "wrong axis"),
        *(
            (lambda p, e, race=race, eps=eps: race(p, e, eps), "to the probability")
            for eps in (1e-3, 1e-6, 1e-9, 1e-12)
            for race in (
                lambda p, e, eps: (e / (p + eps)).argmin(-1),
                lambda p, e, eps: (e / p.clamp_min(eps)).argmin(-1),
                lambda p, e, eps: ((p + eps).log() - e.log()).argmax(-1),
            )
        ),
        (lambda p, e: (p / (e + 1e-6)).argmax(-1), "added to the time"),
    ],
    "block_cut": [
        (
            lambda z, count, size: (
                z.unflatten(-1, (-1, size)).amax(-1).topk(count).values[..., -1]
            ),
            "a last block that is not full",
        ),
        (
            lambda z, count, size: maxima(z, size, 0.0).topk(count).values[..., -1],
            "filled up with 0",
        ),
        (
            lambda z, count, size: (
                z[..., : z.shape[-1] // size * size]
                .unflatten(-1, (-1, size))
                .amax(-1)
                .topk(count)
                .values[..., -1]
            ),
            "the last block is left out",
        ),
        (lambda z, count, size: z.topk(count).values[..., -1], "the k-th largest tok"),
        (
            lambda z, count, size: (
                maxima(z, size).sort(-1, descending=True).values[..., count]
            ),
            "counting from 0",
        ),
        (lambda z, count, size: z.amax(-1), "the largest maximum"),
        (
            lambda z, count, size: maxima(z, size).sort(-1).values[..., count - 1],
            "the k-th smallest",
        ),
        (
            lambda z, count, size: (
                F.pad(z, (0, -z.shape[-1] % size), value=-torch.inf)
                .unflatten(-1, (-1, size))
                .amax(-2)
                .topk(count)
                .values[..., -1]
            ),
            "the maximum over the blocks",
        ),
        (
            lambda z, count, size: maxima(z, size).topk(count).values,
            "of all k blocks",
        ),
        (
            lambda z, count, size: maxima(z, size).flatten().topk(count).values[-1],
            "one cut for the whole batch",
        ),
    ],
}


def pairs(bank):
    return [(name, case) for name, cases in bank.items() for case in cases]


@pytest.mark.parametrize(("name", "function"), pairs(RIGHT))
def test_a_right_function_passes_however_it_is_written(name, function):
    result = getattr(check, name)(function)
    assert result, repr(result)


@pytest.mark.parametrize(("name", "case"), pairs(WRONG))
def test_a_mistake_is_caught_and_named(name, case):
    function, mistake = case
    result = getattr(check, name)(function)
    assert not result
    assert mistake in result.mistake, repr(result)


def test_the_counterexample_to_a_race_is_real_and_small():
    result = check.race(lambda p, e: (p * e).argmin(-1))
    given = result.counterexample
    assert given["probs"].numel() <= 3
    right = (given["times"] / given["probs"]).argmin(-1)
    assert torch.equal(result.expected, right)
    assert not torch.equal(result.got, right)


def test_the_inputs_of_the_race_try_removed_tokens_and_batches():
    seen = []

    def watching(probs, times):
        seen.append((probs, times))
        return (times / probs).argmin(-1)

    assert check.race(watching)
    assert any((probs == 0).any() for probs, _ in seen)
    assert any((times[probs == 0] < 1e-9).any() for probs, times in seen)
    assert any(((probs > 0) & (probs < 1e-5)).any() for probs, _ in seen)
    assert any(probs.ndim == 3 for probs, _ in seen)
    assert all((times > 0).all() for _, times in seen)
    assert len(seen) > 30


@pytest.mark.parametrize("case", WRONG["race"])
def test_the_counterexample_to_a_race_is_a_distribution(case):
    probs = check.race(case[0]).counterexample["probs"]
    assert torch.allclose(probs.sum(-1), torch.ones(probs.shape[:-1]), atol=1e-4)
