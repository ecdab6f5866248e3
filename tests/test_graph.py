"""A step that repeats itself: the same tokens as the loop that asks for each.

On the CPU the step is called where a GPU would repeat its recording, so that all but
the recording is tested here; tests marked gpu record.
"""

from __future__ import annotations

import copy
import gc
import warnings
from itertools import pairwise

import pytest
import torch
from model_zoo import VOCAB, prompts, random_model
from transformers import FalconConfig, FalconForCausalLM

import lib
from lib import generator, graph

FAMILY = pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
SETTINGS = {
    "greedy": {},
    "luck": {"do_sample": True, "seed": [1, 2, 3, 4]},
    "all": {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "ends": {"do_sample": True, "seed": 6, "eos_token_id": [11, 5]},
    "several": {"do_sample": True, "seed": 7, "num_return_sequences": 2},
}
CHOICE = pytest.mark.parametrize("choice", SETTINGS)
NEW = 30
FAULT = r"NaN in row \d; .*\(step \d+\)"


@pytest.fixture
def recording(monkeypatch):
    """The CPU repeats steps, too."""
    monkeypatch.setattr(generator, "_RECORDING", ("cpu", "cuda"))


@pytest.fixture
def llama():
    """A model of one's own, with nothing kept of it."""
    return copy.deepcopy(random_model("llama"))


def call(model, **settings):
    ids, mask = (t.to(model.device) for t in prompts((5, 9, 1, 6)))
    settings = {"eos_token_id": -1, "pad_token_id": 0, "seed": 5, **settings}
    settings = {"max_new_tokens": NEW, "attention_mask": mask, **settings}
    return lib.generate(model, ids, **settings)


def unrecorded(model, **settings):
    """The same by the loop that asks for each step."""
    held, generator._RECORDING = generator._RECORDING, ()
    try:
        return call(model, **settings)
    finally:
        generator._RECORDING = held


@FAMILY
@CHOICE
def test_the_tokens_are_those_of_the_loop(family, choice, recording):
    model = copy.deepcopy(random_model(family))
    for _ in range(2):  # made anew, and kept from before
        found = call(model, **SETTINGS[choice])
        assert torch.equal(found, unrecorded(model, **SETTINGS[choice]))
        assert model in graph._kept
    assert len(found.unique()) > 10


def test_a_prompt_without_padding_and_attention_written_out(llama, recording):
    settings = {"attention_mask": None}
    assert torch.equal(call(llama, **settings), unrecorded(llama, **settings))
    llama.config._attn_implementation = "eager"
    assert torch.equal(call(llama), unrecorded(llama))
    assert llama in graph._kept


def test_a_stream_is_generate_step_by_step(llama, recording):
    ids, mask = prompts((5, 9, 1, 6))
    settings = {"do_sample": True, "seed": 3, "eos_token_id": 11, "pad_token_id": 0}
    settings |= {"attention_mask": mask, "max_new_tokens": NEW}
    steps = torch.stack(list(lib.stream(llama, ids, **settings)), dim=1)
    assert torch.equal(steps, lib.generate(llama, ids, **settings)[:, ids.shape[1] :])
    assert llama in graph._kept


def test_two_streams_of_one_model_do_not_disturb_each_other(llama, recording):
    ids, _ = prompts((5, 5))
    settings = {"max_new_tokens": NEW, "eos_token_id": -1, "do_sample": True}
    seeds = ([1, 2], [3, 4])
    wanted = [lib.generate(llama, ids, seed=s, **settings)[:, 5:] for s in seeds]
    one, two = (lib.stream(llama, ids, seed=s, **settings) for s in seeds)
    pairs = list(zip(one, two, strict=True))
    for found, text in zip(zip(*pairs, strict=True), wanted, strict=True):
        assert torch.equal(torch.stack(found, dim=1), text)


def test_what_was_yielded_is_the_callers(llama, recording):
    ids, _ = prompts((5,))
    settings = {"max_new_tokens": NEW, "eos_token_id": -1}
    wanted = lib.generate(llama, ids, **settings)[0, 5:].tolist()
    found = []
    for tokens in lib.stream(llama, ids, **settings):
        found.append(int(tokens))
        tokens.zero_()
    assert found == wanted


def test_changed_weights_are_seen(llama, recording):
    before = call(llama)
    with torch.no_grad():
        llama.lm_head.weight.copy_(llama.lm_head.weight.flip(0))
    assert torch.equal(call(llama), unrecorded(llama))
    other = torch.nn.Parameter(llama.lm_head.weight.roll(7, dims=0))
    llama.lm_head.weight = other
    found = call(llama)
    assert torch.equal(found, unrecorded(llama))
    assert not torch.equal(found, before)


def test_one_recording_serves_what_has_its_shape(llama, recording):
    made = []
    for settings in (
        {},
        {"max_new_tokens": NEW + 9},  # within the same 64 places
        {"do_sample": True, "top_k": 9},
        {"do_sample": True, "top_k": 9, "seed": 8},
        {"do_sample": True, "top_k": 8},
        {"do_sample": True, "top_k": 8, "eos_token_id": 3},
    ):
        call(llama, **settings)
        made.append(graph._kept[llama])
    same = [a is b for a, b in pairwise(made)]
    assert same == [True, False, True, False, False]


def test_a_kept_recording_lives_no_longer_than_its_model(recording):
    model = copy.deepcopy(random_model("llama"))
    call(model)
    kept = len(graph._kept)
    del model
    gc.collect()
    assert len(graph._kept) == kept - 1


def test_faulty_logits_are_found_at_their_step(llama, recording):
    with torch.no_grad():
        token = int(call(llama)[2, 9 + 12])
        llama.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(ValueError, match=FAULT) as wanted:
        unrecorded(llama)
    with pytest.raises(ValueError, match=FAULT) as found:
        call(llama)
    assert str(found.value) == str(wanted.value)
    llama.get_input_embeddings().weight.data[token] = 0.1
    assert torch.equal(call(llama), unrecorded(llama)), "nothing of it is left"


def test_a_model_in_train_mode_is_recorded_in_eval_mode(recording):
    model = copy.deepcopy(random_model("gpt_neox"))
    wanted = call(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    assert torch.equal(call(model), wanted)
    assert all(module.training for module in model.modules())


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda *_: None)


def replaced(model):
    forward = model.lm_head.forward
    model.lm_head.forward = lambda x: forward(x)


def not_to_be_compiled(model):
    model._can_compile_fullgraph = False


@pytest.mark.parametrize("change", [hooked, replaced, not_to_be_compiled])
def test_a_changed_model_is_asked_for_each_step(change, llama, recording):
    change(llama)
    assert torch.equal(call(llama), unrecorded(llama))
    assert llama not in graph._kept


def ban_one(_, logits):
    return logits.index_fill(-1, torch.tensor([1]), -torch.inf)


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 3, "eos_token_id": 2},
        {"max_new_tokens": 15},
        {"pipeline": lib.Pipeline([ban_one])},
    ],
)
def test_what_the_host_does_is_not_recorded(settings, llama, recording):
    assert torch.equal(call(llama, **settings), unrecorded(llama, **settings))
    assert llama not in graph._kept


