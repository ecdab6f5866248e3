"""The pipeline: its stages composed, its order visible, its twins, its refusals."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
import torch
from drawn import COARSE, INF, kept, matrices, same
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

import lib.pipeline
from lib import (
    EmptySupportError,
    Pipeline,
    SamplingSettings,
    Stage,
    Step,
    apply_no_repeat_ngram,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    as_logits_processor,
    build_pipeline,
    greedy,
    sample,
    softmax,
)

VOCAB = 6

settings = st.builds(
    SamplingSettings,
    do_sample=st.booleans(),
    temperature=st.sampled_from([1.0, 1, 0.5, 0.7, 2, 1e-3, 50.0]),
    top_k=st.integers(0, VOCAB + 2),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1, 1 - 1e-9]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 2, 3]),
    min_new_tokens=st.integers(0, 3),
    eos_token_id=st.sampled_from([(), (0,), (0, 3), 2]),
).filter(lambda chosen: chosen.eos_token_id or not chosen.min_new_tokens)
histories = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)
every = {"vocab": st.just(VOCAB), "removed": False}


def by_hand(chosen, ids, z, index):
    """The standard order, from the public stages."""
    z = z.clone()
    if index < chosen.min_new_tokens:
        z[:, list(chosen.eos_token_id)] = -INF
    z = apply_no_repeat_ngram(ids, z, chosen.no_repeat_ngram_size)
    if chosen.do_sample:
        z = apply_temperature(z, chosen.temperature)
        z = apply_top_k(z, chosen.top_k)
        z = apply_top_p(z, chosen.top_p)
    return z


def luck(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, generator=generator, dtype=torch.float64)


@given(settings, matrices(COARSE, **every), histories, st.integers(0, 4))
def test_the_pipeline_is_its_stages_composed(chosen, z, text, index):
    ids = torch.tensor([text] * len(z))
    pipeline = build_pipeline(chosen)
    u = luck(len(z))
    before = z.clone()
    try:
        expected = by_hand(chosen, ids, z, index)
    except EmptySupportError:
        with pytest.raises(EmptySupportError):
            pipeline(ids, z, u, index=index)
        return
    if not kept(expected).any(dim=-1).all():
        with pytest.raises(EmptySupportError):
            pipeline(ids, z, u, index=index)
        return
    assert same(pipeline.process(Step(ids, index=index), z), expected)
    token = sample(expected, u) if chosen.do_sample else greedy(expected)
    assert same(pipeline(ids, z, u, index=index), token)
    assert same(pipeline.with_memory()(ids, z, u, index=index), token)
    assert same(z, before), "logits are never changed"


def test_stages_can_be_read_in_order():
    chosen = SamplingSettings(
        do_sample=True,
        temperature=0.7,
        top_k=50,
        top_p=0.9,
        no_repeat_ngram_size=3,
        min_new_tokens=5,
        eos_token_id=0,
    )
    pipeline = build_pipeline(chosen)
    assert [stage.name for stage in pipeline.stages] == [
        "min_new_tokens",
        "no_repeat_ngram",
        "temperature",
        "top_k",
        "top_p",
    ]
    assert repr(pipeline) == (
        "min_new_tokens(5) -> no_repeat_ngram(3) -> temperature(0.7) -> top_k(50)"
        " -> top_p(0.9) -> sample"
    )
    assert dict(pipeline.stages[3].settings) == {"top_k": 50}


def test_neutral_settings_add_no_stage():
    assert repr(build_pipeline(SamplingSettings())) == "greedy"
    assert repr(build_pipeline(SamplingSettings(do_sample=True))) == "sample"
    chosen = SamplingSettings(temperature=0.5, top_k=3, top_p=0.5)
    assert repr(build_pipeline(chosen)) == "greedy", "no effect without sampling"


def test_a_least_length_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"min_new_tokens=3 bans eos_token_id"):
        build_pipeline(SamplingSettings(min_new_tokens=3))


def test_settings_cannot_be_changed_unseen():
    chosen = SamplingSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.top_k = 5


@given(
    matrices(COARSE, **every),
    st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
)
def test_min_new_tokens_equals_transformers(z, eos):
    chosen = SamplingSettings(min_new_tokens=2, eos_token_id=tuple(eos))
    pipeline = build_pipeline(chosen)
    for new in range(4):
        ids = torch.ones(len(z), 3 + new, dtype=torch.long)
        theirs = MinNewTokensLengthLogitsProcessor(3, 2, sorted(eos))(ids, z)
        assert same(pipeline.process(Step(ids, index=new), z), theirs)


# Another order, and stages of one's own


def test_the_order_is_data():
    """Temperature and top-p do not commute; both orders can be had."""
    z = torch.tensor([[0.5, 0.3, 0.2]]).log()
    ids = torch.tensor([[0]])
    chosen = SamplingSettings(do_sample=True, temperature=0.5, top_p=0.6)
    first = build_pipeline(chosen)
    last = Pipeline(reversed(first.stages), do_sample=True)
    assert repr(last) == "top_p(0.6) -> temperature(0.5) -> sample"
    assert int(kept(first.process(Step(ids), z)).sum()) == 1
    assert int(kept(last.process(Step(ids), z)).sum()) == 2


@given(matrices(COARSE, **every), st.permutations(range(4)))
def test_any_order_of_any_stages_is_their_composition(z, order):
    ids = torch.tensor([[0, 1, 0]] * len(z))
    functions = [
        lambda z: apply_no_repeat_ngram(ids, z, 2),
        lambda z: apply_temperature(z, 0.7),
        lambda z: apply_top_k(z, 4),
        lambda z: apply_top_p(z, 0.8),
    ]
    standard = build_pipeline(
        SamplingSettings(
            do_sample=True,
            temperature=0.7,
            top_k=4,
            top_p=0.8,
            no_repeat_ngram_size=2,
        )
    )
    pipeline = Pipeline([standard.stages[i] for i in order], do_sample=True)
    expected = z
    for i in order:
        expected = functions[i](expected)
        if not kept(expected).any(dim=-1).all():
            with pytest.raises(EmptySupportError):
                pipeline.process(Step(ids), z)
            return
    assert same(pipeline.process(Step(ids), z), expected)
    u = luck(len(z))
    assert same(pipeline(ids, z, u), sample(expected, u))


def test_a_function_of_input_ids_and_logits_is_a_stage():
    def no_odd_tokens(input_ids, logits):
        odd = torch.arange(logits.shape[-1]) % 2 == 1
        return logits.masked_fill(odd, -INF)

    pipeline = Pipeline([no_odd_tokens])
    assert repr(pipeline) == "no_odd_tokens() -> greedy"
    z = torch.tensor([[0.0, 9.0, 1.0, 9.0]])
    assert pipeline(torch.tensor([[0]]), z).tolist() == [2]


def test_a_stage_sees_history_mask_and_step():
    seen = []

    def look(step, logits):
        seen.append((step.input_ids.tolist(), step.attention_mask.tolist(), step.index))
        return logits

    ids, mask = torch.tensor([[5, 1]]), torch.tensor([[0, 1]])
    pipeline = Pipeline([Stage("look", look, {"at": "all"})])
    assert repr(pipeline) == "look(all) -> greedy"
    pipeline(ids, torch.zeros(1, 3), attention_mask=mask, index=4)
    assert seen == [([[5, 1]], [[0, 1]], 4)]


@given(matrices(COARSE, **every), histories)
def test_logits_processors_of_transformers_are_stages(z, text):
    ids = torch.tensor([text] * len(z))
    processors = [
        NoRepeatNGramLogitsProcessor(2),
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(4),
    ]
    pipeline = Pipeline(processors, do_sample=True)
    theirs = LogitsProcessorList(processors)(ids, z.clone())
    if kept(theirs).any(dim=-1).all():
        assert same(pipeline.process(Step(ids), z), theirs)
        u = luck(len(z))
        assert same(pipeline(ids, z, u), sample(theirs, u))
    name = "NoRepeatNGramLogitsProcessor() -> TemperatureLogitsWarper()"
    assert repr(pipeline).startswith(name)


# Stages inside model.generate


@pytest.fixture(scope="module")
def gpt2():
    """Untied and with a large range, so that it says something."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


