# ruff: noqa: E501 (a table is read by its lines)
"""Bad input: parameter x class, each cell with its exception and what it must say.

Every message names the parameter, the value that was given and what is allowed; where
there is a likely intent, it says how to do that.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_zoo import CONTEXT, VOCAB, Scripted, one_hot, prompts, random_model

import lib

NAN, INF = math.nan, math.inf
IDS, MASK = prompts((5, 9))
LONG = torch.ones(1, CONTEXT, dtype=torch.long)
META = torch.ones(2, 9, dtype=torch.long, device="meta")


def counting(ids):
    return one_hot((ids[:, -1] + 1) % VOCAB)


@pytest.fixture(scope="module")
def nano():
    return lib.load("nano", device="cpu")


def ids_with(value):
    ids = IDS.clone()
    ids[1, 3] = value
    return ids


def mask_with(row, *bits):
    mask = torch.ones_like(IDS)
    mask[row, : len(bits)] = torch.tensor(bits)
    return mask


S = {"do_sample": True}
V, T, E = ValueError, TypeError, lib.EmptySupportError
LAST = VOCAB - 1

# parameter: {class: (arguments, exception, what the message must match)}
MATRIX = {
    "input_ids": {
        "list": ({"input_ids": [[1, 2]]}, T, r"input_ids must be an integer tensor of shape \(batch, length\), got list"),
        "tokenizer output": ({"input_ids": {"input_ids": IDS}}, T, r"input_ids must be .* got dict"),
        "none": ({"input_ids": None}, T, r"input_ids must be .* got NoneType"),
        "str": ({"input_ids": "Once"}, T, r"input_ids must be .* got str"),
        "float": ({"input_ids": IDS.float()}, T, r"input_ids must hold integer token ids, got dtype torch.float32"),
        "bool": ({"input_ids": MASK.bool()}, T, r"input_ids must hold integer .* torch.bool"),
        "complex": ({"input_ids": IDS.to(torch.complex64)}, T, r"input_ids must hold integer .*complex"),
        "one axis": ({"input_ids": IDS[0]}, V, r"input_ids must have shape \(batch, length\), got \(9,\); add the batch axis with \[None, :\]"),
        "three axes": ({"input_ids": IDS[None]}, V, r"input_ids must have shape \(batch, length\), got \(1, 2, 9\)"),
        "scalar": ({"input_ids": IDS[0, 0]}, V, r"input_ids must have shape .* got \(\)"),
        "empty batch": ({"input_ids": IDS[:0]}, V, r"input_ids holds no prompt: its shape is \(0, 9\), and its batch must be >= 1"),
        "empty prompt": ({"input_ids": IDS[:, :0]}, V, r"input_ids has length 0; it must hold at least one token: .*bos_token_id"),
        "negative id": ({"input_ids": ids_with(-100)}, V, r"input_ids holds the id -100; ids must be from 0 to 60 .*tokenizer"),
        "id too large": ({"input_ids": ids_with(VOCAB)}, V, r"input_ids holds the id 61; ids must be from 0 to 60 .*tokenizer"),
        "wrong device": ({"input_ids": META}, V, r"input_ids is on meta, the model on cpu; .*input_ids.to\('cpu'\)"),
        "context full": ({"input_ids": LONG}, V, r"prompt has 64 tokens .* context of 64: allowed are at most 63"),
    },
    "attention_mask": {
        "list": ({"attention_mask": MASK.tolist()}, T, r"attention_mask must be an integer or bool tensor of 0 and 1, got list"),
        "float": ({"attention_mask": MASK.float()}, T, r"attention_mask must be an integer or bool .* got a torch.float32"),
        "wrong shape": ({"attention_mask": MASK[:, 1:]}, V, r"attention_mask has shape \(2, 8\); it must be that of input_ids, \(2, 9\)"),
        "one axis": ({"attention_mask": MASK[0]}, V, r"attention_mask has shape \(9,\); it must be"),
        "wrong device": ({"attention_mask": META}, V, r"attention_mask is on meta, input_ids on cpu; .*attention_mask.to\('cpu'\)"),
        "two": ({"attention_mask": MASK * 2}, V, r"attention_mask holds 2; it must be 0 \(padding\) or 1"),
        "negative": ({"attention_mask": -MASK}, V, r"attention_mask holds -1; it must be 0"),
        "all masked": ({"attention_mask": mask_with(1, *[0] * 9)}, V, r"attention_mask masks the whole of row 1; .*at least one token must be 1"),
        "right padding": ({"attention_mask": MASK.flip(1)}, V, r"attention_mask of row 0 has a 0 after a 1; padding must be on the left: .*padding_side = 'left'"),
        "hole": ({"attention_mask": mask_with(1, 0, 1, 0)}, V, r"attention_mask of row 1 has a 0 after a 1"),
    },
    "max_new_tokens": {
        "zero": ({"max_new_tokens": 0}, V, r"max_new_tokens=0 must be an integer >= 1"),
        "negative": ({"max_new_tokens": -3}, V, r"max_new_tokens=-3 must be an integer >= 1"),
        "float": ({"max_new_tokens": 5.0}, T, r"max_new_tokens=5.0 must be an integer >= 1"),
        "nan": ({"max_new_tokens": NAN}, T, r"max_new_tokens=nan must be an integer >= 1"),
        "infinite": ({"max_new_tokens": INF}, T, r"max_new_tokens=inf must be an integer >= 1"),
        "bool": ({"max_new_tokens": True}, T, r"max_new_tokens=True must be an integer >= 1"),
        "str": ({"max_new_tokens": "5"}, T, r"max_new_tokens='5' must be an integer >= 1"),
        "too large": ({"max_new_tokens": 56}, V, r"max_new_tokens=56 must be an integer from 1 to 55: the prompt has 9 tokens and the model a context of 64"),
        "beside max_length": ({"max_new_tokens": 5, "max_length": 20}, V, r"max_new_tokens=5 and max_length=20: only one .*max_length counts the prompt"),
    },
    "max_length": {
        "zero": ({"max_new_tokens": None, "max_length": 0}, V, r"max_length=0 must be an integer >= 1"),
        "negative": ({"max_new_tokens": None, "max_length": -1}, V, r"max_length=-1 must be an integer >= 1"),
        "float": ({"max_new_tokens": None, "max_length": 20.5}, T, r"max_length=20.5 must be an integer"),
        "bool": ({"max_new_tokens": None, "max_length": True}, T, r"max_length=True must be an integer"),
        "str": ({"max_new_tokens": None, "max_length": "x"}, T, r"max_length='x' must be an integer"),
        "as the prompt": ({"max_new_tokens": None, "max_length": 9}, V, r"max_length=9 must be an integer > 9, the length of the prompt, which it counts; max_new_tokens does not"),
        "too large": ({"max_new_tokens": None, "max_length": 65}, V, r"max_length=65 must be an integer from 1 to 64: .*context of 64"),
    },
    "min_new_tokens": {
        "negative": ({"min_new_tokens": -1}, V, r"min_new_tokens=-1 must be an integer >= 0"),
        "float": ({"min_new_tokens": 1.0}, T, r"min_new_tokens=1.0 must be an integer >= 0"),
        "bool": ({"min_new_tokens": False}, T, r"min_new_tokens=False must be an integer >= 0"),
        "none": ({"min_new_tokens": None}, T, r"min_new_tokens=None must be an integer >= 0"),
        "too large": ({"min_new_tokens": 6}, V, r"min_new_tokens=6 must be an integer from 0 to 5, the most new tokens"),
    },
    "do_sample": {
        "int": ({"do_sample": 1}, T, r"do_sample=1 must be True or False"),
        "none": ({"do_sample": None}, T, r"do_sample=None must be True or False"),
        "str": ({"do_sample": "yes"}, T, r"do_sample='yes' must be True or False"),
    },
    "temperature": {
        "zero": ({**S, "temperature": 0}, V, r"temperature=0 must be a number > 0: use do_sample=False for greedy"),
        "zero float": ({**S, "temperature": 0.0}, V, r"temperature=0.0 .*do_sample=False"),
        "negative": ({**S, "temperature": -0.5}, V, r"temperature=-0.5 must be a number > 0"),
        "negative, greedy": ({"temperature": -0.5}, V, r"temperature=-0.5 must be a number > 0"),
        "nan": ({**S, "temperature": NAN}, V, r"temperature=nan must be a number > 0"),
        "infinite": ({**S, "temperature": INF}, V, r"temperature=inf must be a number > 0"),
        "beyond floats": ({**S, "temperature": 10**400}, V, r"temperature=1000* must be a number > 0"),
        "str": ({**S, "temperature": "1"}, T, r"temperature='1' must be a number > 0"),
        "bool": ({**S, "temperature": True}, T, r"temperature=True must be a number > 0"),
        "none": ({**S, "temperature": None}, T, r"temperature=None must be a number > 0"),
        "tensor": ({**S, "temperature": torch.tensor(1.0)}, T, r"temperature=tensor.* must be a number > 0"),
        "complex": ({**S, "temperature": 1j}, T, r"temperature=1j must be a number > 0"),
    },
    "top_k": {
        "negative": ({**S, "top_k": -1}, V, r"top_k=-1 must be an integer >= 0: use top_k=0 to switch top-k off"),
        "float": ({**S, "top_k": 5.0}, T, r"top_k=5.0 must be an integer >= 0"),
        "nan": ({**S, "top_k": NAN}, T, r"top_k=nan must be an integer >= 0"),
        "infinite": ({**S, "top_k": INF}, T, r"top_k=inf must be an integer >= 0"),
        "bool": ({**S, "top_k": True}, T, r"top_k=True must be an integer >= 0"),
        "none": ({**S, "top_k": None}, T, r"top_k=None must be .*use top_k=0 to switch top-k off"),
        "str": ({**S, "top_k": "50"}, T, r"top_k='50' must be an integer >= 0"),
    },
    "top_p": {
        "zero": ({**S, "top_p": 0.0}, V, r"top_p=0.0 must be a number > 0 and <= 1: use top_p=1.0 to switch top-p off, or do_sample=False"),
        "int zero": ({**S, "top_p": 0}, V, r"top_p=0 must be .*top_p=1.0"),
        "negative": ({**S, "top_p": -0.1}, V, r"top_p=-0.1 must be a number > 0 and <= 1"),
        "too large": ({**S, "top_p": 1.01}, V, r"top_p=1.01 must be a number > 0 and <= 1"),
        "percent": ({**S, "top_p": 90}, V, r"top_p=90 must be a number > 0 and <= 1"),
        "nan": ({**S, "top_p": NAN}, V, r"top_p=nan must be a number > 0 and <= 1"),
        "infinite": ({**S, "top_p": INF}, V, r"top_p=inf must be a number > 0 and <= 1"),
        "bool": ({**S, "top_p": True}, T, r"top_p=True must be a number > 0 and <= 1"),
        "none": ({**S, "top_p": None}, T, r"top_p=None must be a number"),
        "str": ({**S, "top_p": "0.9"}, T, r"top_p='0.9' must be a number"),
    },
    "no_repeat_ngram_size": {
        "negative": ({"no_repeat_ngram_size": -2}, V, r"no_repeat_ngram_size=-2 must be an integer >= 0: use no_repeat_ngram_size=0 to switch"),
        "float": ({"no_repeat_ngram_size": 2.0}, T, r"no_repeat_ngram_size=2.0 must be an integer >= 0"),
        "bool": ({"no_repeat_ngram_size": True}, T, r"no_repeat_ngram_size=True must be an integer"),
        "none": ({"no_repeat_ngram_size": None}, T, r"no_repeat_ngram_size=None .*=0 to switch"),
        "str": ({"no_repeat_ngram_size": "3"}, T, r"no_repeat_ngram_size='3' must be an integer"),
    },
    "eos_token_id": {
        "negative": ({"eos_token_id": -2}, V, r"eos_token_id=-2 must be an integer from -?[01] to 60: use eos_token_id=-1 alone for never"),
        "-1 among others": ({"eos_token_id": [3, -1]}, V, r"eos_token_id=-1 must be an integer from 0 to 60: .*-1 alone"),
        "unknown": ({"eos_token_id": VOCAB}, V, r"eos_token_id=61 must be an integer from .* to 60"),
        "unknown in list": ({"eos_token_id": [3, 50256]}, V, r"eos_token_id=50256 must be an integer"),
        "empty list": ({"eos_token_id": []}, V, r"eos_token_id=\[\] must hold at least one integer: .*eos_token_id=-1"),
        "float": ({"eos_token_id": 2.0}, T, r"eos_token_id=2.0 must be an integer"),
        "bool": ({"eos_token_id": True}, T, r"eos_token_id=True must be an integer"),
        "str": ({"eos_token_id": "</s>"}, T, r"eos_token_id='</s>' must be an integer"),
        "str in list": ({"eos_token_id": ["a"]}, T, r"eos_token_id='a' must be an integer"),
    },
    "pad_token_id": {
        "negative": ({"pad_token_id": -1}, V, r"pad_token_id=-1 must be an integer from 0 to 60"),
        "unknown": ({"pad_token_id": VOCAB}, V, r"pad_token_id=61 must be an integer from 0 to 60"),
        "float": ({"pad_token_id": 0.0}, T, r"pad_token_id=0.0 must be an integer from 0 to 60"),
        "bool": ({"pad_token_id": False}, T, r"pad_token_id=False must be an integer"),
        "list": ({"pad_token_id": [0]}, T, r"pad_token_id=\[0\] must be an integer"),
    },
    "num_return_sequences": {
        "zero": ({**S, "num_return_sequences": 0}, V, r"num_return_sequences=0 must be an integer >= 1"),
        "negative": ({**S, "num_return_sequences": -1}, V, r"num_return_sequences=-1 must be an integer >= 1"),
        "float": ({**S, "num_return_sequences": 2.0}, T, r"num_return_sequences=2.0 must be an integer"),
        "bool": ({**S, "num_return_sequences": True}, T, r"num_return_sequences=True must be an integer"),
        "none": ({**S, "num_return_sequences": None}, T, r"num_return_sequences=None must be an integer"),
        "greedy": ({"num_return_sequences": 2}, V, r"num_return_sequences=2 must be 1 without sampling: .*do_sample=True"),
    },
    "stop_strings": {
        "int": ({"stop_strings": 5}, T, r"stop_strings=5 must be a str or a list of str"),
        "list of int": ({"stop_strings": ["a", 5]}, T, r"stop_strings=\['a', 5\] must be a str or a list of str"),
        "empty": ({"stop_strings": ""}, V, r"stop_strings='' must hold no empty str"),
        "empty in list": ({"stop_strings": ["a", ""]}, V, r"stop_strings=\['a', ''\] must hold no empty"),
        "empty list": ({"stop_strings": []}, V, r"stop_strings=\[\] must hold at least one str"),
        "no tokenizer": ({"stop_strings": "a"}, V, r"tokenizer=None must be the model's tokenizer where stop_strings"),
        "wrong tokenizer": ({"stop_strings": "a", "tokenizer": "gpt2"}, T, r"tokenizer must be the model's tokenizer, got str"),
    },
    "seed": {
        "negative": ({**S, "seed": -1}, V, r"seed=-1 must be an integer from 0 to 9007199254740991"),
        "too large": ({**S, "seed": 2**53}, V, r"seed=9007199254740992 must be an integer from 0 to 9007199254740991"),
        "float": ({**S, "seed": 1.0}, T, r"seed=1.0 must be an integer from 0"),
        "nan": ({**S, "seed": NAN}, T, r"seed=nan must be an integer from 0"),
        "bool": ({**S, "seed": True}, T, r"seed=True must be an integer from 0"),
        "str": ({**S, "seed": "42"}, T, r"seed='42' must be an integer from 0"),
        "bytes": ({**S, "seed": b"ab"}, T, r"seed=b'ab' must be an integer from 0"),
        "too few": ({**S, "seed": [1]}, V, r"seed=\[1\] must be one integer, or one for each of the 2 prompts"),
        "too many": ({**S, "seed": range(3)}, V, r"seed=range\(0, 3\) must be one integer, or one for each of the 2"),
        "none given": ({**S, "seed": []}, V, r"seed=\[\] must be one integer, or one for each"),
        "bad in list": ({**S, "seed": [1, -1]}, V, r"seed=-1 must be an integer from 0"),
        "bad, greedy": ({"seed": -1}, V, r"seed=-1 must be an integer from 0"),
    },
    "pipeline": {
        "list": ({"pipeline": [lib.apply_top_k]}, T, r"pipeline must be a lib.Pipeline, got list; wrap stages in Pipeline"),
        "function": ({"pipeline": lib.greedy}, T, r"pipeline must be a lib.Pipeline, got function"),
        "beside top_k": ({"pipeline": lib.Pipeline([]), "top_k": 5}, V, r"top_k=5 must be left out where pipeline is given"),
        "beside do_sample": ({"pipeline": lib.Pipeline([]), "do_sample": True}, V, r"do_sample=True must be left out"),
        "greedy, two samples": ({"pipeline": lib.Pipeline([]), "num_return_sequences": 2}, V, r"num_return_sequences=2 must be 1 without sampling"),
    },
    "a name": {
        "unknown": ({"max_tokens": 5}, T, r"max_tokens"),
    },
    "model": {
        "none": ({"model": None}, T, r"model must be a transformers language model, got NoneType; lib.load\(\)"),
        "name": ({"model": "tiny"}, T, r"model must be a transformers language model, got str"),
        "module": ({"model": torch.nn.Linear(2, 2)}, T, r"model must be .* got Linear"),
    },
}  # fmt: skip
CELLS = [
    pytest.param(*cell, id=f"{parameter}: {kind}")
    for parameter, kinds in MATRIX.items()
    for kind, cell in kinds.items()
]


@pytest.mark.parametrize("call", [lib.generate, lib.stream, lib.trace])
@pytest.mark.parametrize(("arguments", "error", "message"), CELLS)
def test_token_in_token_out(call, arguments, error, message):
    """At the call: for a stream too, before the first next()."""
    arguments = {
        "model": random_model("llama"),
        "input_ids": IDS,
        "max_new_tokens": 5,
        **arguments,
    }
    with pytest.raises(error, match=message):
        call(**arguments)


TEXT_CELLS = [
    pytest.param(*cell, id=f"{parameter}: {kind}")
    for parameter in [
        "min_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "no_repeat_ngram_size",
        "stop_strings",
        "pipeline",
    ]
    for kind, cell in MATRIX[parameter].items()
    if kind not in {"no tokenizer", "wrong tokenizer"}
]


@pytest.mark.parametrize("call", [lib.complete, lib.stream_text])
@pytest.mark.parametrize(("arguments", "error", "message"), TEXT_CELLS)
def test_text_in_text_out(call, arguments, error, message, nano):
    """The same settings, the same words."""
    if call is lib.stream_text and "num_return_sequences" in arguments:
        message = r"num_return_sequences=2 must be 1: one text is streamed"
    with pytest.raises(error, match=message):
        call(*nano, "One day", **{"max_new_tokens": 5, **arguments})


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (5, T, r"prompts=5 must be a str or a list of str"),
        (None, T, r"prompts=None must be a str or a list of str"),
        (["a", 5], T, r"prompts=\['a', 5\] must be a str or a list of str"),
        (b"a", T, r"prompts=b'a' must be a str or a list of str"),
        ([], V, r"prompts=\[\] must hold at least one str"),
        ("", V, r"prompt '' has no tokens; it must have at least one: .*bos_token"),
        (["a", ""], V, r"prompt '' has no tokens"),
        ("a " * 3000, V, r"prompt has \d+ tokens and the model a context of \d+"),
    ],
)
def test_bad_prompts(prompts, error, message, nano):
    with pytest.raises(error, match=message):
        lib.complete(*nano, prompts, max_new_tokens=5)


@pytest.mark.parametrize("prompt", [5, None, ["a"], b"a"])
def test_one_text_is_streamed_at_a_time(prompt, nano):
    with pytest.raises(TypeError, match=r"prompt=.* must be a str"):
        lib.stream_text(*nano, prompt, max_new_tokens=5)


def test_a_model_and_its_tokenizer_the_wrong_way_round(nano):
    model, tokenizer = nano
    with pytest.raises(TypeError, match=r"tokenizer must be .*\(model, tokenizer\)"):
        lib.complete(tokenizer, model, "One day", max_new_tokens=5)
    with pytest.raises(TypeError, match="tokenizer must be the model's tokenizer"):
        lib.complete(model, None, "One day", max_new_tokens=5)


def test_what_a_tokenizer_gives_is_not_yet_input_ids(nano):
    model, tokenizer = nano
    inputs = tokenizer("One day", return_tensors="pt")
    with pytest.raises(TypeError, match=r"got BatchEncoding: pass its \['input_ids'\]"):
        lib.generate(model, inputs, max_new_tokens=5)


def test_padding_that_nobody_names():
    model = Scripted(counting)
    settings = {"stop_strings": "a", "tokenizer": lib.load("nano", device="cpu")[1]}
    settings["tokenizer"].pad_token = None
    with pytest.raises(ValueError, match=r"pad_token_id=None: .*pass pad_token_id"):
        lib.generate(model, IDS, max_new_tokens=5, **settings)


def test_a_model_without_a_limit_needs_a_length():
    with pytest.raises(ValueError, match=r"max_new_tokens=None: .*no context limit"):
        lib.generate(random_model("t5"), IDS)


def test_legal_though_unusual():
    """top_k beyond the vocabulary; greedy beside values that only sampling reads."""
    model = random_model("llama")
    settings = {"max_new_tokens": 5, "seed": 1}
    wanted = lib.generate(model, IDS, do_sample=True, **settings)
    huge = lib.generate(model, IDS, do_sample=True, top_k=10**30, **settings)
    assert torch.equal(huge, wanted)
    whole = lib.generate(model, IDS, do_sample=True, temperature=1, top_p=1, **settings)
    assert torch.equal(whole, wanted)
    plain = lib.generate(model, IDS, **settings)
    for value in (0, 0.0):
        found = lib.generate(model, IDS, temperature=value, top_p=value, **settings)
        assert torch.equal(found, plain)
    numbers = {
        "top_k": np.int64(61),
        "temperature": np.float32(1),
        "top_p": np.float64(1),
    }
    assert torch.equal(
        lib.generate(model, IDS, do_sample=True, **numbers, **settings), wanted
    )


# --- the stages ----------------------------------------------------------------------

Z = torch.linspace(-1, 1, 10).reshape(2, 5)
U = torch.tensor([0.1, 0.9])
H = torch.tensor([[1, 2, 1], [3, 4, 3]])
STAGES = {
    "softmax": lib.softmax,
    "log_softmax": lib.log_softmax,
    "entropy": lib.entropy,
    "temperature": lambda z: lib.apply_temperature(z, 0.7),
    "top_k": lambda z: lib.apply_top_k(z, 2),
    "top_p": lambda z: lib.apply_top_p(z, 0.5),
    "no_repeat_ngram": lambda z: lib.apply_no_repeat_ngram(H, z, 2),
    "greedy": lib.greedy,
    "sample": lambda z: lib.sample(z, U),
}


def spoiled(value, row=1):
    logits = Z.clone()
    logits[row, 2] = value
    return logits


LOGITS = {
    "list": (Z.tolist(), T, r"logits must be a floating-point tensor, got list"),
    "numpy": (Z.numpy(), T, r"logits must be a floating-point tensor, got ndarray"),
    "int": (Z.long(), T, r"logits must be a floating-point tensor, got torch.int64 tensor"),
    "none": (None, T, r"logits must be a floating-point tensor, got NoneType"),
    "scalar": (Z[0, 0], V, r"logits must have shape \(\.\.\., vocab\) .*got \(\)"),
    "no vocabulary": (Z[:, :0], V, r"logits must have shape .*vocab >= 1, got \(2, 0\)"),
    "nan": (spoiled(NAN), V, r"logits contain NaN in row 1; allowed are finite numbers and -inf"),
    "+inf": (spoiled(INF), V, r"logits contain \+inf in row 1; allowed are finite"),
    "empty row": (torch.cat([Z[:1], Z[1:] - INF]), E, r"row 1 has no token left, every logit is -inf"),
    "meta": (Z.to("meta"), V, r"logits is on the device meta"),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", LOGITS)
def test_bad_logits(stage, kind):
    logits, error, message = LOGITS[kind]
    with pytest.raises(error, match=message) as caught:
        STAGES[stage](logits)
    if kind != "meta":
        assert str(caught.value).startswith(f"{stage}: "), "it names the stage"


@pytest.mark.parametrize("stage", STAGES)
def test_minus_infinity_is_legal(stage):
    out = STAGES[stage](spoiled(-INF))
    assert not out.isnan().any()


def bad(function, name, kinds):
    """The cells of a parameter that a stage shares with generate."""
    return [
        pytest.param(function, arguments[name], error, message, id=f"{name}: {kind}")
        for kind, (arguments, error, message) in MATRIX[name].items()
        if name in arguments and kind not in kinds
    ]


@pytest.mark.parametrize(
    ("function", "value", "error", "message"),
    [
        *bad(lambda t: lib.apply_temperature(Z, t), "temperature", ()),
        *bad(lambda k: lib.apply_top_k(Z, k), "top_k", ()),
        *bad(lambda p: lib.apply_top_p(Z, p), "top_p", ()),
        *bad(lambda n: lib.apply_no_repeat_ngram(H, Z, n), "no_repeat_ngram_size", ()),
        *bad(
            lambda s: lib.uniforms(s, [0], [0]),
            "seed",
            ("too few", "too many", "none given", "bad in list"),
        ),
    ],
)
def test_bad_parameters_of_stages(function, value, error, message):
    """The same words as in generate."""
    with pytest.raises(error, match=message):
        function(value)


CALLS = [
    (lambda: lib.sample(Z, [0.1, 0.9]), T, r"u must be a floating-point tensor, got list"),
    (lambda: lib.sample(Z, U.long()), T, r"u must be a floating-point tensor, got torch.int64"),
    (lambda: lib.sample(Z, U[:1]), V, r"u has shape \(1,\); .*one uniform a row, \(2,\)"),
    (lambda: lib.sample(Z, U + 1), V, r"u=1.\d+ must be a number >= 0 and < 1"),
    (lambda: lib.sample(Z, U * 0 + 1), V, r"u=1.0 must be a number >= 0 and < 1"),
    (lambda: lib.sample(Z, -U), V, r"u=-0.1\d* must be a number >= 0 and < 1"),
    (lambda: lib.sample(Z, U * NAN), V, r"u=nan must be a number >= 0 and < 1"),
    (lambda: lib.sample(Z, U.to("meta")), V, r"u is on .*meta"),
    (lambda: lib.uniforms(1, 5, [0]), T, r"samples=5 must be a sequence of integers .*range\(5\)"),
    (lambda: lib.uniforms(1, [0], 5), T, r"steps=5 must be a sequence of integers .*range\(5\)"),
    (lambda: lib.uniforms(1, [0], "5"), T, r"steps='5' must be a sequence of integers"),
    (lambda: lib.uniforms(1, [0], [-1]), V, r"steps=-1 must be an integer from 0 to 4294967295"),
    (lambda: lib.uniforms(1, [2**32], [0]), V, r"samples=4294967296 must be an integer from 0 to"),
    (lambda: lib.uniforms(1, [0.0], [0]), T, r"samples=0.0 must be an integer from 0 to"),
    (lambda: lib.uniforms(1, [True], [0]), T, r"samples=True must be an integer from 0 to"),
    (lambda: lib.apply_no_repeat_ngram(H.tolist(), Z, 2), T, r"input_ids must be an integer tensor"),
    (lambda: lib.apply_no_repeat_ngram(H.float(), Z, 2), T, r"input_ids must hold integer"),
    (lambda: lib.apply_no_repeat_ngram(H[0], Z, 2), V, r"input_ids must have shape \(batch, length\)"),
    (lambda: lib.apply_no_repeat_ngram(H[:1], Z, 2), V, r"logits have shape \(2, 5\); .*batch 1"),
    (lambda: lib.apply_no_repeat_ngram(H[:0], Z[:0], 2), V, r"input_ids holds no prompt"),
    (lambda: lib.apply_no_repeat_ngram(H, Z[0], 2), V, r"logits have shape \(5,\)"),
    (lambda: lib.apply_no_repeat_ngram(-H, Z, 2), V, r"input_ids holds the id -4; ids must be >= 0"),
    (lambda: lib.apply_no_repeat_ngram(H.to("meta"), Z, 2), V, r"input_ids is on .*meta"),
    (lambda: lib.apply_no_repeat_ngram(H, Z, 2, H[:, 1:] > 0), V, r"attention_mask has shape \(2, 2\)"),
    (lambda: lib.apply_no_repeat_ngram(H, Z, 2, [[1, 1, 1]] * 2), T, r"attention_mask must be .*got list"),
    (lambda: lib.NGramIndex(0), V, r"no_repeat_ngram_size=0 must be an integer >= 1"),
    (lambda: lib.NGramIndex(2.0), T, r"no_repeat_ngram_size=2.0 must be an integer >= 1"),
    (lambda: lib.Pipeline([5]), T, r"stages: 5 must be a Stage or a callable"),
    (lambda: lib.Pipeline([], do_sample=1), T, r"do_sample=1 must be True or False"),
    (lambda: lib.Pipeline([], do_sample=True)(H, Z), V, r"u=None: a sampling pipeline needs one uniform a row"),
    (lambda: lib.Pipeline([], do_sample=True)(H, Z, U + 1), V, r"u=1.\d+ must be a number >= 0 and < 1"),
    (lambda: lib.Pipeline([], do_sample=True)(H, Z, U[:1]), V, r"u has shape \(1,\)"),
    (lambda: lib.Pipeline([])(H.tolist(), Z), T, r"input_ids must be an integer tensor"),
    (lambda: lib.Pipeline([])(H, Z[0]), V, r"logits has? ?a?v?e? shape \(5,\)"),
    (lambda: lib.Pipeline([])(H, spoiled(NAN)), V, r"NaN in row 1"),
    (lambda: lib.SamplingSettings(eos_token_id=-1), V, r"eos_token_id=-1 must be an integer >= 0"),
    (lambda: lib.SamplingSettings(eos_token_id=1.5), T, r"eos_token_id=1.5 must be an integer >= 0"),
    (lambda: lib.SamplingSettings(eos_token_id="a"), T, r"eos_token_id='a' must be an integer >= 0"),
    (lambda: lib.as_logits_processor(lib.apply_top_k, k=5), T, r"k"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CALLS)
def test_bad_calls_of_stages(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- nothing returns NaN, or a token from an empty support ----------------------------

ROW_1 = torch.tensor([[False], [True]])


def failing_at(step, row_1):
    """A model whose second row goes wrong at a step of a generation from 3 tokens."""

    def logits(ids):
        good = counting(ids)
        return row_1(good) if ids.shape[1] == 3 + step else good

    return Scripted(logits)


WRONG = {
    "nan": (V, r"model: logits contain NaN in row 1; .*\(step 2\)",
            lambda z: z.masked_fill(ROW_1, NAN)),
    "one nan": (V, r"model: logits contain NaN in row 1; .*\(step 2\)",
                lambda z: z.where(~ROW_1 | (z == 0), NAN)),
    "+inf": (V, r"model: logits contain \+inf in row 1; .*\(step 2\)",
             lambda z: z.masked_fill(ROW_1, INF)),
    "nothing": (E, r"model: row 1 has no token left, .*\(step 2\)",
                lambda z: z.masked_fill(ROW_1, -INF)),
}  # fmt: skip


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("kind", WRONG)
def test_a_model_gone_wrong_is_named_with_row_and_step(kind, do_sample):
    """And what came before it has been handed out."""
    error, message, row_1 = WRONG[kind]
    model, got = failing_at(2, row_1), []
    steps = lib.stream(model, H, max_new_tokens=5, do_sample=do_sample, seed=1)
    with pytest.raises(error, match=message):
        got.extend(steps)
    assert len(got) == 2


SPOILERS = {
    "nan": (V, r"stage spoil\(\) returned NaN or \+inf in row 1 \(step 0\)", NAN),
    "+inf": (V, r"stage spoil\(\) returned NaN or \+inf in row 1 \(step 0\)", INF),
    "nothing": (E, r"stage spoil\(\) leaves row 1 no token to choose from \(step 0\)", -INF),
}  # fmt: skip


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("kind", SPOILERS)
def test_a_stage_gone_wrong_is_named_with_row_and_step(kind, do_sample):
    error, message, value = SPOILERS[kind]

    def spoil(input_ids, logits):
        return logits.masked_fill(ROW_1, value)

    after = lib.build_pipeline(lib.SamplingSettings(do_sample=True, top_k=3)).stages
    pipeline = lib.Pipeline([spoil, *after], do_sample=do_sample)
    with pytest.raises(error, match=message):
        lib.generate(Scripted(counting), H, max_new_tokens=5, seed=1, pipeline=pipeline)


@pytest.mark.parametrize("do_sample", [True, False])
def test_a_ban_that_leaves_nothing_is_named_with_row_and_step(do_sample):
    """Three words, none of which may come twice: the fourth step has none left."""
    model = Scripted(lambda ids: torch.zeros(len(ids), 3), vocab_size=3)
    ids = torch.tensor([[0]])
    settings = {"no_repeat_ngram_size": 1, "eos_token_id": -1, "do_sample": do_sample}
    assert len(lib.generate(model, ids, max_new_tokens=2, **settings)[0].unique()) == 3
    message = r"stage no_repeat_ngram\(1\) leaves row 0 no token .*\(step 2\)"
    for top_p in (1.0, 0.5):
        with pytest.raises(lib.EmptySupportError, match=message):
            lib.generate(model, ids, max_new_tokens=3, top_p=top_p, **settings)


def test_least_length_may_leave_nothing_too():
    """All that the model would say is the end, which may not come yet."""
    sure = Scripted(
        lambda ids: torch.full((len(ids), 5), -INF).index_fill(
            -1, torch.tensor([4]), 0
        ),
        vocab_size=5,
    )
    message = r"stage min_new_tokens\(2\) leaves row 0 no token .*\(step 0\)"
    with pytest.raises(lib.EmptySupportError, match=message):
        lib.generate(
            sure,
            torch.tensor([[1]]),
            max_new_tokens=3,
            min_new_tokens=2,
            eos_token_id=4,
        )


def test_a_row_that_has_ended_may_run_dry():
    """Its tokens are pads: a ban that leaves it nothing is nobody's error."""
    model = Scripted(counting, vocab_size=VOCAB)

    def dry(input_ids, logits):
        ended = (input_ids == 13).any(dim=1, keepdim=True)
        return logits.masked_fill(ended, -INF)

    found = lib.generate(
        model,
        torch.tensor([[11], [8]]),
        max_new_tokens=6,
        eos_token_id=13,
        pad_token_id=2,
        pipeline=lib.Pipeline([dry]),
    )
    assert found[0].tolist() == [11, 12, 13, 2, 2, 2]


def test_an_empty_support_is_a_value_error():
    assert issubclass(lib.EmptySupportError, ValueError)
