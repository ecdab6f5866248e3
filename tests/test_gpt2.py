"""GPT-2 by its formula: the model's numbers and texts, whatever the layout of weights.

Held against the model itself through ``transformers`` and through the general path.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from model_zoo import CONTEXT, FAMILIES, VOCAB, prompts, random_model
from transformers import GPT2Config, GPT2LMHeadModel

import lib
import lib.generator
from lib import gpt2
from lib.forward import CachedForward

SINGLE, PADDED = (9,), (5, 9, 1, 6)
NEW = 24
LAYERS = FAMILIES["gpt2"]().config.n_layer
SHAPES = pytest.mark.parametrize("lengths", [SINGLE, PADDED], ids=["alone", "padded"])
LAYOUTS = ("in place", "copied", "replaced")
needs_packing = pytest.mark.skipif(
    not gpt2._can_pack(torch.float32), reason="this PyTorch cannot pack weights"
)


def fresh(dtype=torch.float32):
    """A model of one's own, to be changed."""
    model = FAMILIES["gpt2"]().eval()
    model.load_state_dict(random_model("gpt2").state_dict())
    return model.to(dtype)


def lay_out(model, layout, monkeypatch):
    """Have the weights read where they lie, from a packed copy, or packed for good."""
    monkeypatch.setattr(gpt2, "_CACHE", 0 if layout == "copied" else float("inf"))
    if layout == "replaced":
        gpt2.pack(model)
    return model


@pytest.fixture(
    params=[LAYOUTS[0], *(pytest.param(x, marks=needs_packing) for x in LAYOUTS[1:])]
)
def model(request, monkeypatch):
    """The random model in each layout."""
    return lay_out(fresh(), request.param, monkeypatch)


def general(monkeypatch):
    """Send every model down the general path."""
    monkeypatch.setattr(lib.generator, "supports", lambda model: False)


def theirs(ids, mask, **settings):
    settings = {"max_new_tokens": NEW, "pad_token_id": 0, "do_sample": False} | settings
    return random_model("gpt2").generate(ids, attention_mask=mask, **settings)


def ours(model, ids, mask, **settings):
    settings = {"max_new_tokens": NEW, "pad_token_id": 0} | settings
    return lib.generate(model, ids, attention_mask=mask, **settings)


# --- the same numbers --------------------------------------------------------------


@SHAPES
def test_logits_are_the_models(model, lengths):
    """The prompt's, and those of each token after it, one at a time."""
    ids, mask = prompts(lengths)
    seen = None if len(lengths) == 1 else mask
    with torch.inference_mode():
        wanted = CachedForward(random_model("gpt2"), ids, seen)
        found = gpt2.GPT2Forward(model, seen, len(ids), CONTEXT)
        for _ in range(8):
            logits = wanted.logits(ids, seen)
            torch.testing.assert_close(found.logits(ids), logits, rtol=1e-4, atol=1e-4)
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            if seen is not None:
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)


@SHAPES
@pytest.mark.parametrize("n", [0, 2])
def test_greedy_is_equal_token_for_token(model, lengths, n):
    ids, mask = prompts(lengths)
    found = ours(model, ids, mask, no_repeat_ngram_size=n)
    assert torch.equal(found, theirs(ids, mask, no_repeat_ngram_size=n))
    assert len(found[:, -NEW:].unique()) >= 10


def test_rows_that_end_are_padded_alike(model):
    ids, mask = prompts(PADDED)
    eos = int(theirs(ids, mask)[0, -NEW + 5])
    found = ours(model, ids, mask, eos_token_id=eos)
    assert torch.equal(found, theirs(ids, mask, eos_token_id=eos))
    ended = (found[:, -NEW:] == eos).any(dim=1)
    assert ended.any()
    assert not ended.all()


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


def test_a_row_is_the_same_alone_and_in_a_batch(model):
    ids, mask = prompts(PADDED)
    settings = {"do_sample": True, "eos_token_id": -1}
    seeds = [7, 8, 9, 10]
    batch = ours(model, ids, mask, seed=seeds, **settings)
    for row, length in enumerate(PADDED):
        one = ids[row : row + 1, -length:]
        alone = ours(model, one, None, seed=seeds[row], **settings)
        assert torch.equal(batch[row, -NEW:], alone[0, -NEW:])


