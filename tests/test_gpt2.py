"""GPT-2 by its formula: the model's numbers and texts, whatever the layout of weights.

Held against the model itself through ``transformers`` and through the general path.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import cache

import pytest
import torch
from model_zoo import CONTEXT, FAMILIES, VOCAB, prompts, random_model
from torch.nn.modules.module import register_module_forward_hook
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel

import lib
import lib.generator
from lib import gpt2, linear
from lib.forward import CachedForward

SINGLE, PADDED = (9,), (5, 9, 1, 6)
NEW = 24
LAYERS = FAMILIES["gpt2"]().config.n_layer
SHAPES = pytest.mark.parametrize("lengths", [SINGLE, PADDED], ids=["alone", "padded"])
LAYOUTS = ("in place", "copied", "halves", "replaced")
needs_packing = pytest.mark.skipif(
    not linear._has_packed(torch.float32), reason="this PyTorch cannot pack weights"
)
needs_halves = pytest.mark.skipif(
    not linear._has_halves(), reason="this PyTorch cannot multiply by float16"
)
each_layout = pytest.mark.parametrize(
    "layout",
    [
        LAYOUTS[0],
        pytest.param(LAYOUTS[1], marks=needs_packing),
        pytest.param(LAYOUTS[2], marks=needs_halves),
        pytest.param(LAYOUTS[3], marks=needs_packing),
    ],
)


@cache
def reference():
    """The random model, its weights such as float16 can hold."""
    return fresh()


def fresh(dtype=torch.float32):
    """A model of one's own, to be changed."""
    model = FAMILIES["gpt2"]().eval()
    model.load_state_dict(random_model("gpt2").state_dict())
    return model.half().to(dtype)


def lay_out(model, layout, monkeypatch):
    """Have weights read where they lie, from a copy, as halves, or packed for good."""
    monkeypatch.setattr(linear, "_CACHE", 0 if layout == "copied" else float("inf"))
    if layout != "halves":
        monkeypatch.setattr(linear, "_has_halves", lambda: False)
    if layout == "replaced":
        gpt2.pack(model)
    return model


@pytest.fixture
def model(layout, monkeypatch):
    """The random model in a layout."""
    return lay_out(fresh(), layout, monkeypatch)


def general(monkeypatch):
    """Send every model down the general path."""
    monkeypatch.setattr(lib.generator, "supports", lambda model: False)


def theirs(ids, mask, **settings):
    settings = {"max_new_tokens": NEW, "pad_token_id": 0, "do_sample": False} | settings
    return reference().generate(ids, attention_mask=mask, **settings)


def ours(model, ids, mask, **settings):
    settings = {"max_new_tokens": NEW, "pad_token_id": 0} | settings
    return lib.generate(model, ids, attention_mask=mask, **settings)


# --- the same numbers --------------------------------------------------------------


@each_layout
@SHAPES
def test_logits_are_the_models(model, lengths):
    """The prompt's, and those of each token after it, one at a time."""
    ids, mask = prompts(lengths)
    seen = None if len(lengths) == 1 else mask
    with torch.inference_mode():
        wanted = CachedForward(reference(), ids, seen)
        found = gpt2.GPT2Forward(model, seen, len(ids), CONTEXT)
        for _ in range(8):
            logits = wanted.logits(ids, seen)
            torch.testing.assert_close(found.logits(ids), logits, rtol=1e-4, atol=1e-4)
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            if seen is not None:
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)


@each_layout
@SHAPES
@pytest.mark.parametrize("n", [0, 2])
def test_greedy_is_equal_token_for_token(model, lengths, n):
    ids, mask = prompts(lengths)
    found = ours(model, ids, mask, no_repeat_ngram_size=n)
    assert torch.equal(found, theirs(ids, mask, no_repeat_ngram_size=n))
    assert len(found[:, -NEW:].unique()) >= 10


