"""Exact against ``transformers``: the same tokens, the same support, the same luck.

Every comparison here is shown to be one: mutants of the forward step and of the loop,
each a mistake that somebody has made, must turn it red.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from model_zoo import CONTEXT, FAMILIES, VOCAB, prompts, random_model
from transformers import LogitsProcessorList, TopPLogitsWarper

import lib
import lib.forward
import lib.generator
from lib.forward import CachedForward
from lib.pipeline import Step
from lib.selection import sample_stage

NEW = 24
SINGLE, PADDED = (9,), (5, 9, 1, 6)
FAMILY = pytest.mark.parametrize("family", FAMILIES)
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def theirs(model, ids, mask, **settings):
    """What ``transformers`` makes of the settings; -1 is no token of its own."""
    if settings.get("eos_token_id") == -1:
        settings["eos_token_id"] = None
    settings = {"do_sample": False, "pad_token_id": 0, **settings}
    if settings["do_sample"]:
        settings = OFF | settings
    return model.generate(ids, attention_mask=mask, **settings)


def ours(model, ids, mask, **settings):
    settings = {"pad_token_id": 0, **settings}
    return lib.generate(model, ids, attention_mask=mask, **settings)


def new_tokens(sequences, ids, model):
    """The part that was generated."""
    begun = 1 if model.config.is_encoder_decoder else ids.shape[1]
    return sequences[:, begun:]


@cache
def an_end(family, lengths):
    """A token that ends the first row, when, and (in a batch) not every other row.

    The row has not met the token before: until then the end changes nothing.
    """
    model, (ids, mask) = random_model(family), prompts(lengths)
    first, *others = new_tokens(
        ours(model, ids, mask, max_new_tokens=NEW), ids, model
    ).tolist()
    new = [t for t in range(NEW) if t < 16 and first[t] not in first[:t]]
    spared = [t for t in new if not all(first[t] in row for row in others)]
    step = max(spared if others else new)
    return first[step], step


def ends(family, lengths):
    """No end, one, and two."""
    token, _ = an_end(family, lengths)
    other = (token + 1) % VOCAB
    return {"none": -1, "one": token, "two": [other, token]}


@pytest.fixture(scope="module")
def embedded():
    return {name: lib.load(name, device="cpu") for name in ("tiny", "nano")}


# --- greedy: token for token ------------------------------------------------------


@FAMILY
def test_the_models_do_not_repeat_themselves(family):
    """With fewer tokens, agreement would say little."""
    model = random_model(family)
    for lengths in (SINGLE, PADDED):
        ids, mask = prompts(lengths)
        new = new_tokens(ours(model, ids, mask, max_new_tokens=NEW), ids, model)
        assert len(new.unique()) >= 10


GREEDY = [  # size of the banned n-grams, ends, least length
    (0, "none", 0),
    (0, "one", 0),
    (0, "two", 18),
    (1, "none", 0),
    (2, "one", 0),
    (2, "none", 18),
    (3, "one", 18),
    (3, "two", 0),
]


@FAMILY
@pytest.mark.parametrize("lengths", [SINGLE, PADDED], ids=["alone", "padded batch"])
def test_greedy_is_equal_token_for_token(family, lengths):
    """n-gram ban x end of sequence x least length, alone and padded on the left."""
    model = random_model(family)
    ids, mask = prompts(lengths)
    lengths_seen = set()
    choices = ends(family, lengths)
    for n, name, least in GREEDY:
        if n == 1 and len(lengths) > 1 and family != "t5":
            continue  # they take padding for history: see the test of that difference
        settings = {
            "max_new_tokens": NEW,
            "no_repeat_ngram_size": n,
            "eos_token_id": choices[name],
            "min_new_tokens": least,
        }
        wanted = theirs(model, ids, mask, **settings)
        found = ours(model, ids, mask, **settings)
        assert torch.equal(found, wanted), (n, name, least)
        lengths_seen.add(found.shape[1])
    assert len(lengths_seen) > (1 if len(lengths) == 1 else 0), "no run ended early"


@FAMILY
def test_rows_that_end_are_padded_alike(family):
    """One row ends, the others go on: the pads are where theirs are."""
    model = random_model(family)
    ids, mask = prompts(PADDED)
    eos, _ = an_end(family, PADDED)
    settings = {"max_new_tokens": NEW, "eos_token_id": eos, "pad_token_id": 3}
    found = ours(model, ids, mask, **settings)
    assert torch.equal(found, theirs(model, ids, mask, **settings))
    ended = (new_tokens(found, ids, model) == eos).any(dim=1)
    assert ended.any()
    assert not ended.all()


@FAMILY
@pytest.mark.parametrize("lengths", [SINGLE, PADDED], ids=["alone", "padded batch"])
def test_max_length_counts_what_theirs_counts(family, lengths):
    model = random_model(family)
    ids, mask = prompts(lengths)
    settings = {"max_length": ids.shape[1] + 8, "eos_token_id": -1}
    found = ours(model, ids, mask, **settings)
    assert torch.equal(found, theirs(model, ids, mask, **settings))
    assert found.shape[1] == ids.shape[1] + 8


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"t5"}))
def test_without_a_length_it_goes_to_the_end_of_the_context(family):
    model = random_model(family)
    ids, mask = prompts(SINGLE)
    found = ours(model, ids, None, eos_token_id=-1)
    wanted = theirs(model, ids, mask, max_length=CONTEXT, eos_token_id=-1)
    assert torch.equal(found, wanted)
    assert found.shape[1] == CONTEXT


@FAMILY
def test_end_and_pad_come_from_the_model_as_theirs_do(family, monkeypatch):
    """First its generation_config, then its config; pad from the first end."""
    model = random_model(family)
    ids, mask = prompts(PADDED)
    eos = ends(family, PADDED)["two"]
    monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
    settings = {"max_new_tokens": NEW, "pad_token_id": None}
    found = ours(model, ids, mask, **settings)
    assert torch.equal(found, theirs(model, ids, mask, **settings))
    assert (new_tokens(found, ids, model)[0, -1] == eos[0]).all()  # the first pads


@pytest.mark.parametrize("name", ["tiny", "nano"])
@pytest.mark.parametrize("n", [0, 2, 3])
def test_the_embedded_models_are_equal_too(name, n, embedded):
    model, tokenizer = embedded[name]
    texts = ["Once upon a time", "Lily", "The little dog wanted to play with"]
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    settings = {"max_new_tokens": 40, "no_repeat_ngram_size": n}
    for least in (0, 30):
        settings["min_new_tokens"] = least
        found = ours(model, ids, mask, **settings)
        assert torch.equal(found, theirs(model, ids, mask, **settings))
    assert len(found[:, ids.shape[1] :].unique()) >= 10


@pytest.mark.parametrize("name", ["tiny", "nano"])
@pytest.mark.parametrize("stop", [" the", ["a", "e ", "."], "e th", "no such text"])
def test_stop_strings_end_where_theirs_end(name, stop, embedded):
    """A string within a token, one of several, one across tokens, one never met."""
    model, tokenizer = embedded[name]
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"].repeat(2, 1)
    ids[1, -1] = ids[1, -2]
    settings = {"max_new_tokens": 24, "stop_strings": stop, "tokenizer": tokenizer}
    found = ours(model, ids, None, **settings)
    assert torch.equal(found, theirs(model, ids, torch.ones_like(ids), **settings))


def test_padding_is_no_history_for_the_ban_but_is_for_theirs():
    """The one difference: they ban a token because padding holds its id."""
    model = random_model("llama")
    ids, mask = prompts(PADDED)
    free = ours(model, ids, mask, max_new_tokens=1)[:, -1]
    pad = int(free[2])  # the favourite of the row with most padding
    assert pad not in ids[2][mask[2].bool()]
    ids = torch.where(mask.bool(), ids, torch.tensor(pad))
    settings = {"max_new_tokens": 1, "no_repeat_ngram_size": 1}
    found = ours(model, ids, mask, **settings)[:, -1]
    wanted = theirs(model, ids, mask, **settings)[:, -1]
    assert found[2] == pad
    assert wanted[2] != pad
    alone = ours(model, ids[2:3, -1:], None, **settings)[:, -1]
    assert alone[0] == pad  # what the row gives without any padding


# --- mutants: the comparisons above see every mistake -------------------------------


def disagree(family, lengths, *, n=0, ends=False, least=False):
    """Whether greedy decoding differs from theirs (or crashes) in one setting.

    ``ends``: with an end; ``least``: and a least length just past it.
    """
    model = random_model(family)
    ids, mask = prompts(lengths)
    eos, step = an_end(family, lengths)
    settings = {
        "max_new_tokens": NEW,
        "no_repeat_ngram_size": n,
        "eos_token_id": eos if ends or least else -1,
        "min_new_tokens": step + 1 if least else 0,
    }
    wanted = theirs(model, ids, mask, **settings)
    return not torch.equal(ours(model, ids, mask, **settings), wanted)


def positions_all_zero(monkeypatch):
    monkeypatch.setattr(lib.forward, "positions", torch.zeros_like)


def positions_of_the_padded_row(monkeypatch):
    def naive(mask):
        return torch.arange(mask.shape[1]).expand_as(mask)

    monkeypatch.setattr(lib.forward, "positions", naive)


def positions_one_too_many(monkeypatch):
    right = lib.forward.positions
    monkeypatch.setattr(lib.forward, "positions", lambda mask: right(mask) + 1)


def mask_ignored(monkeypatch):
    begin = CachedForward.__init__

    def blind(self, model, input_ids, attention_mask):
        begin(self, model, input_ids, None)

    step = CachedForward.logits
    monkeypatch.setattr(CachedForward, "__init__", blind)
    monkeypatch.setattr(
        CachedForward, "logits", lambda self, ids, _: step(self, ids, None)
    )


def mask_not_extended(monkeypatch):
    """The mask of the prompt alone, cut to length: new tokens stay unseen."""
    step = CachedForward.logits

    def short(self, ids, mask):
        self.prompt = getattr(self, "prompt", ids.shape[1])
        if mask is not None:
            mask = mask.clone()
            mask[:, self.prompt : -1] = 0
        return step(self, ids, mask)

    monkeypatch.setattr(CachedForward, "logits", short)


def cache_stale(monkeypatch):
    """The cache of the prompt is never replaced by the next one."""
    step = CachedForward.logits

    def stale(self, ids, mask):
        import copy

        if self.cache is None:
            logits = step(self, ids, mask)
            self.first = copy.deepcopy(self.cache)
            return logits
        self.cache = copy.deepcopy(self.first)
        return step(self, ids, None)

    monkeypatch.setattr(CachedForward, "logits", stale)


def cache_lost(monkeypatch):
    """One token is fed, without what came before it."""
    step = CachedForward.logits

    def lost(self, ids, mask):
        self.cache = None
        return step(self, ids[:, -1:], None if mask is None else mask[:, -1:])

    monkeypatch.setattr(CachedForward, "logits", lost)


def token_before_the_last(monkeypatch):
    step = CachedForward.logits

    def late(self, ids, mask):
        if self.cache is not None:
            ids = torch.cat([ids[:, :-1], ids[:, -2:-1]], dim=1)
        return step(self, ids, mask)

    monkeypatch.setattr(CachedForward, "logits", late)


def least_length_off_by_one(monkeypatch):
    def early(ids, mask=None, index=None, live=None):
        return Step(ids, mask, index + 1, live)

    monkeypatch.setattr(lib.generator, "Step", early)


def history_without_the_prompt(monkeypatch):
    def short(ids, mask=None, index=None, live=None):
        begun = ids.shape[1] - index
        return Step(ids[:, begun:], None, index, live)

    monkeypatch.setattr(lib.generator, "Step", short)


def history_one_step_behind(monkeypatch):
    def behind(ids, mask=None, index=None, live=None):
        mask = None if mask is None else mask[:, :-1]
        return Step(ids[:, :-1], mask, index, live)

    monkeypatch.setattr(lib.generator, "Step", behind)


def rows_never_end(monkeypatch):
    begin = lib.generator._Loop.__init__

    def endless(self, *arguments):
        begin(self, *arguments)
        self._eos = self._eos[:0]

    monkeypatch.setattr(lib.generator._Loop, "__init__", endless)


MASKED = {"lengths": PADDED}
NEOX = {"gpt_neox"}
MUTANTS = [
    # A causal model is told positions and mask where there is padding; T5 computes
    # positions in its decoder, and sees padding through the encoder's mask alone.
    (positions_all_zero, {"gpt2", "llama", "qwen2", "gpt_neox"}, MASKED),
    (positions_of_the_padded_row, {"gpt2"}, MASKED),
    (positions_one_too_many, {"gpt2"}, MASKED),
    (mask_ignored, set(FAMILIES), MASKED),
    (mask_not_extended, FAMILIES.keys() - {"t5"}, MASKED),
    (cache_stale, set(FAMILIES), {"lengths": SINGLE}),
    (cache_lost, set(FAMILIES), {"lengths": SINGLE}),
    (token_before_the_last, set(FAMILIES), {"lengths": SINGLE}),
    (least_length_off_by_one, set(FAMILIES), {"lengths": SINGLE, "least": True}),
    (history_without_the_prompt, FAMILIES.keys() - {"t5"}, {"lengths": SINGLE, "n": 1}),
    (history_one_step_behind, FAMILIES.keys() - NEOX, {"lengths": SINGLE, "n": 1}),
    (history_one_step_behind, NEOX, {"lengths": SINGLE, "n": 2}),
    (rows_never_end, set(FAMILIES), {"lengths": PADDED, "ends": True}),
]  # fmt: skip
CASES = [
    pytest.param(mutant, family, setting, id=f"{mutant.__name__}-{family}")
    for mutant, families, setting in MUTANTS
    for family in sorted(families)
]


@pytest.mark.parametrize(("mutant", "family", "setting"), CASES)
def test_a_mutant_goes_red(mutant, family, setting, monkeypatch):
    # The mutants are of the general path; test_gpt2.py has those of the other one.
    monkeypatch.setattr(lib.generator, "supports", lambda model: False)
    assert not disagree(family, **setting)
    mutant(monkeypatch)
    assert disagree(family, **setting), f"{mutant.__name__} passes unseen"


# --- sampling: the same support, the same probabilities, the same luck ---------------

GRID = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.8, "top_k": 12},
    {"top_k": 5},
    {"top_p": 0.6},
    {"top_p": 0.95, "top_k": 30},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "no_repeat_ngram_size": 2},
    {"top_p": 0.9, "min_new_tokens": 10, "no_repeat_ngram_size": 3},
]


def without_padding(settings, lengths):
    """Equal lengths where there is a ban: padding is history to them."""
    ban = "no_repeat_ngram_size" in settings
    return (max(lengths),) * len(lengths) if ban else lengths


def forced(model, ids, mask, sequences, settings, eos):
    """Our logits after all stages at each step of a text that is already there.

    With each comes which rows are too close to the boundary of top_p to compare:
    within 1e-5 rounding decides (they sum in float32, from the other end).
    """
    encodes = model.config.is_encoder_decoder
    begun = 1 if encodes else ids.shape[1]
    chosen = lib.SamplingSettings(do_sample=True, eos_token_id=eos, **settings)
    pipeline = lib.build_pipeline(chosen).with_memory()
    close = torch.zeros(len(ids), dtype=torch.bool)

    def watch(stage, before, after):
        if stage.name == "top_p":
            ranked = before.double().softmax(-1).sort(-1, descending=True).values
            near = (ranked.cumsum(-1) - chosen.top_p).abs() < 1e-5
            close[:] = near.any(dim=-1)

    with torch.inference_mode():
        forward = CachedForward(model, ids, mask)
        for length in range(begun, sequences.shape[1]):
            history = sequences[:, :length]
            seen = None
            if not encodes:
                seen = torch.cat([mask, mask.new_ones(len(ids), length - begun)], dim=1)
            step = Step(history, seen, length - begun)
            final = pipeline.process(step, forward.logits(history, seen), watch)
            yield final, close.clone()


@FAMILY
@pytest.mark.parametrize("settings", GRID, ids=str)
def test_support_and_probabilities_equal_theirs_at_every_step(family, settings):
    """On the prefixes that they sampled, padded on the left, two samples a prompt."""
    model = random_model(family)
    ids, mask = prompts(without_padding(settings, (5, 9)))
    eos = 11
    torch.manual_seed(5)
    out = theirs(
        model,
        ids,
        mask,
        do_sample=True,
        max_new_tokens=12,
        eos_token_id=eos,
        num_return_sequences=2,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    ids, mask = ids.repeat_interleave(2, dim=0), mask.repeat_interleave(2, dim=0)
    finals = forced(model, ids, mask, out.sequences, settings, [eos])
    tokens = new_tokens(out.sequences, ids, model)
    live = torch.ones(len(ids), dtype=torch.bool)
    possible = compared = 0
    for step, (scores, (final, close)) in enumerate(
        zip(out.scores, finals, strict=True)
    ):
        rows = live & ~close
        found, wanted = final[rows], scores[rows]
        assert torch.equal(found > -torch.inf, wanted > -torch.inf), f"step {step}"
        torch.testing.assert_close(
            found.softmax(-1), wanted.softmax(-1), rtol=1e-4, atol=1e-6
        )
        possible, compared = possible + int(live.sum()), compared + int(rows.sum())
        live = live & (tokens[:, step] != eos)
    assert compared >= 0.95 * possible >= 12


@FAMILY
@pytest.mark.parametrize("settings", GRID, ids=str)
def test_under_our_luck_they_sample_our_texts(family, settings, monkeypatch):
    """Their generate, with our uniforms in place of its own draws."""
    model = random_model(family)
    ids, mask = prompts(without_padding(settings, (5, 9, 2)))
    seeds, samples, eos = [3, 2**40, 17], 3, 11
    luck = torch.cat([lib.uniforms(seed, range(samples), range(NEW)) for seed in seeds])
    draws = iter(luck.T)

    def draw(probabilities, num_samples):
        return sample_stage(probabilities.double().log(), next(draws))[:, None]

    settings = {
        **settings,
        "do_sample": True,
        "max_new_tokens": NEW,
        "eos_token_id": eos,
        "num_return_sequences": samples,
    }
    monkeypatch.setattr(torch, "multinomial", draw)
    wanted = theirs(model, ids, mask, **settings)
    monkeypatch.undo()
    found = ours(model, ids, mask, seed=seeds, **settings)
    assert torch.equal(found, wanted)
    assert len(new_tokens(found, ids, model).unique()) >= 10


def test_a_stage_of_ours_runs_in_their_loop():
    """as_logits_processor: their own truncation off, ours in its place."""
    model = random_model("llama")
    ids, mask = prompts(PADDED)
    texts = []
    for settings in (
        {"top_p": 0.6},
        {"logits_processor": [lib.as_logits_processor(lib.apply_top_p, top_p=0.6)]},
    ):
        torch.manual_seed(1)
        texts.append(
            theirs(model, ids, mask, do_sample=True, max_new_tokens=NEW, **settings)
        )
    assert torch.equal(*texts)


# --- ties: the difference is one class of equal logits, no more ----------------------


def coarse(logits):
    """Logits on a grid of halves, on which many are equal."""
    return (logits * 2).round() / 2


def boundary_class(logits, top_p):
    """The tokens that share the logit of the one that crosses top_p."""
    removed = lib.apply_top_p(logits, top_p) == -torch.inf
    crossing = logits.masked_fill(removed, torch.inf)
    return logits == crossing.amin(dim=-1, keepdim=True)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9, 0.99])
def test_top_p_keeps_the_whole_boundary_class_where_they_cut_it(top_p):
    source = torch.Generator().manual_seed(7)
    logits = coarse(3 * torch.randn(500, 97, generator=source))
    ours_kept = lib.apply_top_p(logits, top_p) > -torch.inf
    theirs_kept = TopPLogitsWarper(top_p)(None, logits) > -torch.inf
    tied = boundary_class(logits, top_p)
    assert torch.equal(ours_kept & ~tied, theirs_kept & ~tied)
    assert (ours_kept & tied).eq(tied).all(), "a class is kept whole"
    assert (theirs_kept & tied).any(dim=1).all(), "they keep a part of it"
    cut = (ours_kept != theirs_kept).any(dim=1)
    assert cut.sum() > 50  # the difference is no rarity where logits tie
    alone = tied.sum(dim=1) == 1
    assert alone.any()
    assert torch.equal(ours_kept[alone], theirs_kept[alone])


def test_the_tied_class_is_the_only_difference_within_a_generation():
    """The same in their loop, at every step, on the texts that they sampled."""
    model, top_p = random_model("llama"), 0.6
    ids, mask = prompts(PADDED)
    torch.manual_seed(3)
    out = theirs(
        model,
        ids,
        mask,
        do_sample=True,
        max_new_tokens=12,
        top_p=top_p,
        logits_processor=LogitsProcessorList([lambda _, scores: coarse(scores)]),
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    pipeline = lib.Pipeline(
        [lambda _, logits: coarse(logits), lambda _, z: lib.apply_top_p(z, top_p)],
        do_sample=True,
    )
    cut = 0
    for step, (scores, raw) in enumerate(zip(out.scores, out.logits, strict=True)):
        history = out.sequences[:, : ids.shape[1] + step]
        kept = pipeline.process(Step(history, index=step), raw) > -torch.inf
        wanted = scores > -torch.inf
        tied = boundary_class(coarse(raw), top_p)
        assert torch.equal(kept | tied, kept)
        assert torch.equal(kept & ~tied, wanted & ~tied)
        cut += int((kept != wanted).any(dim=1).sum())
    assert cut > 0


def test_top_k_keeps_ties_as_they_do():
    model = random_model("llama")
    ids, mask = prompts(PADDED)
    out = theirs(
        model,
        ids,
        mask,
        do_sample=True,
        max_new_tokens=8,
        top_k=5,
        logits_processor=LogitsProcessorList([lambda _, scores: coarse(scores)]),
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    more = 0
    for scores, raw in zip(out.scores, out.logits, strict=True):
        kept = lib.apply_top_k(coarse(raw), 5) > -torch.inf
        assert torch.equal(kept, scores > -torch.inf)
        more += int((kept.sum(dim=1) > 5).sum())
    assert more > 0
