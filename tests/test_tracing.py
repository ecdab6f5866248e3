"""The glass box: what a trace says is what happened, and happens again."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_zoo import FAMILIES, Scripted, one_hot, prompts, random_model

import lib

SETTINGS = {
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 20,
    "top_p": 0.9,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 3,
    "max_new_tokens": 10,
    "eos_token_id": 11,
    "pad_token_id": 0,
    "num_return_sequences": 2,
}
SEEDS = [3, 2**52]
FAMILY = pytest.mark.parametrize("family", FAMILIES)


def traced(family, **changes):
    ids, mask = prompts((9, 9))
    settings = {**SETTINGS, "seed": SEEDS, **changes}
    return random_model(family), ids, mask, settings


@FAMILY
@pytest.mark.parametrize("do_sample", [True, False])
def test_a_trace_has_the_sequences_of_generate(family, do_sample):
    model, ids, mask, settings = traced(family, do_sample=do_sample)
    if not do_sample:
        settings["num_return_sequences"] = 1
    found = lib.trace(model, ids, attention_mask=mask, **settings)
    wanted = lib.generate(model, ids, attention_mask=mask, **settings)
    assert found.sequences == wanted.tolist()
    assert found.seed == tuple(SEEDS)


def plain(p):
    """Entropy in nats, by its definition."""
    p = p.double()
    return float(-(p * p.clamp_min(1e-300).log()).sum())


@FAMILY
def test_every_number_of_every_record_is_right(family):
    """Each is computed again, from the model's logits without a cache."""
    model, ids, _, settings = traced(family)
    encodes = model.config.is_encoder_decoder
    found = lib.trace(model, ids, **settings)
    begun = 1 if encodes else ids.shape[1]
    stages = [
        lambda seen, z, t: (
            z.index_fill(-1, torch.tensor([11]), -torch.inf) if t < 3 else z
        ),
        lambda seen, z, t: lib.apply_no_repeat_ngram(seen, z, 2),
        lambda seen, z, t: lib.apply_temperature(z, 0.8),
        lambda seen, z, t: lib.apply_top_k(z, 20),
        lambda seen, z, t: lib.apply_top_p(z, 0.9),
    ]
    names = ["min_new_tokens(3)", "no_repeat_ngram(2)", "temperature(0.8)"]
    names += ["top_k(20)", "top_p(0.9)"]
    for record in found.steps:
        prompt = ids[record.row // 2][None]
        seen = torch.tensor(found.sequences[record.row])[None, : begun + record.step]
        with torch.no_grad():
            if encodes:
                out = model(input_ids=prompt, decoder_input_ids=seen)
            else:
                out = model(seen)
        raw = logits = out.logits[:, -1].float()
        assert [s.name for s in record.stages] == names
        for stage, told in zip(stages, record.stages, strict=True):
            after = stage(seen, logits, record.step)
            gone = (after == -torch.inf) & (logits > -torch.inf)
            p, q = logits.softmax(-1), after.softmax(-1)
            assert told.removed == int(gone.sum())
            assert told.mass == pytest.approx(float(p[gone].sum()), abs=1e-5)
            assert told.entropy_before == pytest.approx(plain(p), abs=1e-4)
            assert told.entropy_after == pytest.approx(plain(q), abs=1e-4)
            logits = after
        seed, sample = SEEDS[record.row // 2], record.row % 2
        assert record.u == float(lib.uniforms(seed, [sample], [record.step]))
        assert record.token == found.sequences[record.row][begun + record.step]
        assert record.token == int(lib.sample(logits, torch.tensor([record.u])))
        assert record.rank == int((raw > raw[0, record.token]).sum())
        for told, z in ((record.raw_probability, raw), (record.probability, logits)):
            wanted = float(z.softmax(-1)[0, record.token])
            assert told == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@FAMILY
def test_a_row_that_has_ended_has_no_records(family):
    model, ids, _, settings = traced(family)
    settings["num_return_sequences"] = 4
    settings["max_new_tokens"] = 24
    # An end that some of these texts meet and others do not.
    free = lib.trace(
        model, ids, **{**settings, "eos_token_id": -1, "min_new_tokens": 0}
    )
    begun = 1 if model.config.is_encoder_decoder else ids.shape[1]
    texts = [row[begun:] for row in free.sequences]
    counts = {t: sum(t in row for row in texts) for row in texts for t in row}
    settings["eos_token_id"] = end = next(t for t in counts if 2 <= counts[t] <= 5)
    settings["min_new_tokens"] = 0
    found = lib.trace(model, ids, **settings)
    records = {row: [] for row in range(8)}
    for record in found.steps:
        records[record.row].append(record)
    ended = 0
    for row, sequence in enumerate(found.sequences):
        told = [record.token for record in records[row]]
        assert [record.step for record in records[row]] == list(range(len(told)))
        assert end not in told[:-1]
        rest = sequence[begun + len(told) :]
        assert sequence[begun:] == told + [0] * len(rest)
        ended += bool(rest)
    assert 0 < ended < 8


def test_greedy_records_no_uniform_and_rank_zero():
    model, ids, _, _ = traced("llama")
    found = lib.trace(model, ids, max_new_tokens=5, eos_token_id=-1)
    assert {(record.u, record.rank) for record in found.steps} == {(None, 0)}
    assert all(record.stages == () for record in found.steps)
    assert all(record.raw_probability == record.probability for record in found.steps)


def test_fresh_luck_is_reported_and_repeats_the_text():
    model, ids, _, settings = traced("gpt2", seed=None)
    found = lib.trace(model, ids, **settings)
    assert len(set(found.seed)) == 2
    again = lib.generate(model, ids, **{**settings, "seed": found.seed})
    assert again.tolist() == found.sequences


def test_a_stage_that_writes_in_place_falsifies_no_record():
    def without(input_ids, logits):
        logits[:, :7] = -torch.inf
        return logits

    def copying(input_ids, logits):
        return without(input_ids, logits.clone())

    model, (ids, mask) = random_model("llama"), prompts((5, 9))
    records = [
        lib.trace(
            model,
            ids,
            attention_mask=mask,
            max_new_tokens=4,
            pipeline=lib.Pipeline([stage]),
        ).steps
        for stage in (without, copying)
    ]
    found, wanted = (
        [replace(r, stages=[replace(s, name="") for s in r.stages]) for r in steps]
        for steps in records
    )
    assert found == wanted
    assert all(record.stages[0].removed == 7 for record in found)


def test_equal_logits_rank_in_the_order_of_ids():
    model = Scripted(lambda ids: torch.zeros(len(ids), 4), vocab_size=4)
    found = lib.trace(
        model,
        torch.tensor([[0]]),
        do_sample=True,
        seed=1,
        max_new_tokens=20,
        eos_token_id=-1,
    )
    assert {record.rank - record.token for record in found.steps} == {0}
    assert {record.raw_probability for record in found.steps} == {0.25}


# --- to JSON and back, and again -----------------------------------------------------


@FAMILY
@pytest.mark.parametrize("lengths", [(9, 9), (4, 9)], ids=["bare", "padded"])
def test_to_json_and_back_is_equal_and_replays_equal(family, lengths):
    model, _, _, settings = traced(family)
    ids, mask = prompts(lengths)
    found = lib.trace(model, ids, attention_mask=mask, **settings)
    back = lib.Trace.from_json(found.to_json())
    assert back == found
    assert lib.replay(back, model) == found


def test_a_replay_uses_the_recorded_uniforms_and_no_seed():
    """With other seeds written over the recorded ones the text stays the same."""
    model, ids, _, settings = traced("llama")
    found = lib.trace(model, ids, **settings)
    data = json.loads(found.to_json())
    data["seed"] = [123, 456]
    other = lib.Trace.from_json(json.dumps(data))
    assert lib.replay(other, model).sequences == found.sequences
    last = max(range(len(data["steps"])), key=lambda i: data["steps"][i]["step"])
    data["steps"][last]["u"] = 0.0 if data["steps"][last]["u"] > 0.5 else 0.999
    changed = lib.replay(lib.Trace.from_json(json.dumps(data)), model)
    assert changed.steps[last] != found.steps[last]


def test_settings_of_any_legal_kind_go_through_json():
    """NumPy's numbers, tuples: what comes back equals what was there."""
    model, ids, _, _ = traced("gpt2")
    found = lib.trace(
        model,
        ids,
        do_sample=True,
        temperature=np.float32(0.5),
        top_k=np.int64(9),
        max_new_tokens=np.int64(5),
        eos_token_id=(3, 4),
        seed=(1, np.int64(2)),
    )
    back = lib.Trace.from_json(found.to_json())
    assert back == found
    assert lib.replay(back, model) == found


def test_stop_strings_are_replayed_with_the_tokenizer():
    model, tokenizer = lib.load("nano", device="cpu")
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    found = lib.trace(
        model, ids, stop_strings=("e",), tokenizer=tokenizer, max_new_tokens=30
    )
    assert len(found.steps) < 30
    back = lib.Trace.from_json(found.to_json())
    assert lib.replay(back, model, tokenizer=tokenizer) == found
    with pytest.raises(ValueError, match=r"tokenizer=None.*stop_strings"):
        lib.replay(back, model)


def test_a_pipeline_of_ones_own_is_named_and_asked_for_again():
    model, ids, _, _ = traced("llama")

    def no_evens(input_ids, logits):
        return logits.index_fill(-1, torch.arange(0, 61, 2), -torch.inf)

    pipeline = lib.Pipeline([no_evens], do_sample=True)
    settings = {"pipeline": pipeline, "max_new_tokens": 6, "seed": 4}
    found = lib.trace(model, ids, eos_token_id=-1, **settings)
    assert all(record.token % 2 for record in found.steps)
    assert found.custom_pipeline
    assert "no_evens" in found.pipeline
    back = lib.Trace.from_json(found.to_json())
    assert lib.replay(back, model, pipeline=pipeline) == found
    with pytest.raises(ValueError, match=r"pipeline=None.*no_evens.*pass it again"):
        lib.replay(back, model)


def test_another_model_is_found_out_where_its_text_is_longer():
    """It needs a uniform that was never drawn."""
    short = Scripted(lambda ids: one_hot(torch.full((len(ids),), 5)))
    long = Scripted(lambda ids: one_hot(torch.full((len(ids),), 6)))
    found = lib.trace(
        short, torch.tensor([[1]]), do_sample=True, temperature=0.01, eos_token_id=5,
        max_new_tokens=4, seed=1,
    )  # fmt: skip
    assert len(found.steps) == 1
    with pytest.raises(ValueError, match=r"step 1.*model it was made with"):
        lib.replay(found, long)


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"steps": 3}', "null"])
def test_what_is_no_trace_is_refused(text):
    with pytest.raises(ValueError, match="not the JSON of a trace"):
        lib.Trace.from_json(text)


def test_masses_and_entropies_are_finite_and_in_range():
    model, ids, _, settings = traced("qwen2")
    for record in lib.trace(model, ids, **settings).steps:
        for stage in record.stages:
            assert 0 <= stage.mass < 1
            assert 0 <= stage.entropy_after <= math.log(61) + 1e-6
            assert 0 <= stage.entropy_before <= math.log(61) + 1e-6