@each_layout
def test_rows_that_end_are_padded_alike(model):
    ids, mask = prompts(PADDED)
    eos = int(theirs(ids, mask)[0, -NEW + 5])
    found = ours(model, ids, mask, eos_token_id=eos)
    assert torch.equal(found, theirs(ids, mask, eos_token_id=eos))
    ended = (found[:, -NEW:] == eos).any(dim=1)
    assert ended.any()
    assert not ended.all()


@each_layout
def test_streams_and_traces_say_the_same(model):
    ids, mask = prompts(PADDED)
    settings = {"do_sample": True, "top_p": 0.95, "seed": 3, "attention_mask": mask}
    settings |= {"max_new_tokens": NEW, "eos_token_id": 11, "pad_token_id": 0}
    whole = lib.generate(model, ids, **settings)
    steps = torch.stack(list(lib.stream(model, ids, **settings)), dim=1)
    assert torch.equal(steps, whole[:, ids.shape[1] :])
    trace = lib.trace(model, ids, **settings)
    assert trace.sequences == whole.tolist()
    assert lib.replay(trace, model) == trace


@each_layout
def test_a_row_is_the_same_alone_and_in_a_batch(model):
    ids, mask = prompts(PADDED)
    settings = {"do_sample": True, "eos_token_id": -1}
    seeds = [7, 8, 9, 10]
    batch = ours(model, ids, mask, seed=seeds, **settings)
    for row, length in enumerate(PADDED):
        one = ids[row : row + 1, -length:]
        alone = ours(model, one, None, seed=seeds[row], **settings)
        assert torch.equal(batch[row, -NEW:], alone[0, -NEW:])


@each_layout
def test_no_text_of_the_embedded_model_depends_on_the_batch(layout, monkeypatch):
    """And none on the layout."""
    tiny, tokenizer = lib.load("tiny", device="cpu")
    texts = ["Once upon a time", "Lily", "The little dog wanted to", "It was raining"]
    settings = {"do_sample": True, "max_new_tokens": 30, "top_p": 0.9}
    general(monkeypatch)
    wanted = [
        lib.complete(tiny, tokenizer, text, seed=seed, **settings)
        for seed, text in enumerate(texts)
    ]
    monkeypatch.undo()
    lay_out(tiny, layout, monkeypatch)
    alone = [
        lib.complete(tiny, tokenizer, text, seed=seed, **settings)
        for seed, text in enumerate(texts)
    ]
    assert alone == wanted
    found = lib.complete(tiny, tokenizer, texts, seed=range(4), **settings)
    assert found == wanted


@pytest.mark.parametrize("activation", gpt2._GELU)
def test_each_activation_is_the_models_own(activation):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=48,
        n_positions=CONTEXT,
        activation_function=activation,
    )
    model, (ids, _) = GPT2LMHeadModel(config).eval(), prompts(SINGLE)
    assert gpt2.supports(model)
    with torch.inference_mode():
        found = gpt2.GPT2Forward(model, None, 1, CONTEXT).logits(ids)
        wanted = model(ids).logits[:, -1]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_as_close_as_bfloat16_is():
    model, (ids, mask) = fresh(torch.bfloat16), prompts(PADDED)
    with torch.inference_mode():
        found = gpt2.GPT2Forward(model, mask, len(ids), CONTEXT).logits(ids)
        wanted = reference()(
            ids, attention_mask=mask, position_ids=lib.forward.positions(mask)
        ).logits[:, -1]
    assert found.dtype == torch.bfloat16
    assert (found - wanted).abs().mean() < 0.05 * wanted.std()


# --- the comparisons see every mistake ---------------------------------------------


def padding_seen(monkeypatch):
    monkeypatch.setattr(gpt2.GPT2Forward, "_bias", lambda *_: None)


def positions_of_the_padded_row(monkeypatch):
    def naive(mask):
        return torch.arange(mask.shape[1]).expand_as(mask)

    monkeypatch.setattr(gpt2, "positions", naive)


def future_seen(monkeypatch):
    attention = torch.nn.functional.scaled_dot_product_attention

    def all_at_once(*tensors, is_causal, **settings):
        return attention(*tensors, **settings)

    monkeypatch.setattr(gpt2.F, "scaled_dot_product_attention", all_at_once)


