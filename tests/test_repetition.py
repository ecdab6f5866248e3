"""The n-gram ban: its definition, its incremental twin, its padding, transformers."""

from __future__ import annotations

import pytest
import torch
from drawn import DTYPES, INF, kept, same
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor

from lib import (
    NGramIndex,
    SamplingSettings,
    Step,
    apply_no_repeat_ngram,
)
from lib import build_pipeline as build
from lib.pipeline import RememberedBan

VOCAB = 4

orders = st.integers(1, 5)
histories = st.lists(st.integers(0, VOCAB - 1), max_size=14)


@st.composite
def batches(draw, max_rows=3):
    """Histories of equal length ``(rows, length)``."""
    length = draw(st.integers(1, 12))
    rows = draw(
        st.lists(
            st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length),
            min_size=1,
            max_size=max_rows,
        )
    )
    return torch.tensor(rows)


@st.composite
def padded(draw):
    """Histories with left padding of any ids: (input_ids, attention_mask, texts)."""
    texts = draw(st.lists(histories.filter(bool), min_size=1, max_size=3))
    width = max(map(len, texts)) + draw(st.integers(0, 2))
    ids, mask = [], []
    for text in texts:
        fill = width - len(text)
        junk = draw(st.lists(st.integers(0, VOCAB - 1), min_size=fill, max_size=fill))
        ids.append(junk + text)
        mask.append([0] * fill + [1] * len(text))
    return torch.tensor(ids), torch.tensor(mask), texts


def banned_by_hand(text, n):
    """Tokens v such that the last n - 1 tokens and v are an n-gram of the text."""
    grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    if len(text) < n - 1:
        return set()
    suffix = tuple(text[len(text) - (n - 1) :])
    return {v for v in range(VOCAB) if (*suffix, v) in grams}


def zeros(ids, dtype=torch.float32):
    return torch.zeros(ids.shape[0], VOCAB, dtype=dtype)


def banned(*arguments):
    """The set of tokens that ``apply_no_repeat_ngram`` removes, for each row."""
    y = apply_no_repeat_ngram(*arguments)
    return [set((row == -INF).nonzero().flatten().tolist()) for row in y]


@given(batches(), orders)
def test_the_ban_is_its_definition(ids, n):
    expected = [banned_by_hand(row, n) for row in ids.tolist()]
    assert banned(ids, zeros(ids), n) == expected


@given(batches(), orders)
def test_no_ngram_ever_repeats_and_nothing_else_is_banned(ids, n):
    """A token is banned iff appending it makes its n-gram occur a second time."""
    for row, out in zip(ids.tolist(), banned(ids, zeros(ids), n), strict=True):
        for token in range(VOCAB):
            longer = [*row, token]
            grams = [tuple(longer[i : i + n]) for i in range(len(longer) - n + 1)]
            assert (token in out) == (grams[-1:] != [] and grams.count(grams[-1]) > 1)


@given(batches(), orders)
def test_the_ban_equals_transformers_without_padding(ids, n):
    z = torch.randn(ids.shape[0], VOCAB, generator=torch.Generator().manual_seed(0))
    theirs = NoRepeatNGramLogitsProcessor(n)(ids, z.clone())
    assert same(apply_no_repeat_ngram(ids, z, n), theirs)


@given(histories, orders)
def test_the_index_is_the_ban_on_every_prefix(text, n):
    index = NGramIndex(n)
    for position in range(len(text) + 1):
        past = text[:position]
        assert index.banned() == banned_by_hand(past, n)
        assert NGramIndex(n, past).banned() == index.banned()
        ids = torch.tensor([past], dtype=torch.long)
        assert banned(ids, zeros(ids), n) == [index.banned()]
        if position < len(text):
            index.append(text[position])


def test_what_the_index_returns_does_not_change_later():
    index = NGramIndex(2, [0, 1, 0])
    before = index.banned()
    index.append(2)
    index.append(0)
    assert before == {1}
    assert index.banned() == {1, 2}


@given(padded(), orders)
def test_masked_positions_are_no_history(batch, n):
    ids, mask, texts = batch
    expected = [banned_by_hand(text, n) for text in texts]
    assert banned(ids, zeros(ids), n, mask) == expected
    assert banned(ids, zeros(ids), n, mask.bool()) == expected


@given(batches(), orders)
def test_a_mask_of_ones_is_no_mask(ids, n):
    z = zeros(ids)
    with_mask = apply_no_repeat_ngram(ids, z, n, torch.ones_like(ids))
    assert same(apply_no_repeat_ngram(ids, z, n), with_mask)


