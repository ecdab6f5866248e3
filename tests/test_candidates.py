"""The candidate path gives the tokens of the dense stages, on any distribution."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import Pipeline, SamplingSettings, Step, build_pipeline
from lib import candidates as candidates_module
from lib.candidates import choose

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
        pipeline.stages.reverse()
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


def test_candidates_say_where_they_do_not_suffice():
    stages = [
        s.on_candidates
        for s in build_pipeline(SamplingSettings(do_sample=True, top_p=0.9)).stages
    ]
    logits = torch.stack([torch.zeros(200), torch.arange(200.0)])
    tokens = choose(logits, stages, torch.tensor([0.5, 0.5]).double(), count=16)
    assert tokens[0] == -1  # 180 of 200 equal tokens: neither 16 nor 256 > 200 will do
    assert tokens[1] >= 190


def test_candidates_are_not_used_where_nothing_truncates(monkeypatch):
    def refuse(*_):
        raise AssertionError("temperature alone removes no token")

    monkeypatch.setattr(candidates_module, "_attempt", refuse)
    pipeline = build_pipeline(SamplingSettings(do_sample=True, temperature=0.5))
    pipeline.choose(STEP, torch.randn(4, 100), torch.full((4,), 0.5).double())


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
        (
            "crossing_rank",
            lambda ranked, p, total=None: torch.zeros_like(ranked[:, :1]).long(),
        ),
        ("temperature_stage", lambda logits, t: logits),
        ("sample_stage", lambda logits, u: torch.zeros(len(logits), dtype=torch.long)),
    ],
)
def test_mutants_of_the_candidate_path_are_seen(monkeypatch, name, mutant):
    pipeline = build_pipeline(
        SamplingSettings(do_sample=True, temperature=0.5, top_k=40, top_p=0.9)
    )
    logits = logits_of("normal", 3000, seed=3)
    u = torch.tensor([0.2, 0.6, 0.9, 0.99], dtype=torch.float64)
    dense = pipeline.select(pipeline.process(STEP, logits), u)
    monkeypatch.setattr(candidates_module, name, mutant)
    assert not torch.equal(pipeline.choose(STEP, logits, u), dense)