@needs_packing
@pytest.mark.parametrize("layout", LAYOUTS)
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
        wanted = random_model("gpt2")(
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
    assert torch.equal(ours(random_model("gpt2"), ids, mask), wanted)
    mutant(monkeypatch)
    assert not torch.equal(ours(random_model("gpt2"), ids, mask), wanted)


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


@pytest.mark.parametrize("layout", LAYOUTS[:2])
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


@pytest.mark.parametrize(
    ("lengths", "threads", "arrange", "copies"),
    [
        pytest.param(PADDED, 1, "_packed", 4 * LAYERS + 1, marks=needs_packing),
        pytest.param(SINGLE, 2, "_packed", 4 * LAYERS + 1, marks=needs_packing),
        # The other matrices of a layer lie along their longer side as they are.
        (SINGLE, 1, "_along", LAYERS + 1),
    ],
    ids=["several rows", "several threads", "one row"],
)
def test_unchanged_weights_are_copied_once(
    lengths, threads, arrange, copies, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model, (ids, mask) = lay_out(fresh(), "copied", monkeypatch), prompts(lengths)
    made = []
    real = getattr(gpt2, arrange)
    monkeypatch.setattr(gpt2, arrange, lambda weight: made.append(1) or real(weight))
    for _ in range(3):
        ours(model, ids, mask)
    assert len(made) == copies
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight.mul_(2)
    ours(model, ids, mask)
    assert len(made) == copies + 1


def test_a_copy_for_one_row_lies_along_its_longer_side():
    for shape in ((5, 3), (3, 5), (4, 4)):
        for weight in (torch.randn(shape), torch.randn(shape[::-1]).T):
            copy = gpt2._along(weight)
            assert torch.equal(copy, weight)
            assert gpt2._lies_along(copy)
            assert copy.stride(0 if shape[0] >= shape[1] else 1) == 1
    assert not gpt2._lies_along(torch.randn(5, 3))
    assert gpt2._lies_along(torch.randn(3, 5))


@needs_packing
def test_the_copy_goes_with_the_model(monkeypatch):
    model = lay_out(fresh(), "copied", monkeypatch)
    gc.collect()
    before = len(gpt2._copies)
    for lengths in (SINGLE, PADDED):
        ours(model, *prompts(lengths))
    copies = [weakref.ref(copy) for _, copy in gpt2._copies[model].values()]
    assert len(copies) == 5 * LAYERS + 2
    assert len(gpt2._copies) == before + 1
    del model
    gc.collect()
    assert not any(copy() is not None for copy in copies)
    assert len(gpt2._copies) == before


@pytest.mark.parametrize("reason", ["small", "no operators", "little memory"])
def test_there_is_no_copy_where_it_gains_nothing_or_does_not_fit(reason, monkeypatch):
    model, (ids, mask) = fresh(), prompts(PADDED)
    monkeypatch.setattr(gpt2, "_CACHE", float("inf") if reason == "small" else 0)
    if reason == "no operators":
        monkeypatch.setattr(gpt2, "_can_pack", lambda dtype: False)
    if reason == "little memory":
        size = sum(p.nbytes for p in model.parameters())
        monkeypatch.setattr(gpt2, "_memory", lambda: 2 * size)
    assert torch.equal(ours(model, ids, mask), theirs(ids, mask))
    assert model not in gpt2._copies


def test_a_pytorch_without_the_operators_packs_nothing(monkeypatch):
    def missing(weight):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute …")

    monkeypatch.setattr(gpt2, "_packed", missing)
    assert gpt2._can_pack.__wrapped__(torch.float32) is False


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
    assert model not in gpt2._copies
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids).logits, random_model("gpt2")(ids).logits, rtol=1e-4, atol=1e-4
        )


@needs_packing
def test_a_packed_model_is_not_saved_without_its_weights(tmp_path):
    model = fresh()
    gpt2.pack(model)
    with pytest.raises(RuntimeError, match=r"save it before lib\.gpt2\.pack"):
        model.state_dict()


def test_only_what_runs_here_is_packed(monkeypatch):
    with pytest.raises(ValueError, match=r"plain GPT2LMHeadModel.*LlamaForCausalLM"):
        gpt2.pack(random_model("llama"))
    monkeypatch.setattr(gpt2, "_can_pack", lambda dtype: False)
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


@pytest.mark.parametrize(
    "change",
    [
        hook,
        pre_hook,
        patched_forward,
        an_adapter,
        a_parametrization,
        another_activation,
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