NEUTRAL = {"top_k": 0, "temperature": 1.0, "top_p": 1.0}  # transformers' own settings
PROMPTS = torch.tensor([[1, 2, 3], [7, 8, 9], [5, 5, 5]])


def test_a_stage_inside_model_generate_decodes_like_transformers(gpt2):
    run = {"max_new_tokens": 30, "do_sample": False}
    theirs = gpt2.generate(PROMPTS, no_repeat_ngram_size=2, **run)
    ban = as_logits_processor(apply_no_repeat_ngram, no_repeat_ngram_size=2)
    mine = gpt2.generate(PROMPTS, logits_processor=LogitsProcessorList([ban]), **run)
    assert mine.tolist() == theirs.tolist()
    assert all(len(set(row)) >= 10 for row in theirs[:, 3:].tolist())
    plain = gpt2.generate(PROMPTS, **run)
    assert plain.tolist() != theirs.tolist(), "the ban has something to ban"


def test_stages_inside_model_generate_keep_what_transformers_keeps(gpt2):
    run = {
        "max_new_tokens": 12,
        "do_sample": True,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    torch.manual_seed(1)
    theirs = gpt2.generate(PROMPTS, temperature=0.8, top_k=12, top_p=0.9, **run)
    stages = [
        as_logits_processor(apply_temperature, temperature=0.8),
        as_logits_processor(apply_top_k, top_k=12),
        as_logits_processor(apply_top_p, top_p=0.9),
    ]
    torch.manual_seed(1)
    mine = gpt2.generate(
        PROMPTS, logits_processor=LogitsProcessorList(stages), **run, **NEUTRAL
    )
    assert mine.sequences.tolist() == theirs.sequences.tolist()
    for one, other in zip(mine.scores, theirs.scores, strict=True):
        assert torch.equal(kept(one), kept(other))
        assert 1 < kept(one).sum(dim=-1).max() <= 12
        torch.testing.assert_close(softmax(one), softmax(other))


def test_without_neutral_settings_transformers_may_truncate_again(gpt2):
    """Why the documentation passes top_k=0: here the model's own default is 3."""
    gpt2.generation_config.top_k = 3
    try:
        run = {
            "max_new_tokens": 1,
            "do_sample": True,
            "return_dict_in_generate": True,
            "output_scores": True,
        }
        stages = LogitsProcessorList([as_logits_processor(apply_top_k, top_k=12)])
        again = gpt2.generate(PROMPTS, logits_processor=stages, **run)
        alone = gpt2.generate(PROMPTS, logits_processor=stages, **run, **NEUTRAL)
    finally:
        gpt2.generation_config.top_k = None
    assert kept(again.scores[0]).sum(dim=-1).tolist() == [3, 3, 3]
    assert kept(alone.scores[0]).sum(dim=-1).tolist() == [12, 12, 12]


def test_as_logits_processor_refuses_settings_that_the_stage_does_not_take():
    with pytest.raises(TypeError, match="top_p"):
        as_logits_processor(apply_top_k, top_k=5, top_p=0.9)
    with pytest.raises(TypeError, match="top_k"):
        as_logits_processor(apply_top_k)


# What a pipeline refuses


def test_an_emptied_row_raises_with_stage_row_and_step():
    pipeline = build_pipeline(SamplingSettings(no_repeat_ngram_size=1))
    ids = torch.tensor([[0, 0, 0], [0, 1, 2]])
    message = r"no_repeat_ngram\(1\).*row 1.*step 7"
    for chain in (pipeline, pipeline.with_memory()):
        with pytest.raises(EmptySupportError, match=message):
            chain(ids, torch.zeros(2, 3), index=7)


def test_a_ban_after_a_truncation_can_empty_the_row_and_says_so():
    """The seed note's order: top-k keeps token 1, the ban removes it."""
    standard = build_pipeline(
        SamplingSettings(do_sample=True, top_k=1, no_repeat_ngram_size=1)
    )
    ids, z = torch.tensor([[1]]), torch.tensor([[0.0, 9.0, 1.0]])
    assert standard(ids, z, luck(1)).tolist() == [2]
    reversed_order = Pipeline(reversed(standard.stages), do_sample=True)
    with pytest.raises(EmptySupportError, match="stage no_repeat_ngram"):
        reversed_order(ids, z, luck(1))


def test_an_empty_support_error_is_a_value_error():
    assert issubclass(EmptySupportError, ValueError)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (INF, "inf")])