def test_an_encoder_decoder_model_is_not_recorded(recording):
    model = random_model("t5")
    assert torch.equal(call(model), unrecorded(model))
    assert model not in graph._kept


def test_where_memory_is_short_the_cache_grows(llama, recording, monkeypatch):
    monkeypatch.setattr(graph, "_free", lambda device: 1000.0)
    assert torch.equal(call(llama), unrecorded(llama))
    assert llama not in graph._kept


def test_what_cannot_be_recorded_is_said_once_and_done(llama, recording, monkeypatch):
    tried = []

    def refuse(*_):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "_recorded", refuse)
    with pytest.warns(RuntimeWarning, match=r"LlamaForCausalLM cannot be .* capturing"):
        found = call(llama)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(found, call(llama))
    assert torch.equal(found, unrecorded(llama))
    assert len(tried) == 1


def test_a_model_that_reads_its_mask_in_another_way_is_asked_for_each_step(recording):
    """Falcon with ALiBi makes its positions from a mask of zeros and ones."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = FalconConfig(vocab_size=VOCAB, alibi=True, **sizes, **special)
    model = FalconForCausalLM(config).eval()
    with pytest.warns(RuntimeWarning, match="FalconForCausalLM cannot be recorded"):
        found = call(model)
    assert torch.equal(found, unrecorded(model))


def test_a_compiled_model_runs_compiled_but_for_the_prompt(llama, recording):
    wanted = call(llama)
    shapes = []

    def backend(module, inputs):
        shapes.extend(
            tuple(x.shape) for x in inputs if getattr(x, "dtype", None) == torch.long
        )
        return module.forward

    torch._dynamo.reset()
    llama.compile(backend=backend, fullgraph=True, dynamic=False)
    assert torch.equal(call(llama), wanted)
    assert torch.equal(call(llama), wanted)
    assert set(shapes) == {(4, 1), (1,)}, "one token a row, and its place: no prompt"


# --- on a GPU -------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
@CHOICE
def test_a_recorded_step_gives_the_tokens_of_the_loop(family, choice):
    model = copy.deepcopy(random_model(family)).cuda()
    for _ in range(2):
        found = call(model, **SETTINGS[choice])
        assert model in graph._kept
        assert torch.equal(found, unrecorded(model, **SETTINGS[choice]))


@pytest.mark.gpu
def test_a_recorded_step_sees_changed_weights_and_faults():
    model = copy.deepcopy(random_model("llama")).cuda()
    call(model)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    found = call(model)
    assert torch.equal(found, unrecorded(model))
    with torch.no_grad():
        token = int(found[2, 9 + 12])
        model.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(ValueError, match=FAULT):
        call(model)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_recorded_step_waits_for_nothing():
    model = copy.deepcopy(random_model("llama")).cuda()
    call(model, do_sample=True)
    step = graph._kept[model]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            step.replay(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(step.ids.max()) < VOCAB


@pytest.mark.gpu
def test_a_recorded_step_uses_no_memory_that_others_may_free():
    """Compiled models of transformers free what cuBLAS worked in, and so do we."""
    model = copy.deepcopy(random_model("llama")).to("cuda", torch.bfloat16)
    wanted = call(model)
    kept = graph._kept[model]
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    rubbish = [torch.full((2**22,), torch.nan, device="cuda") for _ in range(64)]
    assert torch.equal(call(model), wanted)
    torch.cuda.synchronize()
    assert graph._kept[model] is kept
    assert all(bool(x.isnan().all()) for x in rubbish)


@pytest.mark.gpu
def test_a_model_that_waits_for_the_device_is_not_recorded():
    class Waits(type(random_model("llama"))):
        def forward(self, *args, position_ids=None, **kwargs):
            outputs = super().forward(*args, position_ids=position_ids, **kwargs)
            outputs.logits.sum().item()
            return outputs

    model = Waits(random_model("llama").config).eval()
    model.load_state_dict(random_model("llama").state_dict())
    model.cuda()
    with pytest.warns(RuntimeWarning, match="cannot be recorded"):
        found = call(model)
    assert torch.equal(found, unrecorded(model))
    other = copy.deepcopy(random_model("llama")).cuda()
    assert torch.equal(call(other), found), "the device is as it was"
    assert other in graph._kept