def test_no_ngram_goes_through_a_masked_position_wherever_it_is():
    ids = torch.tensor([[0, 1, 0]])
    for mask, expected in (
        ([1, 1, 1], {1}),
        ([0, 1, 1], set()),
        ([1, 0, 1], set()),
        ([1, 1, 0], set()),  # the current suffix is masked
    ):
        assert banned(ids, zeros(ids), 2, torch.tensor([mask])) == [expected]


def test_transformers_counts_pads_as_history():
    """The one case that differs: the padding's id is a token of the text too.

    The text is 1 0. Padded with three 0s, the bigrams (0, 0) and (0, 1) have occurred,
    but not in the text: both may follow. transformers bans 0 and 1.
    """
    ids, mask = torch.tensor([[0, 0, 0, 1, 0]]), torch.tensor([[0, 0, 0, 1, 1]])
    theirs = NoRepeatNGramLogitsProcessor(2)(ids, zeros(ids))
    assert kept(theirs).tolist() == [[False, False, True, True]]
    assert banned(ids, zeros(ids), 2, mask) == [set()]
    assert banned(ids, zeros(ids), 2) == [{0, 1}]


@given(padded(), orders, st.data())
def test_the_ban_of_a_pipeline_with_memory_is_the_pure_one(batch, n, data):
    """Step after step of one generation, whatever tokens are chosen."""
    ids, mask, _ = batch
    pipeline = build(SamplingSettings(no_repeat_ngram_size=n))
    remembering = pipeline.with_memory()
    rows = ids.shape[0]
    for index in range(5):
        z = zeros(ids)
        allowed = apply_no_repeat_ngram(ids, z, n, mask)
        live = kept(allowed).any(dim=-1)
        step = Step(ids, mask, index, live)
        assert same(remembering.process(step, z), allowed)
        assert same(pipeline.process(step, z), allowed)
        chosen = data.draw(
            st.lists(st.integers(0, VOCAB + 1), min_size=rows, max_size=rows)
        )
        ids = torch.cat([ids, torch.tensor(chosen)[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones(rows, 1, dtype=torch.long)], dim=1)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("layout", ["plain", "expanded", "transposed", "with gradient"])
def test_choosing_with_memory_bans_and_leaves_the_logits_as_they_were(
    do_sample, layout
):
    """The ban is written into the logits and taken back, where nobody can notice."""
    pipeline = build(SamplingSettings(do_sample=do_sample, no_repeat_ngram_size=2))
    ids = torch.tensor([[0, 1, 0], [2, 3, 2]])
    z = torch.tensor([[0.0, 9.0, 1.0, 2.0], [0.0, 1.0, 2.0, 9.0]])
    if layout == "expanded":
        ids, z = ids[:1].repeat(2, 1), z[:1].expand(2, -1)
    elif layout == "transposed":
        z = z.T.contiguous().T
    elif layout == "with gradient":
        z.requires_grad_()
    u = torch.tensor([0.5, 0.5]).double()
    before = z.detach().clone()
    tokens = pipeline.with_memory().choose(Step(ids), z, u)
    assert torch.equal(tokens, pipeline.choose(Step(ids), z, u))
    assert tokens[0] != 1
    assert torch.equal(z, before)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_token_that_the_model_can_read_but_not_write_bans_nothing(do_sample):
    """Taken for a place in the logits, token 5 would be the next row's token 1."""
    settings = SamplingSettings(do_sample=do_sample, no_repeat_ngram_size=2)
    pipeline = build(settings).with_memory()
    ids = torch.tensor([[0, 5, 0], [5, 2, 5]])
    z = torch.tensor([[0.0, 0.0, 0.0, 99.0], [0.0, 99.0, 100.0, 0.0]])
    u = torch.tensor([0.5, 0.5]).double()
    assert pipeline.choose(Step(ids), z, u).tolist() == [3, 1]


def test_logits_are_put_back_after_an_error():
    ban, z = RememberedBan(1), torch.tensor([[1.0, 2.0]])

    def interrupted():
        assert z.tolist() == [[-torch.inf, 2.0]]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ban.during(Step(torch.tensor([[0]])), z, interrupted)
    assert z.tolist() == [[1.0, 2.0]]


def test_a_pipeline_can_serve_two_generations():
    """with_memory makes a fresh memory each time; the pipeline itself has none."""
    pipeline = build(SamplingSettings(no_repeat_ngram_size=1))
    for text, expected in (([0], {0}), ([1, 2], {1, 2})):
        ids = torch.tensor([text])
        out = pipeline.with_memory().process(Step(ids, None, 0), zeros(ids))
        assert set((~kept(out)[0]).nonzero().flatten().tolist()) == expected


# Worked examples, among them the errors of the seed note's ban


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 3, 0, 1], 3, {2}),  # the cycle that must be broken
        ([2, 2, 0, 1], 2, set()),  # 2 came twice in a row, yet no bigram would repeat
        ([0, 0, 0], 2, {0}),
        ([0, 1, 0, 2, 0], 2, {1, 2}),
        ([0, 1, 3], 1, {0, 1, 3}),  # unigrams: no token twice
        ([0, 1], 3, set()),  # no trigram yet
        ([1, 1], 3, set()),
        ([1, 1, 1], 3, {1}),  # overlapping n-grams count
        ([], 2, set()),
        ([], 1, set()),
    ],
)
def test_worked_examples(text, n, expected):
    ids = torch.tensor([text], dtype=torch.long)
    assert banned(ids, zeros(ids), n) == [expected]