def first_token_forgotten(monkeypatch):
    attend = gpt2.GPT2Forward._attend

    def forget(self, begin, bias, qkv, memory):
        if begin:
            memory[:, :, :, 0] = 0
        return attend(self, begin, bias, qkv, memory)

    monkeypatch.setattr(gpt2.GPT2Forward, "_attend", forget)


def no_activation(monkeypatch):
    monkeypatch.setattr(gpt2.F, "gelu", lambda x, approximate: x)


@pytest.mark.parametrize(
    ("mutant", "lengths"),
    [
        (padding_seen, PADDED),
        (positions_of_the_padded_row, PADDED),
        (future_seen, SINGLE),
        (first_token_forgotten, SINGLE),
        (no_activation, SINGLE),
    ],
)
def test_a_mutant_goes_red(mutant, lengths, monkeypatch):
    ids, mask = prompts(lengths)
    wanted = theirs(ids, mask)
    assert torch.equal(ours(reference(), ids, mask), wanted)
    mutant(monkeypatch)
    assert not torch.equal(ours(reference(), ids, mask), wanted)


# --- weights may change ------------------------------------------------------------


def no_grad(model):
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.mul_(-1)


def behind_the_version_counter(model):
    model.transformer.h[0].attn.c_attn.weight.data[3, 5] += 5


def another_parameter(model):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))


def another_bias(model):
    bias = model.transformer.h[0].mlp.c_proj.bias
    model.transformer.h[0].mlp.c_proj.bias = torch.nn.Parameter(
        bias.detach() + torch.arange(32) / 9
    )


def loaded(model):
    model.load_state_dict({k: v.flip(0) for k, v in model.state_dict().items()})


def an_optimizers_step(model):
    ids, _ = prompts(SINGLE)
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()


def a_norm(model):
    model.transformer.ln_f.weight.data.neg_()


@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize(
    "change",
    [
        no_grad,
        behind_the_version_counter,
        another_parameter,
        another_bias,
        loaded,
        an_optimizers_step,
        a_norm,
    ],
)
def test_a_change_of_weights_is_seen(layout, change, monkeypatch):
    model, (ids, mask) = lay_out(fresh(), layout, monkeypatch), prompts(PADDED)
    before = ours(model, ids, mask)
    change(model)
    wanted = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    assert not torch.equal(before, wanted), "the change changes nothing"
    assert torch.equal(ours(model, ids, mask), wanted)


# --- packed for good ---------------------------------------------------------------


@needs_packing
def test_a_packed_model_keeps_no_second_copy_and_still_answers():
    model, (ids, _) = fresh(), prompts(SINGLE)
    matrices = [weakref.ref(place) for place in model.transformer.h[0].mlp.children()]
    gpt2.pack(model)
    gpt2.pack(model)  # nothing is left to do
    gc.collect()
    assert matrices[0]() is None
    kept = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert kept == (VOCAB + CONTEXT) * model.config.n_embd, "the embeddings"
    ours(model, ids, None)
    assert model not in linear._copies
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids).logits, reference()(ids).logits, rtol=1e-4, atol=1e-4
        )


@needs_packing
def test_a_packed_model_is_not_saved_without_its_weights(tmp_path):
    model = fresh()
    gpt2.pack(model)
    with pytest.raises(RuntimeError, match=r"save it before lib\.gpt2\.pack"):
        model.state_dict()
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match=r"copied or pickled.*lib\.gpt2\.pack"):
            copied(model)


def test_only_what_runs_here_is_packed(monkeypatch):
    with pytest.raises(ValueError, match=r"plain GPT2LMHeadModel.*LlamaForCausalLM"):
        gpt2.pack(random_model("llama"))
    monkeypatch.setattr(linear, "_has_packed", lambda dtype: False)
    monkeypatch.setattr(linear, "_has_halves", lambda: False)
    with pytest.raises(ValueError, match=r"torch\.float32, which this CPU cannot"):
        gpt2.pack(fresh())


# --- what is left to the model itself ----------------------------------------------


