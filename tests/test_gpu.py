"""The same on a CUDA device: parity, luck, and everything stays where it is."""

from __future__ import annotations

import pytest
import torch
from model_zoo import FAMILIES, prompts

import lib

pytestmark = pytest.mark.gpu
FAMILY = pytest.mark.parametrize("family", FAMILIES)
SAMPLED = {"do_sample": True, "max_new_tokens": 24, "eos_token_id": 11, "top_p": 0.95}


@pytest.fixture(scope="module")
def on_gpu():
    """The random models, each a copy on the device, in full float32."""
    from model_zoo import random_model

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

    def get(family):
        model = FAMILIES[family]()
        model.load_state_dict(random_model(family).state_dict())
        return model.eval().cuda()

    return get


@FAMILY
@pytest.mark.parametrize("n", [0, 2])
def test_greedy_equals_theirs(family, n, on_gpu):
    model = on_gpu(family)
    ids, mask = (t.cuda() for t in prompts((5, 9, 1, 6)))
    settings = {"max_new_tokens": 24, "no_repeat_ngram_size": n, "pad_token_id": 0}
    found = lib.generate(model, ids, attention_mask=mask, **settings)
    wanted = model.generate(ids, attention_mask=mask, do_sample=False, **settings)
    assert torch.equal(found, wanted)
    assert found.device == ids.device
    assert len(found[:, -24:].unique()) >= 10


@FAMILY
def test_a_row_is_the_same_alone_and_in_a_batch(family, on_gpu):
    model, lengths = on_gpu(family), (5, 9, 1, 6)
    ids, mask = (t.cuda() for t in prompts(lengths))
    seeds, settings = [7, 8, 9, 10], {**SAMPLED, "eos_token_id": -1}
    batch = lib.generate(model, ids, attention_mask=mask, seed=seeds, **settings)
    for row, length in enumerate(lengths):
        one = ids[row : row + 1, -length:]
        alone = lib.generate(model, one, seed=seeds[row], **settings)
        assert torch.equal(batch[row, -24:], alone[0, -24:])


def test_the_embedded_model_writes_one_text_alone_and_in_a_batch():
    model, tokenizer = lib.load()
    assert model.device.type == "cuda"
    assert model.dtype == torch.float16, "the checkpoint's own"
    model, tokenizer = lib.load(dtype=torch.float32)
    texts = ["Once upon a time", "Lily", "The little dog wanted to", "One day"]
    settings = {"do_sample": True, "max_new_tokens": 40}
    alone = [
        lib.complete(model, tokenizer, t, seed=i, **settings)
        for i, t in enumerate(texts)
    ]
    assert lib.complete(model, tokenizer, texts, seed=range(4), **settings) == alone


def test_a_trace_is_made_and_replayed_on_the_device(on_gpu):
    model = on_gpu("llama")
    ids, mask = (t.cuda() for t in prompts((5, 9)))
    settings = {**SAMPLED, "attention_mask": mask, "seed": 1, "top_k": 9}
    found = lib.trace(model, ids, **settings)
    assert found.sequences == lib.generate(model, ids, **settings).tolist()
    assert lib.replay(lib.Trace.from_json(found.to_json()), model) == found


def test_stages_stay_on_the_device():
    logits = torch.randn(3, 97, device="cuda")
    ids = torch.randint(97, (3, 12), device="cuda")
    for out in (
        lib.softmax(logits),
        lib.log_softmax(logits),
        lib.entropy(logits),
        lib.apply_temperature(logits, 0.7),
        lib.apply_top_k(logits, 5),
        lib.apply_top_p(logits, 0.8),
        lib.apply_no_repeat_ngram(ids, logits, 2),
        lib.greedy(logits),
        lib.sample(logits, lib.uniforms(1, range(3), [0])[:, 0].cuda()),
    ):
        assert out.device == logits.device


def test_stages_equal_those_of_the_cpu():
    logits = torch.randn(50, 997, generator=torch.Generator().manual_seed(2))
    for stage, value in (
        (lib.apply_top_k, 20),
        (lib.apply_top_p, 0.9),
        (lib.apply_temperature, 0.7),
    ):
        torch.testing.assert_close(
            stage(logits.cuda(), value).cpu(), stage(logits, value)
        )
    u = lib.uniforms(3, range(50), [0])[:, 0]
    found = lib.sample(logits.cuda(), u.cuda()).cpu()
    assert torch.equal(found, lib.sample(logits, u))


def test_looking_for_the_end_rarely_changes_no_token(on_gpu):
    """A stream looks at every step, generate at every sixteenth."""
    model = on_gpu("llama")
    ids, mask = (t.cuda() for t in prompts((5, 9, 1, 6)))
    settings = {**SAMPLED, "attention_mask": mask, "seed": 3}
    whole = lib.generate(model, ids, **settings)
    steps = torch.stack(list(lib.stream(model, ids, **settings)), dim=1)
    assert torch.equal(whole[:, ids.shape[1] :], steps)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_choosing_a_token_does_not_wait_for_the_device():
    logits = torch.randn(3, 997, device="cuda")
    u = lib.uniforms(1, range(3), [0])[:, 0].cuda()
    settings = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
    for stages in ({}, settings):
        chosen = lib.SamplingSettings(do_sample=True, **stages)
        step = lib.Step(torch.ones_like(logits, dtype=torch.long), later=[])
        torch.cuda.set_sync_debug_mode("error")
        try:
            tokens = lib.build_pipeline(chosen).choose(step, logits, u)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert tokens.shape == (3,)
        assert step.later, "the checks are made later"


def test_ids_on_the_cpu_are_refused_with_the_mending(on_gpu):
    with pytest.raises(
        ValueError, match=r"on cpu, the model on cuda:0.*\.to\('cuda:0'\)"
    ):
        lib.generate(on_gpu("llama"), torch.tensor([[1, 2]]), max_new_tokens=2)
