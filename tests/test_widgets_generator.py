"""The figures of the ban, of common luck and of the pipeline: data and refusals.

What they draw is checked in a browser, on the built book.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import lib

pytest.importorskip("anywidget")

from lib import widgets

WORDS = ["bed", "cat", "floor", "mat", "on", "roof", "sat", "sofa", "the"]
TEXT = torch.tensor([8, 1, 6, 4, 8, 3, 8, 1])  # the cat sat on the mat the cat
STEPS = torch.arange(72.0).reshape(8, 9).sin() * 3
HISTORIES = [TEXT[:5], TEXT]


def sent(figure):
    """The logits that the page gets."""
    table = np.frombuffer(figure.logits, dtype="<f4").reshape(-1, figure.vocab)
    return torch.tensor(table)


def ban(**settings):
    return widgets.NGramBan(STEPS, WORDS, TEXT, **settings)


def luck(**settings):
    return widgets.CommonLuck(STEPS, WORDS, **settings)


def waterfall(histories=HISTORIES, **settings):
    return widgets.Waterfall(STEPS[:2], WORDS, histories=histories, **settings)


@pytest.fixture(scope="module")
def looping():
    """A greedy text of the smaller model, its logits, and the tokenizer."""
    nano, tokenizer = lib.load("nano")
    start = tokenizer("The dog", return_tensors="pt")["input_ids"]
    text = lib.generate(nano, start, max_new_tokens=60, eos_token_id=-1)[0]
    return nano(text[None]).logits[0].detach(), text, tokenizer


def test_the_ban_sends_few_columns_and_the_whole_vocabulary_s_probabilities(looping):
    logits, text, tokenizer = looping
    figure = widgets.NGramBan(logits, tokenizer, text)
    assert figure.vocab < 150 < logits.shape[-1]
    p, q = logits.double().softmax(-1), sent(figure).double().softmax(-1)
    for token, column in zip(text.tolist(), figure.text, strict=True):
        assert torch.allclose(p[:, token], q[:, column], rtol=1e-5, atol=1e-9)
    assert torch.allclose(q.sum(-1), torch.ones(len(text), dtype=torch.double))


def test_the_ban_s_text_reads_as_before(looping):
    logits, text, tokenizer = looping
    figure = widgets.NGramBan(logits, tokenizer, text)
    words = json.loads(figure.words)
    assert "".join(words[column] for column in figure.text) == tokenizer.decode(text)
    assert words[-1] == "all others"
    assert figure.vocab - 1 not in figure.text


def test_the_best_token_is_found_after_any_ban(looping):
    logits, text, tokenizer = looping
    figure = widgets.NGramBan(logits, tokenizer, text)
    words, table = json.loads(figure.words), sent(figure)
    for t in range(1, len(text) + 1):
        for n in range(1, 7):
            whole = lib.apply_no_repeat_ngram(text[None, :t], logits[t - 1 : t], n)
            history = torch.tensor([figure.text[:t]])
            small = lib.apply_no_repeat_ngram(history, table[t - 1 : t], n)
            best = int(small[0, :-1].argmax())
            assert words[best] == tokenizer.decode([int(whole.argmax())])


def test_the_ban_with_every_word_in_the_text_has_no_others():
    every = torch.arange(9)
    figure = widgets.NGramBan(torch.zeros(9, 9), WORDS, every)
    assert bool((sent(figure)[:, -1] == -torch.inf).all())
    assert figure.text == every.tolist()
    assert figure.position == 9


def test_settings_arrive():
    assert ban(no_repeat_ngram_size=2, position=4).no_repeat_ngram_size == 2
    figure = luck(temperature=0.5, top_k=3, top_p=0.25, seed=7, draws=5)
    assert (figure.temperature, figure.top_k, figure.top_p) == (0.5, 3, 0.25)
    assert (figure.seed, figure.draws) == (7, 5)
    assert torch.equal(sent(figure), STEPS)
    figure = waterfall(u=0.25, top_k=0)
    assert figure.histories == [TEXT[:5].tolist(), TEXT.tolist()]
    assert (figure.u, figure.top_k) == (0.25, 0)


WRONG = [
    (lambda: ban(no_repeat_ngram_size=0), "no_repeat_ngram_size=0 must be an integer"),
    (lambda: ban(no_repeat_ngram_size=7), "from 1 to 6"),
    (lambda: ban(position=0), "position=0 must be an integer from 1 to 8"),
    (lambda: ban(position=9), "position=9 must be an integer from 1 to 8"),
    (
        lambda: widgets.NGramBan(STEPS[:3], WORDS, TEXT),
        "logits has shape (3, 9); it must be (8, vocab)",
    ),
    (
        lambda: widgets.NGramBan(STEPS, WORDS, TEXT + 1),
        "text holds the id 9; ids must be from 0 to 8",
    ),
    (
        lambda: widgets.NGramBan(STEPS, WORDS, TEXT[None]),
        "text must have shape (length,), got (1, 8)",
    ),
    (
        lambda: widgets.NGramBan(STEPS[:0], WORDS, TEXT[:0]),
        "text holds no token; its length must be >= 1",
    ),
    (lambda: widgets.NGramBan(STEPS, WORDS[:2], TEXT), "words has 2 texts"),
    (lambda: luck(temperature=0), "temperature=0 must be a number >= 0.05"),
    (lambda: luck(top_k=-1), "top_k=-1 must be an integer >= 0"),
    (lambda: luck(top_p=0), "top_p=0 must be a number >= 0.01 and <= 1"),
    (lambda: luck(seed=100), "seed=100 must be an integer from 0 to 99"),
    (lambda: luck(draws=0), "draws=0 must be an integer from 1 to 60"),
    (lambda: waterfall(no_repeat_ngram_size=7), "from 0 to 6"),
    (lambda: waterfall(temperature=20), "temperature=20 must be a number"),
    (lambda: waterfall(u=1), "u=1 must be a number >= 0 and <= 0.999"),
    (
        lambda: waterfall(HISTORIES[:1]),
        "histories has 1 entries; it must have 2",
    ),
    (
        lambda: waterfall([TEXT, TEXT + 1]),
        "histories[1] holds the id 9; ids must be from 0 to 8",
    ),
    (
        lambda: waterfall([TEXT, [1, 2]]),
        "histories[1] must have shape (length,), got [1, 2]",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_cannot_be_shown_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