def hook(model):
    model.transformer.h[0].mlp.register_forward_hook(lambda *call: 2 * call[2])


def pre_hook(model):
    model.lm_head.register_forward_pre_hook(lambda module, call: (-call[0],))


def patched_forward(model):
    forward = model.transformer.ln_f.forward
    model.transformer.ln_f.forward = lambda x: -forward(x)


def an_adapter(model):
    class LowRank(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.down, self.up = torch.eye(32, 1), torch.ones(1, 96)

        def forward(self, x):
            return self.base(x) + x @ self.down @ self.up

    attention = model.transformer.h[1].attn
    attention.c_attn = LowRank(attention.c_attn)


def a_parametrization(model):
    class Negative(torch.nn.Module):
        def forward(self, weight):
            return -weight

    torch.nn.utils.parametrize.register_parametrization(
        model.transformer.ln_f, "weight", Negative()
    )


def another_activation(model):
    model.transformer.h[0].mlp.act = torch.nn.ReLU()


def another_scale(model):
    model.transformer.h[0].attn.scaling = 0.01


def another_attention(model):
    def uniform(module, query, key, value, *_, **__):
        return value.mean(2, keepdim=True).expand_as(query).transpose(1, 2), None

    AttentionInterface.register("uniform", uniform)
    model.set_attn_implementation("uniform")


@pytest.mark.parametrize(
    "change",
    [
        hook,
        pre_hook,
        patched_forward,
        an_adapter,
        a_parametrization,
        another_activation,
        another_scale,
        another_attention,
    ],
)
def test_what_is_added_to_a_model_has_its_effect(change):
    model, (ids, mask) = fresh(), prompts(PADDED)
    assert gpt2.supports(model)
    change(model)
    assert not gpt2.supports(model)
    found = ours(model, ids, mask)
    wanted = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    assert torch.equal(found, wanted)
    assert not torch.equal(found, theirs(ids, mask)), "the change changes nothing"


def test_attention_that_looks_ahead_is_left_to_the_model():
    model, ids = fresh(), prompts((9,))[0]
    model.transformer.h[0].attn.is_causal = False
    assert not gpt2.supports(model)
    wanted = model.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert torch.equal(lib.generate(model, ids, max_new_tokens=1), wanted)


def test_a_hook_on_all_modules_is_called():
    model, (ids, _) = fresh(), prompts((3,))
    assert gpt2.supports(model)
    called = []
    hook = register_module_forward_hook(lambda *call: called.append(call[0]))
    try:
        assert not gpt2.supports(model)
        ours(model, ids, None)
    finally:
        hook.remove()
    assert model.lm_head in called


@pytest.mark.parametrize(
    "setting",
    [
        {"add_cross_attention": True},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu"},
    ],
    ids=str,
)
def test_other_formulas_are_left_to_the_model(setting):
    config = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}
    assert gpt2.supports(GPT2LMHeadModel(GPT2Config(**config)))
    assert not gpt2.supports(GPT2LMHeadModel(GPT2Config(**config, **setting)))


def test_other_models_classes_dtypes_and_autocast_are_left_to_the_model():
    class Mine(GPT2LMHeadModel):
        """It may do anything."""

    assert not any(gpt2.supports(random_model(f)) for f in FAMILIES if f != "gpt2")
    model = fresh()
    assert not gpt2.supports(Mine(model.config))
    Mine.__name__ = "GPT2LMHeadModel"
    assert not gpt2.supports(Mine(model.config))
    assert not gpt2.supports(fresh(torch.float16))
    assert not gpt2.supports(fresh(torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not gpt2.supports(model)
    model.transformer.h[0].to(torch.bfloat16)
    assert not gpt2.supports(model)


def test_the_model_itself_is_not_called(monkeypatch):
    """Or all of the above would show nothing."""
    model, (ids, _) = fresh(), prompts(SINGLE)
    calls = []
    monkeypatch.setattr(GPT2LMHeadModel, "forward", lambda *_, **__: calls.append(1))
    assert ours(model, ids, None).shape == (1, 9 + NEW)
    assert not calls
