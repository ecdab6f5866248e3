"""Metrics by hand, and against the loss that ``transformers`` computes."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import CONTEXT, FAMILIES, VOCAB, Scripted, prompts, random_model

import lib

CAUSAL = pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"t5"}))


@CAUSAL
def test_log_probs_are_those_of_the_next_token(family):
    """One prefix at a time, without a cache: the probability of what follows it."""
    model = random_model(family)
    ids, _ = prompts((9, 9))
    found = lib.log_probs(model, ids)
    assert found.shape == (2, 8)
    assert found.dtype == torch.float32
    for t in range(8):
        with torch.no_grad():
            p = model(ids[:, : t + 1]).logits[:, -1].softmax(-1)
        wanted = p.gather(-1, ids[:, t + 1, None])[:, 0].log()
        torch.testing.assert_close(found[:, t], wanted, rtol=1e-4, atol=1e-4)


@CAUSAL
def test_perplexity_is_the_exponential_of_their_loss(family):
    model = random_model(family)
    ids, _ = prompts((9,))
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    torch.testing.assert_close(lib.perplexity(model, ids)[0], loss.exp())


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    model = Scripted(lambda ids: torch.zeros(len(ids), VOCAB))
    model.forward = lambda ids: type(
        "Output", (), {"logits": torch.zeros(*ids.shape, VOCAB)}
    )
    ids, _ = prompts((9, 9))
    torch.testing.assert_close(
        lib.perplexity(model, ids), torch.full((2,), 1.0 * VOCAB)
    )
    torch.testing.assert_close(
        lib.log_probs(model, ids), torch.full((2, 8), -math.log(VOCAB))
    )


def test_the_embedded_model_knows_a_story_from_a_shuffled_one():
    model, tokenizer = lib.load("tiny", device="cpu")
    text = "Once upon a time, there was a little girl named Lily. She liked to play."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator())]
    assert lib.perplexity(model, ids) * 5 < lib.perplexity(model, shuffled)


@pytest.mark.parametrize(
    ("tokens", "n", "distinct"),
    [
        ([1, 2, 3, 4], 1, 1.0),
        ([1, 1, 1, 1], 1, 1 / 4),
        ([1, 2, 1, 2, 1], 2, 2 / 4),  # 12 21 12 21
        ([1, 2, 1, 2, 1], 3, 2 / 3),  # 121 212 121
        ([1, 2, 1, 2, 1], 5, 1.0),
        ([7], 1, 1.0),
    ],
)
def test_distinct_n_and_rep_n_by_hand(tokens, n, distinct):
    for kind in (list, tuple, torch.tensor):
        assert lib.distinct_n(kind(tokens), n) == pytest.approx(distinct)
        assert lib.rep_n(kind(tokens), n) == pytest.approx(1 - distinct)


MODEL = random_model("llama")
IDS, _ = prompts((9,))
NEVER = {
    "a list": (TypeError, r"input_ids must be an integer tensor", IDS.tolist()),
    "floats": (TypeError, r"input_ids must hold integer", IDS.float()),
    "one axis": (ValueError, r"input_ids .*\(batch, length\).*\[None, :\]", IDS[0]),
    "no row": (ValueError, r"input_ids holds no prompt", IDS[:0]),
    "one token": (ValueError, r"length 1; .*at least 2 and at most 64", IDS[:, :1]),
    "too long": (ValueError, rf"length {CONTEXT + 9}; .*most {CONTEXT}, the model's",
                 IDS.repeat(1, 9)[:, : CONTEXT + 9]),
    "no such id": (ValueError, r"the id 61; ids must be from 0 to 60", IDS * 0 + 61),
    "elsewhere": (ValueError, r"on meta, the model on cpu", IDS.to("meta")),
}  # fmt: skip


@pytest.mark.parametrize("function", [lib.log_probs, lib.perplexity])
@pytest.mark.parametrize("case", NEVER)
def test_bad_input_ids(function, case):
    error, message, ids = NEVER[case]
    with pytest.raises(error, match=message):
        function(MODEL, ids)


@pytest.mark.parametrize("function", [lib.log_probs, lib.perplexity])
def test_bad_models(function):
    with pytest.raises(TypeError, match=r"model must be .*got NoneType"):
        function(None, IDS)
    with pytest.raises(ValueError, match=r"model must be a causal .*encoder-decoder"):
        function(random_model("t5"), IDS)


def test_a_model_that_has_overflowed_is_refused():
    model = FAMILIES["llama"]()
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits contain NaN"):
        lib.log_probs(model, IDS)


@pytest.mark.parametrize("function", [lib.distinct_n, lib.rep_n])
@pytest.mark.parametrize(
    ("tokens", "n", "error", "message"),
    [
        ([1, 2], 0, ValueError, r"n=0 must be an integer >= 1"),
        ([1, 2], -1, ValueError, r"n=-1 must be an integer >= 1"),
        ([1, 2], 1.0, TypeError, r"n=1.0 must be an integer >= 1"),
        ([1, 2], True, TypeError, r"n=True must be an integer >= 1"),
        ([1, 2], 3, ValueError, r"tokens has length 2; it must be at least n=3"),
        ([], 1, ValueError, r"tokens has length 0; it must be at least n=1"),
        ("ab", 1, TypeError, r"tokens='ab' must be a sequence"),
        ([1, 2.5], 1, TypeError, r"tokens=2.5 must be an integer"),
        (5, 1, TypeError, r"tokens=5 must be a sequence"),
        (torch.ones(2, 2).long(), 1, ValueError, r"shape \(2, 2\).*one row at a time"),
    ],
)
def test_bad_input_of_distinct_n(function, tokens, n, error, message):
    with pytest.raises(error, match=message):
        function(tokens, n)