def test_a_stage_that_returns_nan_is_named(value, word):
    def broken(input_ids, logits):
        return logits.index_fill(-1, torch.tensor([1]), value)

    for rest in ([], build_pipeline(SamplingSettings(do_sample=True, top_k=2)).stages):
        pipeline = Pipeline([broken, *rest], do_sample=True)
        with pytest.raises(ValueError, match=rf"stage broken.*{word}.*row 0.*step 2"):
            pipeline(torch.tensor([[0]]), torch.zeros(1, 3), luck(1), index=2)


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (INF, ValueError), (-INF, EmptySupportError)],
)
def test_illegal_logits_of_the_model_are_refused(value, error):
    for pipeline in (
        Pipeline([]),
        build_pipeline(SamplingSettings(do_sample=True, top_k=2)),
        build_pipeline(SamplingSettings(do_sample=True, top_k=2, top_p=0.9)),
    ):
        with pytest.raises(error, match="model: "):
            pipeline(torch.tensor([[0]]), torch.full((1, 3), value), luck(1), index=0)
        with pytest.raises(error, match=r"step 3"):
            pipeline.process(
                Step(torch.tensor([[0]]), index=3), torch.full((1, 3), value)
            )


def remove_all_of_row_1(step, logits):
    gone = torch.tensor([False, True]).to(logits.device)
    return logits.masked_fill(gone[:, None], -INF)


