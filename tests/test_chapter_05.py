"""What chapter 5 proves beyond the ban itself: stuck texts, de Bruijn, whole laws."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lib
from lib import (
    EmptySupportError,
    NGramIndex,
    SamplingSettings,
    World,
    build_pipeline,
    distinct_n,
    plots,
    rep_n,
    softmax,
)


def ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def sampling(n):
    return build_pipeline(SamplingSettings(do_sample=True, no_repeat_ngram_size=n))


def stuck_texts(vocab, n):
    todo = list(product(range(vocab), repeat=n))
    while todo:
        text = todo.pop()
        left = set(range(vocab)) - NGramIndex(n, text).banned()
        if not left:
            yield text
        todo += [(*text, v) for v in left]


@pytest.mark.parametrize(("vocab", "n"), [(3, 1), (2, 2), (3, 2), (2, 3)])
def test_a_text_gets_stuck_only_where_it_began(vocab, n):
    """Propositions 5.3 and 5.4, on every text without a repeated n-gram."""
    lengths = set()
    for text in stuck_texts(vocab, n):
        assert text[: n - 1] == text[len(text) - n + 1 :]
        assert len(set(ngrams(text, n))) == len(text) - n + 1
        lengths.add(len(text))
    assert vocab + n - 1 <= min(lengths)
    assert max(lengths) == vocab**n + n - 1


def test_after_a_prompt_that_repeats_itself_a_text_can_be_stuck_elsewhere():
    """The premise of Proposition 5.4: 1 0 0 1 0 has the bigram 1 0 twice."""
    prompt = [1, 0, 0, 1, 0]
    assert NGramIndex(2, prompt).banned() == {0, 1}
    assert rep_n(prompt, 2) == 0.25
    assert prompt[0] != prompt[-1]


@pytest.mark.parametrize(("vocab", "n"), [(2, 1), (2, 4), (3, 2), (3, 3), (5, 2)])
def test_the_greediest_text_has_every_ngram_once(vocab, n):
    """Martin's "prefer the largest", from n - 1 zeros: a de Bruijn sequence."""
    choose = build_pipeline(SamplingSettings(no_repeat_ngram_size=n))
    text = torch.zeros(1, n - 1, dtype=torch.long)
    taste = torch.arange(float(vocab))[None]
    for _ in range(vocab**n):
        text = torch.cat([text, choose(text, taste)[:, None]], dim=1)
    with pytest.raises(EmptySupportError, match="no_repeat_ngram"):
        choose(text, taste)
    row = text[0].tolist()
    assert sorted(ngrams(row, n)) == list(product(range(vocab), repeat=n))
    assert distinct_n(row, n) == 1.0
    assert rep_n(row, n) == 0.0


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([0.3, 1.0]))
def test_the_law_of_the_ban_and_the_law_that_looks_ahead(seed, sharpness):
    """Equations (5.8) and (5.10), text by text."""
    world, n = World.random(3, 4, seed=seed, sharpness=sharpness), 2
    texts = world.sequences().tolist()
    law = world.sequence_law()
    obeys = torch.tensor([len(set(ngrams(x, n))) == len(x) - n + 1 for x in texts])
    factor = torch.ones(len(texts), dtype=torch.float64)
    for i, text in enumerate(texts):
        for t in range(len(text) if obeys[i] else 0):
            past = torch.tensor([text[:t]], dtype=torch.long)
            p = softmax(world.next_logits(past))[0]
            factor[i] /= 1 - p[list(NGramIndex(n, text[:t]).banned())].sum()
    allowed = torch.where(obeys, law, 0.0)
    torch.testing.assert_close(world.sequence_law(sampling(n)), allowed * factor)

    levels = []
    for t in range(4):
        ahead = allowed.view(3**t, 3, -1).sum(-1)  # p of a prefix, times h
        ahead[ahead.sum(-1) == 0] = 1.0
        levels.append(ahead.log())
    torch.testing.assert_close(World(levels).sequence_law(), allowed / allowed.sum())


