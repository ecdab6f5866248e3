"""The candidate path gives the tokens of the dense stages, on any distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import Pipeline, SamplingSettings, Step, build_pipeline
from lib import candidates as candidates_module
from lib.candidates import choose
from lib.selection import masses, sample_stage

STEP = Step(torch.zeros((4, 1), dtype=torch.long))


def logits_of(kind: str, vocab: int, seed: int) -> torch.Tensor:
    """Four rows of logits, of a kind that is hard for a path that ranks only a few."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn((4, vocab), generator=g)
    if kind == "peaked":
        z = z * 8
    elif kind == "flat":
        z = z * 0.01
    elif kind == "all equal":
        z = torch.zeros_like(z)
    elif kind == "coarse grid":  # many ties, at every boundary
        z = (z * 2).round() / 2
    elif kind == "zipf":
        z = -1.1 * torch.log(torch.arange(1.0, vocab + 1)).repeat(4, 1)
        z = z[:, torch.randperm(vocab, generator=g)]
    elif kind == "mostly removed":
        gone = torch.rand(z.shape, generator=g) < 0.97
        z = z.masked_fill(gone, -torch.inf).index_fill(1, torch.tensor([0]), 0.0)
    return z


KINDS = [
    "normal",
    "peaked",
    "flat",
    "all equal",
    "coarse grid",
    "zipf",
    "mostly removed",
]
settings = st.builds(
    SamplingSettings,
    do_sample=st.just(True),
    temperature=st.sampled_from([1.0, 0.7, 3.0, 10.0, 1e-3]),
    top_k=st.sampled_from([0, 1, 2, 40, 64, 65, 500, 5000]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999), st.just(0.5)),
)


