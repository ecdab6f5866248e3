"""The generator: luck is data, streams agree with it, text stays whole."""

from __future__ import annotations

import inspect
import typing
from dataclasses import replace

import pytest
import torch
from model_zoo import (
    CONTEXT,
    FAMILIES,
    VOCAB,
    Scripted,
    one_hot,
    prompts,
    random_model,
    with_large_weights,
)
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    FSMTConfig,
    FSMTForConditionalGeneration,
)

import lib
import lib.generator
import lib.pipeline
import lib.selection
from lib.request import Arguments, TextArguments, prepare

FAMILY = pytest.mark.parametrize("family", FAMILIES)
SAMPLED = {"do_sample": True, "max_new_tokens": 24, "eos_token_id": 11}
TEXTS = [
    "Once upon a time",
    "Lily",
    "The little dog wanted to play with his ball, but it",
    "One day, Tom",
    "It was raining and the two friends",
    "A",
    "The bird said",
    "Ben and Mia went to the park to see the big",
]


@pytest.fixture(scope="module")
def tiny():
    return lib.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def nano():
    return lib.load("nano", device="cpu")


def sides(layers):
    """The sizes of an encoder and of a decoder, as BART and FSMT name them."""
    each = {"layers": layers, "attention_heads": 4, "ffn_dim": 64}
    both = {
        f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in each.items()
    }
    return {"d_model": 32, **both}


@pytest.fixture(scope="module")
def bart():
    special = {"decoder_start_token_id": 2, "forced_eos_token_id": None}
    config = BartConfig(
        vocab_size=VOCAB, max_position_embeddings=CONTEXT, **sides(2), **special
    )
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config)
    return with_large_weights(model, lambda _: 0.3)


class Letters:
    """A tokenizer of which each token is a letter."""

    pad_token_id = 1

    def __call__(self, text):
        return {"input_ids": [3 + ord(letter) % 50 for letter in text]}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def rows_of(model, ids, mask, **settings):
    """Each row's new tokens."""
    found = lib.generate(model, ids, attention_mask=mask, **settings)
    begun = 1 if model.config.is_encoder_decoder else ids.shape[1]
    return found[:, begun:].tolist()