def test_on_paper_the_ban_writes_one_text_5_times_too_often():
    table = {(): [0.5, 0.5, 0.0], (0,): [0.9, 0.0, 0.1], (1,): [0.0, 0.0, 1.0]}
    law = World.from_table(table, 2).sequence_law(sampling(1)).view(3, 3)
    assert law[0, 2].item() == pytest.approx(1 / 2)  # 1/11 if conditioned
    assert law[1, 2].item() == pytest.approx(1 / 2)


def test_the_dots_are_the_equal_ngrams():
    pytest.importorskip("matplotlib").use("Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    _, ax = plt.subplots()
    plots.repeats([0, 1, 2, 0, 1, 2, 0], 2, below=[5, 5, 5], ax=ax)
    _, above, below = ax.lines
    dots = set(zip(above.get_xdata(), above.get_ydata(), strict=True))
    assert dots == {(0, 3), (1, 4), (2, 5)}
    assert (below.get_xdata().tolist(), below.get_ydata().tolist()) == ([1], [0])
    plt.close("all")


def test_bars_of_moved_steps_are_marked():
    pytest.importorskip("matplotlib").use("Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    _, ax = plt.subplots()
    plots.banned_mass([0.25, 0.5, 0.75], [False, True, False], ax=ax)
    heights = {round(b.get_x() + 0.5): b.get_height() for b in ax.patches}
    assert heights == {0: 0.25, 1: 0.5, 2: 0.75}
    assert list(ax.lines[0].get_xdata()) == [1]
    plt.close("all")


# The answers under Play


@pytest.fixture(scope="module")
def stories():
    """Both models, and the prompt of the chapter."""
    nano, tokenizer = lib.load("nano", device="cpu")
    tiny, _ = lib.load(device="cpu")
    prompt = tokenizer("The dog", return_tensors="pt")["input_ids"]
    return {"nano": nano, "tiny": tiny}, prompt


LONG = {"max_new_tokens": 200, "eos_token_id": -1}


@pytest.mark.parametrize(
    ("name", "n", "moved"),
    [("tiny", 3, 13), ("tiny", 2, 34), ("tiny", 6, 0), ("nano", 6, 6)],
)
def test_how_often_the_best_token_is_banned(stories, name, n, moved):
    models, prompt = stories
    run = lib.trace(models[name], prompt, no_repeat_ngram_size=n, **LONG)
    assert sum(step.rank > 0 for step in run.steps) == moved
    if (name, n) == ("tiny", 6):
        masses = sorted(step.stages[0].mass for step in run.steps)
        assert masses[-4] < 0.01 < masses[-3]
        assert masses[-1] == pytest.approx(0.35, abs=0.005)
        assert run.sequences == lib.trace(models[name], prompt, **LONG).sequences


def test_what_a_ban_would_have_removed_from_the_free_text(stories):
    models, prompt = stories
    text = lib.generate(models["nano"], prompt, **LONG)[0]
    p = softmax(models["nano"](text[None]).logits[0].detach())
    begin, heavy = prompt.shape[1], []
    for t in range(begin, len(text)):
        gone = list(NGramIndex(3, text[:t].tolist()).banned())
        if p[t - 1, gone].sum() > 0.5:
            heavy.append(t - begin)
    assert len(heavy) == 51
    assert sum(step >= 100 for step in heavy) == 47


@pytest.mark.parametrize(
    ("name", "low", "high"), [("tiny", 0.005, 0.09), ("nano", 0.025, 0.07)]
)
def test_sampled_stories_repeat_little_without_a_ban(stories, name, low, high):
    models, prompt = stories
    texts = lib.generate(
        models[name], prompt.repeat(5, 1), do_sample=True, seed=range(1, 6), **LONG
    )
    shares = [rep_n(text, 3) for text in texts]
    # Another order of summation can turn one draw, and with it the rest of a text.
    assert (min(shares), max(shares)) == pytest.approx((low, high), abs=0.006)