def test_an_ngram_has_n_tokens_not_n_plus_1():
    """After 0 1 2 0: with n = 2 the bigram (0, 1) is banned, with n = 3 nothing is."""
    ids = torch.tensor([[0, 1, 2, 0]])
    assert banned(ids, zeros(ids), 2) == [{1}]
    assert banned(ids, zeros(ids), 3) == [set()]


# Algebra and manners


@given(batches(), orders)
def test_the_ban_is_idempotent_and_touches_no_other_logit(ids, n):
    z = torch.randn(ids.shape[0], VOCAB, generator=torch.Generator().manual_seed(1))
    once = apply_no_repeat_ngram(ids, z, n)
    assert torch.equal(once[kept(once)], z[kept(once)])
    alive = kept(once).any(dim=-1)
    assert same(
        apply_no_repeat_ngram(ids[alive], once[alive], n) if alive.any() else once[:0],
        once[alive],
    )


@given(batches(), orders, st.integers(-400, 400).map(lambda quarters: quarters / 4))
def test_a_common_shift_bans_the_same_tokens(ids, n, shift):
    z = zeros(ids)
    assert same(
        apply_no_repeat_ngram(ids, z + shift, n),
        apply_no_repeat_ngram(ids, z, n) + shift,
    )


@given(batches(), orders, st.permutations(range(VOCAB)))
def test_renaming_the_tokens_renames_the_result(ids, n, names):
    """Token v is now called names[v], in the history and in the logits."""
    z = torch.arange(float(VOCAB)).expand(ids.shape[0], VOCAB)
    names = torch.tensor(names)
    renamed = torch.empty_like(z)
    renamed[:, names] = z
    y = apply_no_repeat_ngram(names[ids], renamed, n)
    assert same(y[:, names], apply_no_repeat_ngram(ids, z, n))


@given(batches(), orders)
def test_longer_ngrams_ban_less(ids, n):
    shorter = kept(apply_no_repeat_ngram(ids, zeros(ids), n))
    longer = kept(apply_no_repeat_ngram(ids, zeros(ids), n + 1))
    assert (longer | ~shorter).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ids_dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_dtypes_stay_and_inputs_stay(dtype, ids_dtype):
    ids = torch.tensor([[0, 1, 0], [2, 3, 3]], dtype=ids_dtype)
    z = torch.randn(2, VOCAB).to(dtype)
    before = z.clone()
    y = apply_no_repeat_ngram(ids, z, 2)
    assert y.dtype == dtype
    assert y.device == z.device
    assert same(z, before)
    assert ids.tolist() == [[0, 1, 0], [2, 3, 3]]
    assert (~kept(y)).nonzero().tolist() == [[0, 1], [1, 3]]


@pytest.mark.parametrize("n", [0, 2, 9])
def test_the_result_shares_no_memory_with_the_input(n):
    z = torch.zeros(1, VOCAB)
    apply_no_repeat_ngram(torch.tensor([[0, 1, 0]]), z, n).fill_(7.0)
    assert z.tolist() == [[0.0] * VOCAB]


@given(batches())
def test_0_is_off(ids):
    assert same(apply_no_repeat_ngram(ids, zeros(ids), 0), zeros(ids))


def test_a_row_may_lose_every_token():
    ids = torch.tensor([[0, 1, 2, 3]])
    assert banned(ids, zeros(ids), 1) == [{0, 1, 2, 3}]


def test_ids_beyond_the_logits_are_history_but_nothing_to_ban():
    """An embedding may be wider than the output, as in a world: its start token."""
    ids = torch.tensor([[VOCAB, 0, VOCAB]])
    assert banned(ids, zeros(ids), 2) == [{0}]
    assert banned(ids, zeros(ids), 1) == [{0}]


@pytest.mark.gpu
def test_results_on_a_gpu_stay_there_and_agree():
    ids = torch.randint(0, VOCAB, (4, 64), generator=torch.Generator().manual_seed(0))
    for n in (1, 2, 3):
        y = apply_no_repeat_ngram(ids.cuda(), zeros(ids).cuda(), n)
        assert y.device.type == "cuda"
        assert same(y.cpu(), apply_no_repeat_ngram(ids, zeros(ids), n))