@given(
    settings=settings,
    kind=st.sampled_from(KINDS),
    vocab=st.sampled_from([2, 63, 64, 65, 300, 3000]),
    backwards=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_candidates_choose_as_the_dense_stages(settings, kind, vocab, backwards, seed):
    pipeline = build_pipeline(settings)
    if backwards:
        pipeline = Pipeline(pipeline.stages[::-1], do_sample=True)
    logits = logits_of(kind, vocab, seed)
    u = torch.rand(
        4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    dense = pipeline.select(pipeline.process(STEP, logits), u)
    assert torch.equal(pipeline.choose(STEP, logits, u), dense)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_candidates_at_a_large_vocabulary(kind, top_p):
    logits = logits_of(kind, 50_257, seed=1)
    pipeline = build_pipeline(SamplingSettings(do_sample=True, top_p=top_p))
    u = torch.tensor([0.0, 0.31, 0.77, 1 - 2**-53], dtype=torch.float64)
    dense = pipeline.select(pipeline.process(STEP, logits), u)
    assert torch.equal(pipeline.choose(STEP, logits, u), dense)


def stages_of(**settings):
    pipeline = build_pipeline(SamplingSettings(do_sample=True, **settings))
    return [stage.on_candidates for stage in pipeline.stages]


U = torch.tensor([0.0, 0.31, 0.77, 1 - 2**-53], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "setting",
    [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9, "temperature": 0.8}],
)
def test_candidates_suffice_also_on_flat_distributions(kind, setting):
    logits = logits_of(kind, 50_257, seed=2)
    assert (choose(logits, stages_of(**setting), U) >= 0).all()


def test_a_sample_that_misses_the_mass_is_found_out():
    logits = torch.full((1, 10_000), -1.0)
    logits[:, ::3] = -20.0  # every third token is sampled: the tail looks like nothing
    logits[:, :120:3] = 0.0
    stages = stages_of(top_p=0.9)
    assert choose(logits, stages, U[:1]).tolist() == [-1]
    pipeline = build_pipeline(SamplingSettings(do_sample=True, top_p=0.9))
    dense = pipeline.select(pipeline.process(STEP, logits), U[1:2])
    assert pipeline.choose(STEP, logits, U[1:2]) == dense


def test_a_wrong_cut_costs_time_and_nothing_else(monkeypatch):
    logits = logits_of("normal", 50_257, seed=4)
    pipeline = build_pipeline(SamplingSettings(do_sample=True, top_p=0.7))
    dense = pipeline.select(pipeline.process(STEP, logits), U)
    for cut in (-9.0, 0.0, 2.0, 9.0):
        wrong = torch.full((1, 1), cut).numpy()
        monkeypatch.setattr(candidates_module, "_tail_cut", lambda *_, cut=wrong: cut)
        assert torch.equal(pipeline.choose(STEP, logits, U), dense)


def test_a_sum_next_to_top_p_is_left_to_the_dense_stage():
    logits = torch.full((1, 50_257), -torch.inf)
    logits[:, [7, 8, 9]] = torch.tensor([0.0, -0.7, -0.8])
    mass = masses(logits)[0, 7:10]
    edge = float(mass[0] / mass.sum()) + 1e-12
    assert choose(logits, stages_of(top_p=edge), U[:1]).tolist() == [-1]
    assert choose(logits, stages_of(top_p=edge + 1e-9), U[2:3]).tolist() == [8]
    assert choose(logits, stages_of(top_p=edge - 1e-9), U[2:3]).tolist() == [7]


def test_tokens_that_a_temperature_ties_are_all_candidates_or_none():
    # Spread over the blocks, so that only the best two are above the cut. Over so high
    # a temperature the best few are 0 in float32: top-k keeps them all.
    place = torch.arange(960)[None]
    logits = -1e-8 * (place % 64 * 15 + place // 64)
    setting = {"temperature": 3e38, "top_k": 2}
    assert choose(logits, stages_of(**setting), U[:1]).tolist() == [-1]
    pipeline = build_pipeline(SamplingSettings(do_sample=True, **setting))
    scaled = pipeline.process(STEP, logits)
    assert 2 < (scaled > -torch.inf).sum() < 100
    assert pipeline.choose(STEP, logits, U[3:]) == sample_stage(scaled, U[3:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.8, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_from_all_tokens_is_right_next_to_the_edges(kind, temperature, dtype):
    pipeline = build_pipeline(SamplingSettings(do_sample=True, temperature=temperature))
    logits = logits_of(kind, 3001, seed=5).to(dtype)[:1].expand(60, -1)
    scaled = pipeline.process(STEP, logits)
    mass = masses(scaled[0]).cumsum(dim=-1)
    edges = (mass / mass[-1])[torch.randint(3001, (20,))]
    u = torch.cat([edges, edges - 1e-9, edges + 1e-9]).clamp(0.0, 1 - 2**-53)
    assert torch.equal(pipeline.choose(STEP, logits, u), sample_stage(scaled, u))


def test_float32_decides_where_it_can_and_only_there(monkeypatch):
    logits = logits_of("normal", 50_257, seed=6)[:1].expand(400, -1)
    u = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (choose(logits, [], u) < 0).mean() < 0.3
    mass = masses(logits[:1]).cumsum(dim=-1)[0]
    edges = (mass / mass[-1])[torch.arange(1000, 1400)]
    assert (choose(logits, [], edges) < 0).all()
    monkeypatch.setattr(candidates_module, "_DOUBT", 0.0)
    assert (choose(logits, [], edges) != sample_stage(logits, edges).numpy()).any()


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, "empty"])
@pytest.mark.parametrize("place", [0, 1234, 3000])
@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 40},
        {"top_p": 0.9},
        {"temperature": 0.5, "top_k": 40, "top_p": 0.9},
        {"temperature": 0.5, "top_k": 4000, "top_p": 0.9},
    ],
)
def test_a_faulty_row_is_never_given_a_token(setting, place, fault):
    """Nothing else looks at the logits before candidates do."""
    logits = logits_of("normal", 3001, seed=7)
    logits[2, place if fault != "empty" else slice(None)] = (
        -torch.inf if fault == "empty" else fault
    )
    u = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    left = choose(logits, stages_of(**setting), u) < 0
    assert left.tolist() == [False, False, True, False]
    pipeline = build_pipeline(SamplingSettings(do_sample=True, **setting))
    with pytest.raises(ValueError, match="row 2"):
        pipeline.choose(STEP, logits, u)


def test_a_stage_of_ones_own_at_the_end_is_run_on_the_whole_vocabulary():
    def keep_even_ids(input_ids, logits):
        return logits.index_fill(1, torch.arange(1, logits.shape[1], 2), -torch.inf)

    settings = SamplingSettings(do_sample=True, top_k=5)
    stages = [*build_pipeline(settings).stages, keep_even_ids]
    pipeline = Pipeline(stages, do_sample=True)
    logits = torch.arange(100.0).repeat(4, 1)
    tokens = pipeline.choose(STEP, logits, torch.tensor([0.0, 0.2, 0.5, 0.99]).double())
    assert set(tokens.tolist()) <= {96, 98}


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("mass_to_reach", lambda p: p / 2),
        ("_scale", lambda values, t: values),
        ("_masses", lambda values: np.exp(2.0 * values)),
        ("_kth_largest", lambda values, k: values.max(-1, keepdims=True)),
    ],
)
def test_mutants_of_the_candidate_path_are_seen(monkeypatch, name, mutant):
    pipeline = build_pipeline(
        SamplingSettings(do_sample=True, temperature=0.5, top_k=40, top_p=0.9)
    )
    logits = logits_of("normal", 3000, seed=3)
    u = torch.tensor([0.2, 0.6, 0.9, 0.99], dtype=torch.float64)
    dense = pipeline.select(pipeline.process(STEP, logits), u)
    assert torch.equal(pipeline.choose(STEP, logits, u), dense)
    monkeypatch.setattr(candidates_module, name, mutant)
    assert not torch.equal(pipeline.choose(STEP, logits, u), dense)
