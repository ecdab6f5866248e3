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
    """Proposition 4.3: whatever rho a distribution meets, it has m* tokens or more."""
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