def without_padding(tokens, end):
    """The tokens up to and with the end."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# --- luck is data ------------------------------------------------------------------

SETTINGS = [{}, {"temperature": 1.2, "top_k": 50, "top_p": 0.95}, {"top_p": 0.8}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_text_is_the_same_alone_and_at_any_place_of_any_batch(tiny, settings):
    """Batches of 8 that turn, padded on the left, so that every neighbour changes."""
    model, tokenizer = tiny
    settings = {"do_sample": True, "max_new_tokens": 20, **settings}
    seeds = [1000 + i for i in range(8)]
    alone = [
        lib.complete(model, tokenizer, text, seed=seed, **settings)
        for text, seed in zip(TEXTS, seeds, strict=True)
    ]
    assert len(set(alone)) == 8
    for turn in (0, 3, 5):
        texts, luck = TEXTS[turn:] + TEXTS[:turn], seeds[turn:] + seeds[:turn]
        found = lib.complete(model, tokenizer, texts, seed=luck, **settings)
        assert found == alone[turn:] + alone[:turn]


def test_other_companions_and_wider_padding_change_nothing(nano):
    model, tokenizer = nano
    settings = {"do_sample": True, "max_new_tokens": 20}
    for seed, text in enumerate(TEXTS[:4]):
        alone = lib.complete(model, tokenizer, text, seed=seed, **settings)
        for companion in ("Sam", " ".join(TEXTS)):
            pair = [companion, text]
            luck = [99, seed]
            found = lib.complete(model, tokenizer, pair, seed=luck, **settings)
            assert found[1] == alone


@FAMILY
def test_a_row_is_the_same_alone_and_in_a_batch_in_every_family(family):
    model = random_model(family)
    lengths = (5, 9, 1, 6)
    ids, mask = prompts(lengths)
    seeds = [7, 8, 9, 2**53 - 1]
    batch = rows_of(model, ids, mask, seed=seeds, **SAMPLED)
    for row, length in enumerate(lengths):
        one = ids[row : row + 1, -length:]
        alone = rows_of(model, one, None, seed=seeds[row], **SAMPLED)[0]
        assert without_padding(batch[row], 11) == without_padding(alone, 11)


def test_one_seed_for_all_gives_equal_prompts_equal_texts():
    model = random_model("llama")
    ids, _ = prompts((6, 6))
    ids = ids[[0, 0, 1]]
    rows = rows_of(model, ids, None, seed=5, **SAMPLED)
    assert rows[0] == rows[1] != rows[2]


def test_a_seed_for_each_prompt_gives_equal_prompts_texts_of_their_own():
    model = random_model("llama")
    ids, _ = prompts((6,))
    ids = ids[[0, 0, 0]]
    rows = rows_of(model, ids, None, seed=[5, 6, 5], **SAMPLED)
    assert rows[0] == rows[2] != rows[1]
    alone = rows_of(model, ids[:1], None, seed=5, **SAMPLED)[0]
    assert without_padding(rows[0], 11) == alone


def test_no_seed_is_fresh_luck_each_time_and_for_each_prompt():
    model = random_model("llama")
    ids, _ = prompts((6,))
    settings = {**SAMPLED, "eos_token_id": -1}
    rows = rows_of(model, ids[[0, 0]], None, **settings)
    rows += rows_of(model, ids[[0, 0]], None, **settings)
    assert len(set(map(tuple, rows))) == 4  # equal by chance: below 1e-9


def test_sample_j_is_the_same_however_many_are_asked_for():
    model = random_model("gpt2")
    ids, mask = prompts((5, 9))
    settings = {**SAMPLED, "seed": [3, 4], "eos_token_id": -1}
    five = rows_of(model, ids, mask, num_return_sequences=5, **settings)
    two = rows_of(model, ids, mask, num_return_sequences=2, **settings)
    one = rows_of(model, ids, mask, **settings)
    assert two == five[0:2] + five[5:7]
    assert one == five[0:1] + five[5:6]
    assert len(set(map(tuple, five))) == 10


def test_the_luck_of_torch_is_neither_used_nor_moved():
    model = random_model("llama")
    ids, _ = prompts((6,))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = rows_of(model, ids, None, seed=1, **SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert rows_of(model, ids, None, seed=1, **SAMPLED) == first


def test_greedy_needs_no_luck():
    model = random_model("llama")
    ids, _ = prompts((6,))
    settings = {"max_new_tokens": 12, "temperature": 3.0, "top_k": 2, "top_p": 0.1}
    rows = [rows_of(model, ids, None, seed=s, **settings) for s in (None, 1, 2)]
    rows.append(rows_of(model, ids, None, max_new_tokens=12))
    assert rows[0] == rows[1] == rows[2] == rows[3]


# --- four ways to the same tokens ----------------------------------------------------


@FAMILY
def test_a_stream_is_generate_step_by_step(family):
    model = random_model(family)
    ids, mask = prompts((5, 9))
    settings = {**SAMPLED, "seed": 2, "num_return_sequences": 2, "attention_mask": mask}
    whole = lib.generate(model, ids, **settings)
    steps = list(lib.stream(model, ids, **settings))
    assert all(step.shape == (4,) and step.dtype == torch.int64 for step in steps)
    assert torch.equal(torch.stack(steps, dim=1), whole[:, -len(steps) :])


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 3}], ids=str)
def test_complete_and_stream_text_say_what_generate_says(tiny, settings):
    model, tokenizer = tiny
    settings = {"max_new_tokens": 30, **settings}
    for text in TEXTS[:3]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        row = lib.generate(model, ids, tokenizer=tokenizer, **settings)[0]
        whole = tokenizer.decode(row, skip_special_tokens=True)
        assert lib.complete(model, tokenizer, text, **settings) == whole
        pieces = list(lib.stream_text(model, tokenizer, text, **settings))
        assert text + "".join(pieces) == whole
        assert len(pieces) > 1


def test_complete_takes_prompts_of_different_length_and_several_samples(tiny):
    model, tokenizer = tiny
    settings = {"do_sample": True, "max_new_tokens": 12, "seed": 1}
    found = lib.complete(
        model, tokenizer, TEXTS[:3], num_return_sequences=2, **settings
    )
    assert len(found) == len(set(found)) == 6
    assert all(found[i].startswith(TEXTS[i // 2]) for i in range(6))
    one = lib.complete(model, tokenizer, TEXTS[0], num_return_sequences=2, **settings)
    assert one == found[:2]
    listed = lib.complete(model, tokenizer, [TEXTS[0]], **settings)
    assert listed == found[:1]
    assert lib.complete(model, tokenizer, TEXTS[0], **settings) == found[0]


def test_a_text_that_ends_is_not_followed_by_padding(tiny):
    """The end itself is a special token and is left out, as are pads after it."""
    model, tokenizer = tiny
    end = int(tokenizer("a b")["input_ids"][-1])
    found = lib.complete(
        model,
        tokenizer,
        TEXTS[:4],
        max_new_tokens=8,
        eos_token_id=end,
        pad_token_id=end,
    )
    alone = [
        lib.complete(model, tokenizer, t, max_new_tokens=8, eos_token_id=end)
        for t in TEXTS[:4]
    ]
    assert found == alone


# --- characters are never split ------------------------------------------------------


def forcing(tokens, begun):
    """A pipeline that says these tokens, whatever the model thinks."""

    def force(input_ids, logits):
        position = input_ids.shape[1] - begun
        token = tokens[min(position, len(tokens) - 1)]
        return torch.full_like(logits, -torch.inf).index_fill(
            -1, torch.tensor([token]), 0.0
        )

    return lib.Pipeline([force])


@pytest.mark.parametrize(
    "text",
    [
        "😀",
        "日本語の 漢字",
        "é à ü",
        "👩‍👩‍👧‍👦 family",
        "a😀b日c",
        "naïve café 😀😀 done",
    ],
)
def test_stream_text_never_splits_a_character(tiny, text):
    model, tokenizer = tiny
    prompt = "One day"
    tokens = tokenizer(text)["input_ids"]
    begun = len(tokenizer(prompt)["input_ids"])
    pieces = list(
        lib.stream_text(
            model,
            tokenizer,
            prompt,
            pipeline=forcing(tokens, begun),
            max_new_tokens=len(tokens),
        )
    )
    assert "".join(pieces) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_a_character_cut_off_by_the_end_is_shown_as_such(tiny):
    """Three of four bytes: nothing is held back for ever, nothing is lost before."""
    model, tokenizer = tiny
    tokens = tokenizer("ab😀")["input_ids"][:-1]
    begun = len(tokenizer("One day")["input_ids"])
    pieces = lib.stream_text(
        model,
        tokenizer,
        "One day",
        pipeline=forcing(tokens, begun),
        max_new_tokens=len(tokens),
    )
    text = "".join(pieces)
    assert text.startswith("ab")
    assert set(text[2:]) == {"\N{REPLACEMENT CHARACTER}"}


def test_a_prompt_that_ends_in_an_emoji_leaves_no_trace_in_the_stream(tiny):
    model, tokenizer = tiny
    prompt = "One day 😀日"
    tokens = tokenizer(" the cat")["input_ids"]
    begun = len(tokenizer(prompt)["input_ids"])
    pieces = lib.stream_text(
        model,
        tokenizer,
        prompt,
        pipeline=forcing(tokens, begun),
        max_new_tokens=len(tokens),
    )
    assert "".join(pieces) == " the cat"


# --- what is left behind -------------------------------------------------------------


@pytest.mark.parametrize("call", [lib.generate, lib.stream, lib.trace])
def test_arguments_are_checked_at_the_call(call):
    """Not at the first next(), when a stream may be far from who made the mistake."""
    ids, _ = prompts((4,))
    with pytest.raises(ValueError, match="temperature"):
        call(random_model("llama"), ids, do_sample=True, temperature=0)


def test_stream_text_checks_its_arguments_at_the_call(tiny):
    with pytest.raises(ValueError, match="top_p"):
        lib.stream_text(*tiny, "One day", do_sample=True, top_p=0.0)


def modes(model):
    return [module.training for module in model.modules()]


def test_a_model_in_train_mode_is_read_in_eval_mode_and_put_back():
    model = FAMILIES["gpt2"]()
    model.load_state_dict(random_model("gpt2").state_dict())
    model.train()
    model.transformer.h[0].eval()
    before = modes(model)
    assert {True, False} == set(before)
    ids, _ = prompts((6,))
    wanted = lib.generate(random_model("gpt2"), ids, max_new_tokens=12)
    assert torch.equal(lib.generate(model, ids, max_new_tokens=12), wanted)
    assert modes(model) == before
    assert len(lib.log_probs(model, ids)) == 1
    assert modes(model) == before


def test_closing_a_stream_early_leaves_the_model_as_it_was():
    model = FAMILIES["gpt2"]().train()
    before = modes(model)
    ids, _ = prompts((6,))
    steps = lib.stream(model, ids, max_new_tokens=12)
    assert modes(model) == before
    next(steps)
    assert modes(model) == before, "between two steps the model is its owner's"
    steps.close()
    assert modes(model) == before


def test_two_streams_of_one_model_do_not_disturb_each_other():
    model = FAMILIES["gpt2"]()
    model.load_state_dict(random_model("gpt2").state_dict())
    model.train()
    a, b = (prompts((6,), seed)[0] for seed in (1, 2))
    wanted = [
        rows_of(random_model("gpt2"), x, None, max_new_tokens=9)[0] for x in (a, b)
    ]
    streams = [lib.stream(model, x, max_new_tokens=9) for x in (a, b)]
    found = [[int(t) for t in pair] for pair in zip(*streams, strict=True)]
    assert [list(row) for row in zip(*found, strict=True)] == wanted


class Interrupt:
    """Logits that count up, and a Ctrl-C at the n-th step."""

    def __init__(self, at):
        self.at, self.steps = at, 0

    def __call__(self, ids):
        self.steps += 1
        if self.steps > self.at:
            raise KeyboardInterrupt
        return one_hot((ids[:, -1] + 1) % VOCAB)


def test_an_interrupt_loses_nothing_that_was_yielded():
    model = Scripted(Interrupt(at=3))
    model.train()
    got = []

    def listen():
        for tokens in lib.stream(model, torch.tensor([[5]]), max_new_tokens=10):
            got.append(int(tokens[0]))

    with pytest.raises(KeyboardInterrupt):
        listen()
    assert got == [6, 7, 8]
    assert model.training
    assert model._dropout.training


def test_what_is_returned_are_ordinary_tensors():
    """No inference tensors: they may be changed in place, and need no gradient."""
    model = random_model("llama")
    ids, _ = prompts((6,))
    outputs = [
        lib.generate(model, ids, max_new_tokens=4),
        *lib.stream(model, ids, max_new_tokens=4),
        lib.log_probs(model, ids),
        lib.perplexity(model, ids),
    ]
    for output in outputs:
        assert not output.is_inference()
        assert not output.requires_grad
        output += 1


def test_changing_what_was_yielded_does_not_change_what_follows():
    model = random_model("llama")
    ids, _ = prompts((6,))
    wanted = rows_of(model, ids, None, max_new_tokens=8)[0]
    found = []
    for tokens in lib.stream(model, ids, max_new_tokens=8):
        found.append(int(tokens[0]))
        tokens.zero_()
    assert found == wanted


def test_the_prompt_is_not_touched():
    model = random_model("gpt2")
    ids, mask = prompts((5, 9))
    before = ids.clone(), mask.clone()
    lib.generate(model, ids, attention_mask=mask, max_new_tokens=4)
    assert torch.equal(ids, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_dtype_in_int64_out(dtype):
    model = random_model("llama")
    ids, _ = prompts((6,))
    found = lib.generate(model, ids.to(dtype), max_new_tokens=4)
    assert torch.equal(found, lib.generate(model, ids, max_new_tokens=4))
    assert found.dtype == torch.int64


def test_a_mask_of_bools_or_of_ones_is_a_mask():
    model = random_model("gpt2")
    ids, mask = prompts((5, 9))
    settings = {"max_new_tokens": 6}
    wanted = lib.generate(model, ids, attention_mask=mask, **settings)
    found = lib.generate(model, ids, attention_mask=mask.bool(), **settings)
    assert torch.equal(found, wanted)
    bare = lib.generate(model, ids, **settings)
    ones = lib.generate(model, ids, attention_mask=torch.ones_like(ids), **settings)
    assert torch.equal(bare, ones)
    assert not torch.equal(bare, wanted)  # pad ids alone mask nothing


def test_half_precision_models_run():
    model = FAMILIES["llama"]().to(torch.bfloat16)
    model.load_state_dict(random_model("llama").state_dict())
    ids, mask = prompts((5, 9))
    found = lib.generate(model, ids, attention_mask=mask, seed=1, **SAMPLED)
    assert found.shape[0] == 2


def test_padding_may_stand_anywhere_for_an_encoder():
    model = random_model("t5")
    ids, mask = prompts((5, 9))
    right = ids.clone(), mask.clone()
    right[0][0] = ids[0].roll(5)
    right[1][0] = mask[0].roll(5)
    found = lib.generate(model, right[0], attention_mask=right[1], max_new_tokens=8)
    alone = lib.generate(model, ids[:1, -5:], max_new_tokens=8)
    assert torch.equal(found[:1], alone)


@pytest.mark.parametrize("lengths", [(5, 9), (9,)], ids=["padded", "alone"])
def test_a_prompt_longer_than_its_encoders_context_is_refused(bart, lengths):
    ids, mask = prompts(lengths)
    settings = {"attention_mask": mask, "max_new_tokens": 3, "eos_token_id": -1}
    assert lib.generate(bart, ids, **settings).shape == (len(lengths), 4)
    wide = torch.ones(1, CONTEXT + 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"the prompt has 65 tokens; .* at most 64"):
        lib.generate(bart, wide, max_new_tokens=3)


def test_an_encoder_whose_places_grow_has_no_limit():
    vocabularies = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}
    config = FSMTConfig(
        langs=["en", "de"], max_position_embeddings=8, **vocabularies, **sides(1)
    )
    model = FSMTForConditionalGeneration(config).eval()
    ids = torch.full((1, 20), 7)
    assert lib.generate(model, ids, max_new_tokens=3, eos_token_id=-1).shape == (1, 4)


def test_a_text_for_an_encoder_is_the_same_alone_and_in_a_batch(bart):
    """BART counts positions from the first place, whatever is masked."""
    texts = ["abc", "some longer text"]
    settings = {"max_new_tokens": 8, "eos_token_id": -1}
    together = lib.complete(bart, Letters(), texts, **settings)
    assert together == [lib.complete(bart, Letters(), t, **settings) for t in texts]
    assert len(set(together)) == 2


# --- an accelerator is asked rarely ---------------------------------------------------


def counting(steps):
    """A model that counts up, and how often it was called."""

    def logits(ids):
        steps.append(ids.shape[1])
        return one_hot((ids[:, -1] + 1) % VOCAB)

    return Scripted(logits)


@pytest.mark.parametrize("every", [2, 5, 16, 100])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("lengths", [(9,), (5, 9, 1, 6)], ids=["alone", "padded"])
def test_looking_for_the_end_rarely_changes_no_token(
    every, family, lengths, monkeypatch
):
    model, (ids, mask) = random_model(family), prompts(lengths)
    settings = {**SAMPLED, "pad_token_id": 3, "seed": 4, "attention_mask": mask}
    free = lib.generate(model, ids, **{**settings, "eos_token_id": -1})
    for end in ([int(free[0, -16])], free[:, -9].tolist()):
        settings["eos_token_id"] = end
        wanted = lib.generate(model, ids, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(lib.generator, "_checks", lambda request: every)
            assert torch.equal(lib.generate(model, ids, **settings), wanted)
    assert wanted.shape[1] < free.shape[1], "all rows end early"


@pytest.mark.parametrize("every", [4, 16])
def test_texts_and_stop_strings_bear_it_too(tiny, every, monkeypatch):
    model, tokenizer = tiny
    settings = {"max_new_tokens": 40, "stop_strings": [".", " a"]}
    wanted = lib.complete(model, tokenizer, TEXTS[:4], **settings)
    monkeypatch.setattr(lib.generator, "_checks", lambda request: every)
    assert lib.complete(model, tokenizer, TEXTS[:4], **settings) == wanted


def test_steps_beyond_the_end_are_few_and_are_dropped(monkeypatch):
    steps = []
    model, ids = counting(steps), torch.tensor([[10], [8]])
    settings = {"eos_token_id": 13, "pad_token_id": 2, "max_new_tokens": 40}
    wanted = [[10, 11, 12, 13, 2, 2], [8, 9, 10, 11, 12, 13]]
    assert lib.generate(model, ids, **settings).tolist() == wanted
    assert len(steps) == 5
    steps.clear()
    monkeypatch.setattr(lib.generator, "_checks", lambda request: 4)
    assert lib.generate(model, ids, **settings).tolist() == wanted
    assert len(steps) == 8
    steps.clear()
    settings["max_new_tokens"] = 6
    assert lib.generate(model, ids, **settings).tolist() == wanted
    assert len(steps) == 6, "never past max_new_tokens"


def spoiling(value, at):
    """A model that counts up, and gives ``value`` for row 1 at a step."""

    def logits(ids):
        z = one_hot((ids[:, -1] + 1) % VOCAB)
        return z.index_fill(0, torch.tensor([1]), value) if ids.shape[1] == at else z

    return Scripted(logits)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, r"model: logits contain NaN in row 1.*\(step 5\)"),
        (torch.inf, r"model: logits contain \+inf in row 1.*\(step 5\)"),
        (-torch.inf, r"model: row 1 has no token left.*\(step 5\)"),
    ],
)
def test_an_error_found_late_says_what_it_says_at_once(
    value, message, do_sample, monkeypatch
):
    for module in (lib.pipeline, lib.selection):  # as on a device
        monkeypatch.setattr(module, "on_host", lambda logits: False)
    ids, settings = torch.tensor([[10], [8]]), {"do_sample": do_sample, "top_k": 2}
    for every in (1, 4, 16):
        monkeypatch.setattr(lib.generator, "_checks", lambda request, n=every: n)
        with pytest.raises(ValueError, match=message):
            lib.generate(spoiling(value, 6), ids, max_new_tokens=20, **settings)


def test_a_stage_that_leaves_nothing_says_so_late_too(monkeypatch):
    def spoil(ids, logits):
        return torch.where(torch.tensor(ids.shape[1] == 4), -torch.inf, logits)

    model = Scripted(lambda ids: one_hot((ids[:, -1] + 1) % VOCAB))
    for every in (1, 4, 16):
        monkeypatch.setattr(lib.generator, "_checks", lambda request, n=every: n)
        with pytest.raises(lib.EmptySupportError, match=r"spoil\(\).*row 0.*step 3"):
            lib.generate(
                model,
                torch.tensor([[8]]),
                pipeline=lib.Pipeline([spoil]),
                max_new_tokens=20,
            )


def test_a_device_is_waited_for_once_in_so_many_steps(monkeypatch):
    for module in (lib.pipeline, lib.selection):
        monkeypatch.setattr(module, "on_host", lambda logits: False)
    waits = []
    finite = lib._validate.all_finite
    monkeypatch.setattr(
        lib._validate, "all_finite", lambda top: waits.append(1) or finite(top)
    )
    monkeypatch.setattr(lib.generator, "_checks", lambda request: 8)
    model = Scripted(lambda ids: one_hot((ids[:, -1] + 1) % VOCAB))
    settings = {"do_sample": True, "top_k": 2, "max_new_tokens": 32}
    found = lib.generate(model, torch.tensor([[8]]), **settings)
    assert found.shape == (1, 33)
    assert len(waits) == 4


def test_a_stream_gives_each_token_before_the_next_is_computed(monkeypatch):
    steps = []
    monkeypatch.setattr(lib.generator, "_checks", lambda request: 4)
    ids = torch.tensor([[10]])
    stream = lib.stream(counting(steps), ids, eos_token_id=13, max_new_tokens=40)
    seen = [(int(tokens[0]), len(steps)) for tokens in stream]
    assert seen == [(11, 1), (12, 2), (13, 3)]


def test_only_a_cpu_is_asked_at_every_step():
    ids, _ = prompts((4,))
    request = prepare(random_model("llama"), ids, max_new_tokens=4)
    assert lib.generator._checks(request) == 1
    elsewhere = replace(request, decoder_input_ids=ids.to("meta"))
    assert lib.generator._checks(elsewhere) == lib.generator._ACCELERATOR_CHECKS > 1


# --- one signature -------------------------------------------------------------------


def test_all_ways_in_take_the_same_arguments():
    """The signature of generate is that of what checks it, and of the typed dicts."""
    checked = inspect.signature(prepare).parameters
    offered = inspect.signature(lib.generate).parameters
    assert {n: p.default for n, p in offered.items()} == {
        n: p.default for n, p in checked.items()
    }
    settings = set(offered) - {"model", "input_ids"}
    assert set(typing.get_type_hints(Arguments)) == settings
    text = settings - {"attention_mask", "tokenizer"}
    assert set(typing.get_type_hints(TextArguments)) == text


@pytest.mark.parametrize("function", ["stream", "stream_text", "complete", "trace"])
def test_an_unknown_argument_is_named_with_its_function(function, tiny):
    model, tokenizer = tiny
    given = [model, torch.tensor([[1]])]
    if function in ("stream_text", "complete"):
        given = [model, tokenizer, "Once"]
    words = rf"{function}\(\) has no argument 'max_tokens'; did you mean max_new_tokens"
    with pytest.raises(TypeError, match=words):
        getattr(lib, function)(*given, max_tokens=3)
    with pytest.raises(TypeError, match=r"has no argument 'xyz'$"):
        getattr(lib, function)(*given, xyz=3)


# --- stop strings, padding of what ended ----------------------------------------------


def test_a_row_that_ended_is_padded_while_others_go_on():
    """Row 0 ends at its third token, row 1 at its fifth."""
    model = Scripted(lambda ids: one_hot((ids[:, -1] + 1) % VOCAB))
    ids = torch.tensor([[10], [8]])
    settings = {"eos_token_id": 13, "pad_token_id": 2, "max_new_tokens": 9}
    found = lib.generate(model, ids, **settings)
    assert found.tolist() == [[10, 11, 12, 13, 2, 2], [8, 9, 10, 11, 12, 13]]


def test_minus_one_never_ends_even_where_the_model_names_an_end():
    model = Scripted(lambda ids: one_hot((ids[:, -1] + 1) % VOCAB))
    model.config.eos_token_id = 13
    ids = torch.tensor([[10]])
    settings = {"max_new_tokens": 6}
    assert lib.generate(model, ids, **settings).tolist() == [[10, 11, 12, 13]]
    found = lib.generate(model, ids, eos_token_id=-1, **settings)
    assert found.tolist() == [[10, 11, 12, 13, 14, 15, 16]]
    assert (
        found.tolist()
        == lib.generate(model, ids, eos_token_id=[-1], **settings).tolist()
    )


def test_a_pad_that_the_model_does_not_know_is_passed_over():
    """A tokenizer's added pad token, or an old checkpoint's pad of -1."""
    model = Scripted(lambda ids: one_hot((ids[:, -1] + 1) % VOCAB))
    ids = torch.tensor([[10], [8]])
    for pad in (-1, VOCAB):
        model.config.pad_token_id = pad
        found = lib.generate(model, ids, eos_token_id=13, max_new_tokens=9)
        assert found[0].tolist() == [10, 11, 12, 13, 13, 13]