@pytest.mark.parametrize("vocab", [5, 500], ids=["dense", "candidates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_that_have_ended_raise_nothing(vocab, dtype):
    """Their logits no longer matter; the live row's token does not change."""
    stage = Stage("remove", remove_all_of_row_1)
    standard = build_pipeline(
        SamplingSettings(do_sample=True, temperature=0.7, top_k=3, top_p=0.9)
    )
    z = torch.randn(2, vocab, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ids, u = torch.zeros(2, 1, dtype=torch.long), luck(2)
    for rest in (standard.stages, [], [*standard.stages[:1]]):
        pipeline = Pipeline([stage, *rest], do_sample=True)
        step = Step(ids, None, 4, live=torch.tensor([True, False]))
        token = pipeline.choose(step, z, u)[0]
        alone = Pipeline(rest, do_sample=True).choose(Step(ids[:1]), z[:1], u[:1])
        assert token == alone[0]
        with pytest.raises(EmptySupportError, match=r"remove.*row 1.*step 4"):
            pipeline.choose(Step(ids, None, 4, live=torch.tensor([True, True])), z, u)


def test_sampling_without_a_uniform_is_refused():
    for chosen in ({}, {"top_k": 2}, {"temperature": 0.5}):
        pipeline = build_pipeline(SamplingSettings(do_sample=True, **chosen))
        with pytest.raises(ValueError, match="u=None"):
            pipeline(torch.tensor([[0]]), torch.zeros(1, 3))


def test_min_new_tokens_without_a_count_is_refused():
    pipeline = build_pipeline(SamplingSettings(min_new_tokens=2, eos_token_id=0))
    with pytest.raises(ValueError, match="index=None"):
        pipeline(torch.tensor([[0]]), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("returns", "error", "words"),
    [
        (lambda z: z[:1], ValueError, r"\(1, 6\).*\(2, 6\)"),
        (lambda z: z[0], ValueError, r"\(6,\)"),
        (lambda z: z[:, :3], ValueError, r"\(2, 3\)"),
        (lambda z: z.argmax(-1), TypeError, "int64"),
        (lambda z: z > 0, TypeError, "bool"),
        (lambda z: z.numpy(), TypeError, "ndarray"),
        (lambda z: None, TypeError, "NoneType"),
    ],
    ids=["row", "flat", "cut", "token", "bool", "numpy", "nothing"],
)
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_stage_that_returns_no_logits_is_named(returns, error, words, do_sample):
    def odd(input_ids, logits):
        return returns(logits)

    top_k = build_pipeline(SamplingSettings(do_sample=True, top_k=2)).stages
    ids, z = torch.zeros(2, 1, dtype=torch.long), torch.randn(2, VOCAB)
    for rest in ((), top_k):
        with pytest.raises(error, match=rf"stage odd.*{words}"):
            Pipeline([odd, *rest], do_sample=do_sample)(ids, z, luck(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_stage_of_ones_own_may_narrow(dtype):
    def narrow(input_ids, logits):
        return logits.to(dtype)

    chosen = SamplingSettings(do_sample=True, temperature=0.7, top_k=200)
    pipeline = Pipeline([narrow, *build_pipeline(chosen).stages], do_sample=True)
    z, step = 3 * torch.randn(200, 500), Step(torch.zeros(200, 1, dtype=torch.long))
    u = luck(200)
    wanted = pipeline.select(pipeline.process(step, z), u)
    assert torch.equal(pipeline.choose(step, z, u), wanted)


@pytest.mark.parametrize("value", [float("nan"), INF])
def test_a_ban_hides_no_fault(value):
    chosen = SamplingSettings(do_sample=True, no_repeat_ngram_size=1, top_k=3)
    pipeline = build_pipeline(chosen).with_memory()
    ids, z = torch.tensor([[3, 3], [4, 4]]), torch.randn(2, 10)
    z[0, 5] = -INF  # legal
    assert pipeline.choose(Step(ids), z, luck(2)).shape == (2,)
    z[1, 4] = value  # banned
    with pytest.raises(ValueError, match=r"model: .*row 1"):
        pipeline.choose(Step(torch.cat([ids, ids[:, :1]], dim=1)), z, luck(2))


def test_rows_that_have_all_ended_raise_nothing():
    """Of a large vocabulary they may be a part of the rows that is drawn alone."""
    vocab = lib.pipeline._AT_A_TIME // 2 + 1
    chosen = SamplingSettings(do_sample=True, top_k=5, top_p=0.9)
    rest = build_pipeline(chosen).stages
    pipeline = Pipeline([Stage("remove", remove_all_of_row_1), *rest], do_sample=True)
    z, ids = torch.randn(2, vocab), torch.zeros(2, 1, dtype=torch.long)
    step = Step(ids, live=torch.tensor([True, False]))
    assert pipeline.choose(step, z, luck(2)).shape == (2,)


@pytest.mark.parametrize("chosen", [{"top_k": 2}, {"top_k": 2, "top_p": 0.9}], ids=str)
def test_an_emptied_row_is_found_on_candidates_too(chosen):
    settings = SamplingSettings(do_sample=True, no_repeat_ngram_size=1, **chosen)
    pipeline = build_pipeline(settings).with_memory()
    with pytest.raises(EmptySupportError, match=r"no_repeat_ngram\(1\).*row 0"):
        pipeline(torch.tensor([[0, 1, 2]]), torch.zeros(1, 3), luck(1))


def test_equal_settings_of_other_types_are_shown_as_given():
    for value in (2.0, 2):
        chosen = SamplingSettings(do_sample=True, temperature=value)
        assert repr(build_pipeline(chosen)) == f"temperature({value}) -> sample"


def test_a_pipeline_has_no_subclasses():
    with pytest.raises(TypeError, match=r"no subclasses such as Mine: write a stage"):

        class Mine(Pipeline):  # type: ignore[misc]
            pass


def test_something_that_is_no_stage_is_refused():
    with pytest.raises(TypeError, match=re.escape("'top_k' must be a Stage")):
        Pipeline(["top_k"])


# Precision


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"]
)
def test_half_precision_is_widened_before_the_first_stage(dtype):
    chosen = SamplingSettings(do_sample=True, temperature=0.7, top_k=40, top_p=0.9)
    pipeline = build_pipeline(chosen)
    z = (3 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0))).to(dtype)
    ids, u = torch.zeros(4, 1, dtype=torch.long), luck(4)
    out = pipeline.process(Step(ids), z)
    assert out.dtype == torch.float32
    assert same(out, pipeline.process(Step(ids), z.float()))
    assert same(pipeline(ids, z, u), pipeline(ids, z.float(), u))


def test_float64_stays():
    pipeline = build_pipeline(SamplingSettings(do_sample=True, temperature=0.7))
    z = torch.randn(2, 5, dtype=torch.float64)
    out = pipeline.process(Step(torch.zeros(2, 1, dtype=torch.long)), z)
    assert out.dtype == torch.float64


# The few best candidates are the twin of the dense stages


def dense(pipeline, step, z, u):
    return pipeline.select(pipeline.process(step, z), u)


KINDS = {
    "usual": lambda g, v: 3 * torch.randn(6, v, generator=g),
    "flat": lambda g, v: 0.01 * torch.randn(6, v, generator=g),
    "uniform": lambda g, v: torch.zeros(6, v),
    "tied": lambda g, v: (2 * torch.randn(6, v, generator=g)).round(),
    "bfloat16": lambda g, v: (3 * torch.randn(6, v, generator=g)).bfloat16().float(),
    "peaked": lambda g, v: 30 * torch.randn(6, v, generator=g),
    "sparse": lambda g, v: torch.randn(6, v, generator=g).masked_fill(
        (torch.rand(6, v, generator=g) < 0.97) & (torch.arange(v) > 0), -INF
    ),
    "extreme": lambda g, v: 1e38 * torch.randn(6, v, generator=g).clamp(-3, 3),
}

candidate_settings = st.builds(
    SamplingSettings,
    do_sample=st.just(True),
    temperature=st.sampled_from([1.0, 0.3, 0.8, 1.7, 1e-30, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 63, 64, 65, 200, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.95, 0.9, 0.5, 0.05, 1 - 1e-13]),
)


@pytest.mark.parametrize("kind", KINDS)
@given(
    chosen=candidate_settings,
    vocab=st.sampled_from([10, 64, 65, 100, 1000, 3000]),
    seed=st.integers(0, 10**6),
    order=st.permutations(range(3)),
)
def test_candidates_give_the_tokens_of_the_dense_stages(
    kind, chosen, vocab, seed, order
):
    z = KINDS[kind](torch.Generator().manual_seed(seed), vocab)
    stages = build_pipeline(chosen).stages
    pipeline = Pipeline([stages[i] for i in order if i < len(stages)], do_sample=True)
    step = Step(torch.zeros(6, 1, dtype=torch.long), index=0)
    before = z.clone()
    ends = torch.tensor([0.0, 1 - 2**-53, 0.5, 0.25, 0.75, 1e-17], dtype=torch.float64)
    for u in (luck(6, seed), ends):
        assert same(pipeline.choose(step, z, u), dense(pipeline, step, z, u))
    assert same(z, before)


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99])
def test_candidates_suffice_or_say_so_on_a_real_vocabulary(top_p):
    """V = 50,257 from peaked to flat: 64 candidates, then 1,024, then all."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.1])[:, None]
    z = scale * torch.randn(5, 50_257, generator=generator)
    pipeline = build_pipeline(SamplingSettings(do_sample=True, top_p=top_p))
    sizes = kept(pipeline.process(Step(torch.zeros(5, 1)), z)).sum(dim=-1)
    assert sizes.min() < 64
    assert sizes.max() > 1024
    step = Step(torch.zeros(5, 1, dtype=torch.long))
    for seed in range(3):
        u = luck(5, seed)
        assert same(pipeline.choose(step, z, u), dense(pipeline, step, z, u))


def test_stages_that_work_on_candidates_are_used_in_any_tail():
    """A ban in front is dense, a stage of one's own at the end makes all dense."""

    def same_logits(input_ids, logits):
        return logits

    chosen = SamplingSettings(
        do_sample=True, temperature=0.9, top_k=7, no_repeat_ngram_size=2
    )
    ban, *rest = build_pipeline(chosen).stages
    z = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[4, 5, 4]] * 3)
    expected = apply_top_k(apply_temperature(apply_no_repeat_ngram(ids, z, 2), 0.9), 7)
    u = luck(3)
    for stages in itertools.permutations([ban, *rest, same_logits]):
        if list(stages).index(ban) == 0:
            pipeline = Pipeline(stages, do_sample=True)
            assert same(pipeline(ids, z, u), sample(expected, u))


@pytest.mark.gpu
def test_a_pipeline_on_a_gpu_chooses_what_it_chooses_on_the_cpu():
    chosen = SamplingSettings(do_sample=True, temperature=0.8, top_k=50, top_p=0.9)
    pipeline = build_pipeline(chosen)
    z = 3 * torch.randn(64, 50_257, generator=torch.Generator().manual_seed(0))
    ids, u = torch.zeros(64, 1, dtype=torch.long), luck(64)
    tokens = pipeline(ids.cuda(), z.cuda(), u.cuda())
    assert tokens.device.type == "cuda"
    assert same(tokens.cpu(), pipeline(ids, z, u))
