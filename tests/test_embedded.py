"""The embedded models without transformers write what lib.load's write."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lib
from lib import embedded
from lib.forward import context_length
from lib.gpt2 import GPT2Forward, supports
from lib.request import prepare

NAMES = pytest.mark.parametrize("name", ["tiny", "nano"])
TEXTS = [
    "Once upon a time",
    "",
    " two  spaces\n\nand lines ",
    "<|endoftext|>Tom<|endoftext|>",
    "日本 😀 ﷽ é",
    "don't!? 3.14",
]


@pytest.fixture(scope="module")
def pairs():
    """Each model both ways: (plain, its tokenizer, full, its tokenizer)."""
    return {
        name: (*embedded.load(name), *lib.load(name, device="cpu"))
        for name in ("tiny", "nano")
    }


@NAMES
def test_the_weights_stand_in_the_same_places(name, pairs):
    plain, _, full, _ = pairs[name]
    found, wanted = plain.state_dict(), full.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not plain.training
    assert not any(p.requires_grad for p in plain.parameters())


@NAMES
def test_a_request_without_a_length_goes_to_the_end_of_the_context(name, pairs):
    plain, _, full, _ = pairs[name]
    assert context_length(plain.config) == context_length(full.config) == 512
    ids = torch.tensor([[5, 6]])
    asked = [prepare(model, ids).max_new_tokens for model in (plain, full)]
    assert asked == [510, 510]
    with pytest.raises(ValueError, match=r"max_new_tokens=511 .* from 1 to 510"):
        prepare(plain, ids, max_new_tokens=511)


@NAMES
def test_logits_are_equal_bit_for_bit(name, pairs):
    plain, _, full, tokenizer = pairs[name]
    ids = torch.tensor([tokenizer("Once upon a time, there was")["input_ids"]])
    assert supports(plain)
    with torch.inference_mode():
        rows = [GPT2Forward(m, None, 1, 64).logits(ids) for m in (plain, full)]
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
        {"do_sample": True, "top_k": 20, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 60},
    ],
)
@NAMES
def test_texts_are_equal(name, how, pairs):
    plain, ids_of, full, tokenizer = pairs[name]
    for seed, prompt in enumerate(["<|endoftext|>Once", "Lily saw a 🐸 and"]):
        settings = {"max_new_tokens": 60, "seed": seed, **how}
        found = "".join(lib.stream_text(plain, ids_of, prompt, **settings))
        assert found == "".join(lib.stream_text(full, tokenizer, prompt, **settings))


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_the_same_ids_and_text(text, pairs):
    _, plain, _, full = pairs["tiny"]
    same_both_ways(plain, full, text)


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_tokenizer_gives_the_same_on_any_text(text, pairs):
    _, plain, _, full = pairs["tiny"]
    same_both_ways(plain, full, text)


def same_both_ways(plain, full, text):
    ids = full(text)["input_ids"]
    assert plain(text)["input_ids"] == ids
    for skip in (True, False):
        how = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": False}
        assert plain.decode(ids, **how) == full.decode(ids, **how)


def test_the_command_line_writes_without_transformers():
    code = (
        "import sys; from lib.__main__ import main; "
        "main(['Once', '--max-new-tokens', '3', '--seed', '1', '--device', 'cpu']); "
        "print([m for m in ('transformers', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
