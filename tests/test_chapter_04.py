"""What chapter 4 proves and no other test holds: how nuclei compose, grow and bound."""

from __future__ import annotations

import math

import pytest
import torch
from drawn import COARSE, FINE, kept, logits
from hypothesis import assume, given
from hypothesis import strategies as st

import lib
from lib import apply_temperature, apply_top_k, apply_top_p, entropy, softmax

masses = st.floats(0.05, 0.99)
rows = logits(COARSE | FINE, dtype=torch.float64, leading=st.just(()))
SAFE = 1e-9  # how far from a boundary a drawn case must be


def mass_above(z):
    """The probability of all tokens with strictly larger logits, for each token."""
    p = softmax(z)
    return ((z[None, :] > z[:, None]) * p[None, :]).sum(dim=-1)


def away_from(z, rho):
    assume(float((mass_above(z) - rho).abs().min()) > SAFE)


@given(rows, masses, masses | st.integers(1, 10))
def test_after_another_truncation_rho_is_multiplied_by_the_mass_left(z, rho, other):
    """Equation (4.11), for top-p after top-p and after top-k."""
    cut = apply_top_p if isinstance(other, float) else apply_top_k
    upper = cut(z, other)
    left = float(softmax(z)[kept(upper)].sum())
    away_from(z, rho * left)
    twice = kept(apply_top_p(upper, rho))
    assert torch.equal(twice, kept(apply_top_p(z, rho * left)))
    if cut is apply_top_k:  # last, it removes no more than its own
        assert (twice <= kept(apply_top_k(apply_top_p(z, rho), other))).all()


@given(rows, masses, st.floats(0.2, 5), st.floats(0.2, 5))
def test_nuclei_grow_with_temperature(z, rho, one, other):
    """Proposition 4.6."""
    cold, hot = (apply_temperature(z, t) for t in sorted([one, other]))
    away_from(cold, rho)
    away_from(hot, rho)
    assert (kept(apply_top_p(cold, rho)) <= kept(apply_top_p(hot, rho))).all()


@given(rows, masses)
def test_entropy_bounds_the_size_of_the_nucleus(z, rho):
    """Equations (4.6) and (4.7)."""
    size, h = int(kept(apply_top_p(z, rho)).sum()), float(entropy(z))
    assert size >= 0.999 * math.exp(h) / 2 / len(z) ** (1 - rho)
    assert math.log(size) <= h / (1 - rho) + 1e-9


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_over_a_text_the_distance_is_what_the_nuclei_leave_out(rho, seed):
    """Equation (4.13)."""
    world = lib.World.random(4, 5, seed=seed)
    settings = lib.SamplingSettings(do_sample=True, top_p=rho)
    p = world.sequence_law()
    q = world.sequence_law(lib.build_pipeline(settings))
    possible = q > 0
    inside = float(p[possible].sum())
    assert (q >= p)[possible].all()
    assert float((q - p).abs().sum()) / 2 == pytest.approx(1 - inside, abs=1e-12)
    assert inside >= rho**5


@given(rows, st.data())
def test_no_distribution_within_the_budget_has_fewer_tokens(z, data):
    """Proposition 4.3: whatever rho a distribution meets, it has k* tokens or more."""
    p = softmax(z)
    weights = data.draw(
        st.lists(
            st.just(0.0) | st.floats(0.01, 1), min_size=len(z), max_size=len(z)
        ).filter(any)
    )
    q = torch.tensor(weights, dtype=p.dtype)
    q = q / q.sum()
    mass = p.sort(descending=True).values.cumsum(dim=-1)
    distance = float((p - q).abs().sum()) / 2
    divergence = float(torch.where(q > 0, q * (q / p).log(), 0.0).sum())
    for rho in (1 - distance, math.exp(-divergence)):
        fewest = 1 + int((mass < rho - SAFE).sum())
        assert int((q > 0).sum()) >= fewest


def min_p(z, mu):
    return z.masked_fill(z < z.amax(-1, keepdim=True) + math.log(mu), -torch.inf)


def sizes(z):
    return kept(z).sum(dim=-1).tolist()


def test_experiments_on_three_histories():
    model, tokenizer = lib.load()
    rows = []
    for text in (
        "Once upon a",
        "Once upon a time, there was a little",
        "Tom was very",
    ):
        ids = tokenizer("<|endoftext|>" + text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            rows.append(model(ids).logits[0, -1])
    z = torch.stack(rows)
    assert sizes(apply_top_p(z, 0.9)) == [1, 6, 77]
    assert sizes(apply_top_p(z, 0.95)) == [1, 21, 108]
    assert sizes(apply_top_p(z, 0.99)) == [1, 130, 247]
    assert sizes(apply_top_p(z / 0.7, 0.9)) == [1, 2, 32]
    assert sizes(apply_top_p(z / 1.5, 0.9)) == [1, 214, 213]
    assert sizes(apply_top_p(z, 0.775))[2] == 40
    best = softmax(z[2].double()).topk(40).values
    held = [float(best[:39].sum()), float(best.sum())]
    assert held == pytest.approx([0.773, 0.779], abs=6e-4)


@given(st.floats(0.01, 0.99), masses)
def test_exercise_6_no_top_p_is_a_min_p(mu, rho):
    """(c): two rests, told apart by min-p and by no top-p, at any mu."""
    first, rest = 1 / (1 + mu), mu / (1 + mu)
    assume(abs(first - rho) > SAFE)
    whole, halved = (
        torch.tensor(p, dtype=torch.float64).log()
        for p in ([first, rest * (1 + 1e-9)], [first, rest / 2, rest / 2])
    )
    assert (sizes(min_p(whole, mu)), sizes(min_p(halved, mu))) == (2, 1)
    more = [sizes(apply_top_p(z, rho)) > 1 for z in (whole, halved)]
    assert more[0] == more[1]


@given(rows, st.floats(0.01, 1), st.integers(1, 10), st.floats(0.2, 5))
def test_exercise_6_what_min_p_commutes_with(z, mu, k, t):
    """(a): itself and top-k; after temperature it is another min-p."""
    once = min_p(z, mu)
    assert torch.equal(min_p(once, mu), once)
    one, other = min_p(apply_top_k(z, k), mu), apply_top_k(once, k)
    assert torch.equal(one, other)
    gap = (z - z.amax() - t * math.log(mu)).abs()
    assume(float(gap.min()) > SAFE)
    assert torch.equal(kept(min_p(apply_temperature(z, t), mu)), kept(min_p(z, mu**t)))


def test_exercise_6_sizes_of_top_p_and_min_p():
    model, tokenizer = lib.load()
    start = tokenizer("<|endoftext|>", return_tensors="pt")["input_ids"]
    stories = lib.generate(
        model,
        start,
        do_sample=True,
        seed=4,
        num_return_sequences=4,
        min_new_tokens=100,
        max_new_tokens=100,
    )
    with torch.inference_mode():
        steps = model(stories).logits[:, :-1].flatten(0, 1)
    for t, nucleus, other in [(1.0, 23.7, 4.3), (1.5, 172, 9.7)]:
        z = apply_temperature(steps, t)
        found = [
            kept(x).sum(-1).double().mean()
            for x in (apply_top_p(z, 0.9), min_p(z, 0.1))
        ]
        assert float(found[0]) == pytest.approx(nucleus, rel=0.006)
        assert float(found[1]) == pytest.approx(other, rel=0.02)
