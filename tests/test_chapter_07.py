"""What chapter 7 proves: which stages commute, and that a cache is an identity."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from model_zoo import FAMILIES, prompts, random_model

import lib

GRID = (
    torch.tensor(list(product(range(4), repeat=5))).double() * torch.tensor(2.0).log()
)


def removing(token):
    """A stage whose removed tokens depend on the history alone."""
    return lambda z: z.index_fill(-1, torch.tensor([token]), -torch.inf)


def stages(temperature, k, p):
    return {
        "E": removing(0),
        "B": removing(1),
        "T": lambda z: lib.apply_temperature(z, temperature),
        "K": lambda z: lib.apply_top_k(z, k),
        "P": lambda z: lib.apply_top_p(z, p),
    }


def after(chosen, names):
    """Probabilities after these stages; NaN in rows that were left nothing."""
    z = GRID
    for name in names:
        z = chosen[name](z)
    return torch.softmax(z, dim=-1)


# No sum of weights 1, 2, 4, 8, squared or not, has these shares of its total.
@pytest.mark.parametrize(
    ("temperature", "k", "p"), [(0.5, 2, 0.61), (2.0, 3, 0.73), (0.25, 1, 0.47)]
)
def test_the_matrix_of_stages_that_commute(temperature, k, p):
    chosen = stages(temperature, k, p)
    commute = set()
    for a, b in combinations(chosen, 2):
        left, right = after(chosen, a + b), after(chosen, b + a)
        if torch.allclose(left, right, rtol=0, atol=1e-12, equal_nan=True):
            commute.add(a + b)
    expected = {"EB", "ET", "BT", "TK"}
    # Top-p has nothing to do where top-k has left one class of equal tokens.
    assert expected <= commute <= expected | ({"KP"} if k == 1 else set())


@pytest.mark.parametrize(("k", "p"), product([1, 2, 3, 4], [0.1, 0.3, 0.61, 0.9]))
def test_top_k_before_top_p_never_keeps_more(k, p):
    chosen = stages(1.0, k, p)
    first_k, first_p = after(chosen, "KP") > 0, after(chosen, "PK") > 0
    assert not (first_k & ~first_p).any()


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"t5"}))
def test_a_cache_is_an_identity(family):
    """Logits, keys and values of a text fed at once and token by token."""
    model = random_model(family).double()
    try:
        ids, _ = prompts((14,))
        with torch.inference_mode():
            whole = model(ids, use_cache=True)
            cache, rows = None, []
            for token in ids.T:
                step = model(token[:, None], past_key_values=cache, use_cache=True)
                cache = step.past_key_values
                rows.append(step.logits)
        # Rotary angles are float32 even here, and the same in both.
        torch.testing.assert_close(
            torch.cat(rows, dim=1), whole.logits, rtol=0, atol=1e-9
        )
        layers = zip(cache.layers, whole.past_key_values.layers, strict=True)
        for one_by_one, at_once in layers:
            for part in ("keys", "values"):
                found, wanted = getattr(one_by_one, part), getattr(at_once, part)
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    finally:
        model.float()


def counted(module, size):
    """A list that a hook on the module fills with the sizes of what it is given."""
    seen = []
    hook = module.register_forward_hook(
        lambda module, inputs, output: seen.append(size(inputs[0], output))
    )
    return seen, hook


def test_the_ledger_of_the_generator():
    """10 + 200 tokens: 209 forwards, and one row of logits a step."""
    model, _ = lib.load("nano", device="cpu")
    fed, first = counted(model.get_input_embeddings(), lambda ids, _: ids.numel())
    rows, second = counted(model.lm_head, lambda _, out: out[..., 0].numel())
    ids = torch.arange(100, 110)[None]
    lib.generate(model, ids, max_new_tokens=200, eos_token_id=-1)
    first.remove()
    second.remove()
    assert sum(fed) == 10 + 200 - 1 == 209
    assert rows == [1] * 200


@pytest.mark.parametrize(
    ("changed", "step", "then", "now"),
    [
        ({"top_p": 0.5}, 0, (" there", 1), (",", 0)),
        ({"temperature": 2.0}, 3, (" boy", 2), (" family", 12)),
        ({"no_repeat_ngram_size": 0}, None, None, None),
    ],
)
def test_where_a_changed_setting_first_changes_the_trace(changed, step, then, now):
    """The answers under Play."""
    model, tokenizer = lib.load(device="cpu")
    start = tokenizer("<|endoftext|>Once upon a time", return_tensors="pt")
    settings = {
        "max_new_tokens": 16,
        "do_sample": True,
        "temperature": 1.1,
        "top_k": 40,
        "top_p": 0.9,
        "no_repeat_ngram_size": 2,
        "seed": 1,
    }
    first, second = (
        lib.trace(model, start["input_ids"], **settings | new).steps
        for new in ({}, changed)
    )
    parted = [a.token != b.token for a, b in zip(first, second, strict=True)]
    assert parted.index(True) == step if step is not None else not any(parted)
    if step is None:
        assert max(record.stages[0].mass for record in first) < 1e-3
        return
    found = [
        (tokenizer.decode([steps[step].token]), steps[step].rank)
        for steps in (first, second)
    ]
    assert found == [then, now]
    if now == (",", 0):
        assert second[step].probability == 1  # the nucleus is the comma alone
