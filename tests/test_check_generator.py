"""Checkers of chapter 7: right generators pass in any style, wrong ones are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lib
from lib import check
from lib.check import _generator as bank
from lib.forward import CachedForward, positions


def places(mask):
    return (mask.cumsum(-1) - 1).clamp_min(0)


# ── Positions ───────────────────────────────────────────────────────────────────────


def in_loops(mask):
    found = []
    for row in mask.tolist():
        count, line = -1, []
        for bit in row:
            count += bool(bit)
            line.append(max(count, 0))
        found.append(line)
    return found


RIGHT_POSITIONS = [
    positions,
    places,
    in_loops,
    lambda m: np.maximum(np.cumsum(m.numpy(), axis=-1) - 1, 0),
    lambda m: (torch.arange(m.shape[-1]) - (m == 0).sum(-1, keepdim=True)).clamp_min(0),
    lambda m: (m.long().cumsum(-1) - 1) * m.long(),
]
WRONG_POSITIONS = [
    (lambda m: torch.arange(m.shape[1]).expand_as(m), "the columns are counted"),
    (lambda m: torch.arange(m.shape[1]).repeat(len(m), 1), "the columns are counted"),
    (lambda m: m.cumsum(-1), "counted from 1"),
    (lambda m: m.cumsum(-1) - 1, "padding has the position -1"),
    (lambda m: (m.cumsum(-1) - 1).masked_fill(m == 0, 1), "the position 1"),
    (lambda m: torch.arange(m.shape[1]) * m, "set to 0 there"),
    (lambda m: m, "the mask itself"),
    (lambda m: places(m).amax(-1, keepdim=True) * m - places(m) * m, "from the end"),
    (lambda m: places(m[0]).repeat(len(m), 1), "one count for all rows"),
    (lambda m: (m.cumsum(0) - 1).clamp_min(0), "down the batch"),
    (lambda m: places(m.flatten()).view_as(m), "over the whole batch"),
]


@pytest.mark.parametrize("number", range(len(RIGHT_POSITIONS)))
def test_right_positions_pass(number):
    result = check.positions(RIGHT_POSITIONS[number])
    assert result, result


@pytest.mark.parametrize("number", range(len(WRONG_POSITIONS)))
def test_wrong_positions_are_named(number):
    function, mistake = WRONG_POSITIONS[number]
    result = check.positions(function)
    assert not result
    assert mistake in result.mistake, result
    (mask,) = result.counterexample.values()
    assert torch.equal(positions(mask), result.expected)


# ── The generator ───────────────────────────────────────────────────────────────────


def by_lib(model, ids, mask, new, eos, pad):
    return lib.generate(
        model,
        ids,
        attention_mask=mask,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def by_transformers(model, ids, mask, new, eos, pad):
    return model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=False,
    )


@torch.no_grad()
def with_a_cache(model, ids, mask, new, eos, pad):
    ended = torch.zeros(len(ids), dtype=torch.bool)
    cache, fresh = None, ids
    for _ in range(new):
        out = model(
            fresh,
            attention_mask=mask,
            position_ids=places(mask)[:, -fresh.shape[1] :],
            past_key_values=cache,
        )
        cache = out.past_key_values
        token = out.logits[:, -1].argmax(-1).masked_fill(ended, pad)
        ended |= token == eos
        fresh = token[:, None]
        ids = torch.cat([ids, fresh], dim=1)
        mask = torch.cat([mask, torch.ones_like(fresh)], dim=1)
        if ended.all():
            break
    return ids


def row_by_row(model, ids, mask, new, eos, pad):
    """Each text alone, without padding, without a cache, and put together again."""
    rows = []
    for row, real in zip(ids, mask, strict=True):
        text = row[real.bool()].tolist()
        for _ in range(new):
            with torch.no_grad():
                token = int(model(torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)
            if token == eos:
                break
        rows.append(row.tolist() + text[int(real.sum()) :])
    width = max(map(len, rows))
    return [row + [pad] * (width - len(row)) for row in rows]


@pytest.mark.parametrize(
    "function", [by_lib, by_transformers, with_a_cache, row_by_row, bank._loop()]
)
def test_right_generators_pass(function):
    result = check.generate(function)
    assert result, result


def item(model, ids, mask, new, eos, pad):
    for _ in range(new):
        with torch.no_grad():
            token = model(ids, attention_mask=mask).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
        if token.item() == eos:
            break
    return ids


def truth(model, ids, mask, new, eos, pad):
    for _ in range(new):
        with torch.no_grad():
            token = model(ids, attention_mask=mask).logits[:, -1].argmax(-1)
        if token == eos:
            break
        ids = torch.cat([ids, token[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
    return ids


def cached(model, ids, mask, new, eos, pad, *, first=None, later=None, one=True):
    """The loop with a cache; ``first`` and ``later`` say which positions are told."""
    ended = torch.zeros(len(ids), dtype=torch.bool)
    cache, fresh = None, ids
    with torch.no_grad():
        for _ in range(new):
            told = (first if cache is None else later) or places
            at = told(mask)
            out = model(
                fresh,
                attention_mask=mask,
                position_ids=None if at is None else at[:, -fresh.shape[1] :],
                past_key_values=cache,
            )
            cache = out.past_key_values
            token = out.logits[:, -1].argmax(-1).masked_fill(ended, pad)
            ended |= token == eos
            fresh = token[:, None]
            ids = torch.cat([ids, fresh], dim=1)
            mask = torch.cat([mask, torch.full_like(fresh, int(one))], dim=1)
            if ended.all():
                break
    return ids


def ten_lines(model, ids, mask, new, eos, pad):
    for _ in range(new):
        with torch.no_grad():
            token = model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
        if (token == eos).all():
            break
    return ids


WRONG = [
    (ten_lines, "a loop for one prompt"),
    (item, "asked for one number"),
    (truth, "asked for one number"),
    (lambda *a: cached(*a, first=lambda m: None, later=lambda m: None), "no position"),
    (lambda *a: cached(*a, one=False), "new tokens are masked"),
    (bank._loop(shown=torch.ones_like), "the mask is not used"),
    (bank._loop(shown=torch.ones_like, place=lambda m: None), "neither mask nor"),
    (bank._loop(window=1), "without the cache"),
    (bank._loop(read=lambda z, m: z[:, 0]), "first column"),
    (
        bank._loop(read=lambda z, m: z[range(len(m)), m.sum(1) - 1]),
        "as with right padding",
    ),
    (bank._loop(steps=lambda new, length: new - length), "counts the prompt"),
    (bank._loop(steps=lambda new, length: new - 1), "one token too few"),
    (bank._loop(steps=lambda new, length: new + 1), "one token too many"),
    (lambda *a: by_lib(*a)[:, a[1].shape[1] :], "the prompt is left out"),
    (lambda *a: by_lib(*a[:4], 12, a[5]), "is not obeyed"),
    (lambda *a: by_lib(*a[:5], a[4]), "not with pad_token_id"),
    (bank._loop(enough=torch.any), "the first row that ends"),
    (bank._loop(fill=lambda token, *_: token), "goes on"),
    (bank._loop(ended=lambda before, token, ids, eos: token == eos), "back to life"),
    (
        bank._loop(ended=lambda before, token, ids, eos: (ids == eos).any(1)),
        "in the prompt ends the row",
    ),
    (
        lambda *a: torch.cat(
            [a[1], (n := by_lib(*a)[:, a[1].shape[1] :]).where(n != a[4], a[5])], 1
        ),
        "is overwritten",
    ),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_generators_are_caught_and_named(number):
    function, mistake = WRONG[number]
    result = check.generate(function)
    assert not result
    assert mistake in result.mistake, result
    assert torch.equal(bank._right(*result.counterexample.values()), result.expected)


def test_every_known_mistake_is_in_the_bank():
    for exercise, wrong in (
        (bank._GENERATE, WRONG),
        (bank._POSITIONS, WRONG_POSITIONS),
    ):
        for known in exercise.mistakes:
            assert any(part in known.name for _, part in wrong), known.name


def test_no_answer_hangs_by_a_rounding_error():
    """At every step the best token leads by far more than sums in another order."""
    for model, ids, mask, new, eos, pad in bank._requests():
        text = bank._right(model, ids, mask, new, eos, pad)
        with torch.no_grad():
            forward = CachedForward(model, ids, mask)
            for length in range(ids.shape[1], text.shape[1]):
                real = torch.nn.functional.pad(
                    mask, (0, length - ids.shape[1]), value=1
                )
                best = forward.logits(text[:, :length], real).topk(2).values
                assert (best[:, 0] - best[:, 1]).min() > 1e-3


def test_a_position_wrong_after_the_prompt_alone_is_caught():
    def columns(mask):
        return torch.arange(mask.shape[1]).expand_as(mask)

    result = check.generate(lambda *a: cached(*a, later=columns))
    assert not result


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda *_: None, "return statement"),
        (lambda *_: "text", "type str"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda model: model, "TypeError"),
        (None, "not a function"),
    ],
)
def test_whatever_the_function_does_the_checker_answers(function, said):
    result = check.generate(function)
    assert not result
    assert said in repr(result)


def test_results_fit_a_narrow_page():
    for function, _ in WRONG:
        for line in repr(check.generate(function)).splitlines():
            assert len(line) <= 76 or line.startswith("  ")
