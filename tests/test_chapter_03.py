"""What chapter 3 proves about truncation, beyond what the stages' own tests hold.

Distributions are exact float64 softmaxes; *mass* is what a kept set holds.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from drawn import COARSE, FINE, INF, kept, logits
from hypothesis import assume, given
from hypothesis import strategies as st

import lib
from lib import (
    SamplingSettings,
    World,
    apply_temperature,
    apply_top_k,
    build_pipeline,
    entropy,
    greedy,
    sample,
    softmax,
)

ONE_ROW = st.just(())
ks = st.integers(1, 10)


def rows(numbers=COARSE | FINE, **kwargs):
    return logits(numbers, dtype=torch.float64, leading=ONE_ROW, **kwargs)


def divergence(q, p):
    used = q > 0
    return (q[used] * (q[used].log() - p[used].log())).sum()


def variation(p, q):
    return (p - q).abs().sum() / 2


@given(rows(COARSE, removed=False), st.data())
def test_the_conditional_is_the_nearest_distribution_on_any_set(z, data):
    """Propositions 3.2, 3.3 and 3.5, for sets that need not be the best tokens."""
    inside = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(z), max_size=len(z)))
    )
    assume(bool(inside.any()))
    p = softmax(z)
    mass = p[inside].sum()
    cut = softmax(z.masked_fill(~inside, -INF))
    assert torch.allclose(cut, p.where(inside, 0) / mass, rtol=1e-12)
    assert torch.isclose(divergence(cut, p), -mass.log(), atol=1e-12)
    assert torch.isclose(variation(cut, p), 1 - mass, atol=1e-12)

    other = data.draw(rows(COARSE, removed=False, vocab=st.just(len(z))))
    q = softmax(other.masked_fill(~inside, -INF))
    assert torch.isclose(divergence(q, p), divergence(q, cut) - mass.log(), atol=1e-11)
    assert variation(q, p) >= 1 - mass - 1e-12


@given(rows(COARSE, vocab=st.integers(1, 7)), ks)
def test_no_k_tokens_hold_more_than_the_k_best(z, k):
    """Proposition 3.4, against all sets of k tokens."""
    p, k = softmax(z), min(k, len(z))
    most = max(
        float(p[list(s)].sum()) for s in itertools.combinations(range(len(z)), k)
    )
    keeps = kept(apply_top_k(z, k))
    assert float(p[keeps].sum()) >= most - 1e-12
    if int(keeps.sum()) == k:
        assert float(p[keeps].sum()) == pytest.approx(most, abs=1e-12)


@given(rows(COARSE), ks)
def test_no_smaller_set_of_whole_classes_has_k_tokens(z, k):
    """Proposition 3.1: {v : z_v >= tau} has fewer than k tokens for any higher tau."""
    keeps = kept(apply_top_k(z, k))
    for tau in z.unique():
        smaller = (z >= tau) & kept(z)
        if int(smaller.sum()) < int(keeps.sum()):
            assert int(smaller.sum()) < k


@given(rows(), ks)
def test_entropy_falls_by_at_least_the_divergence(z, k):
    """Proposition 3.6."""
    cut = apply_top_k(z, k)
    mass = softmax(z)[kept(cut)].sum()
    assert entropy(cut) <= entropy(z) + mass.log() + 1e-10


def test_entropy_may_rise_where_other_tokens_are_removed():
    z = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64).log()
    banned = z.index_fill(0, torch.tensor([0]), -INF)
    assert entropy(banned) > entropy(z) + 0.29


@given(rows(COARSE), ks, st.lists(st.floats(0.05, 20), min_size=2, max_size=2))
def test_a_higher_temperature_makes_top_k_remove_more(z, k, temperatures):
    """Proposition 3.7."""
    masses = []
    for temperature in sorted(temperatures):
        warm = apply_temperature(z, temperature)
        masses.append(float(softmax(warm)[kept(apply_top_k(warm, k))].sum()))
    assert masses[1] <= masses[0] + 1e-12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_step_conditioned_is_not_the_text_conditioned(seed, k):
    """Proposition 3.8, by listing all texts of a world."""
    world = World.random(4, 4, seed=seed)
    top_k = build_pipeline(SamplingSettings(do_sample=True, top_k=k))
    p, q = world.sequence_law(), world.sequence_law(top_k)
    left = q > 0
    mass = torch.ones_like(p)
    for t in range(world.length):
        z = world.next_logits(world.sequences()[:, :t])
        mass *= softmax(z).where(kept(apply_top_k(z, k)), 0).sum(-1)
    assert torch.allclose(q[left], p[left] / mass[left])
    cost = -(q[left] * mass[left].log()).sum()
    assert torch.isclose(divergence(q, p), cost)
    least = -p[left].sum().log()
    given_all = p.where(left, 0) / p[left].sum()
    assert torch.isclose(divergence(given_all, p), least)
    if k == 1:  # one text remains, so that the two laws are one
        assert torch.isclose(cost, least)
    else:
        assert cost > least + 1e-6


@given(rows(COARSE), st.floats(0, 1, exclude_max=True))
def test_top_1_is_greedy_where_the_maximum_is_unique(z, u):
    drawn = sample(apply_top_k(z, 1), torch.tensor(u, dtype=torch.float64))
    assert z[drawn] == z.max()
    if int((z == z.max()).sum()) == 1:
        assert drawn == greedy(z)


@given(rows(COARSE))
def test_top_1_is_the_limit_of_low_temperature(z):
    """Uniform on the maxima, both."""
    cold = softmax(apply_temperature(z, 1e-3))
    assert torch.allclose(softmax(apply_top_k(z, 1)), cold, atol=1e-12)


@pytest.fixture(scope="module")
def steps_of_stories():
    """The 800 steps of the chapter's eight texts: logits ``(800, vocab)``."""
    model, tokenizer = lib.load()
    start = tokenizer("<|endoftext|>", return_tensors="pt")["input_ids"]
    texts = lib.generate(
        model,
        start,
        do_sample=True,
        seed=1,
        num_return_sequences=8,
        max_new_tokens=100,
        eos_token_id=-1,
    )
    with torch.inference_mode():
        return model(texts).logits[:, :-1].flatten(0, 1).double()


def test_experiments_on_the_flat_and_the_peaked_step(steps_of_stories):
    h = entropy(steps_of_stories)
    mass = softmax(steps_of_stories).sort(-1, descending=True).values.cumsum(-1)
    needed = (mass < 0.95).sum(-1) + 1
    assert needed[h.argmax()] == needed.max() == 278
    assert needed[h.argmin()] == needed.min() == 1
    warm = [apply_temperature(steps_of_stories[h.argmax()], t) for t in (1, 1.1, 1.2)]
    held = [float(softmax(z).topk(40).values.sum()) for z in warm]
    assert held == pytest.approx([0.60, 0.54, 0.49], abs=0.006)


def test_exercise_4_how_long_rejection_takes(steps_of_stories):
    mass = softmax(steps_of_stories).sort(-1, descending=True).values.cumsum(-1)
    draws = [float((1 / mass[:, k - 1]).mean()) for k in (40, 1)]
    assert draws == pytest.approx([1.04, 2.29], abs=0.006)
    assert float(1 / mass[:, 0].mean()) == pytest.approx(1.64, abs=0.006)
