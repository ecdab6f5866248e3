"""Top-k and top-p: held to their definitions, to transformers, and to their algebra.

A *class* is the set of tokens of one logit. Both stages keep classes whole.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn import (
    COARSE,
    DTYPES,
    EXTREME,
    FINE,
    INF,
    each_row,
    kept,
    logits,
    matrices,
    same,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lib import apply_temperature, apply_top_k, apply_top_p, softmax

ks = st.integers(1, 12)
masses = st.floats(0.01, 1.0) | st.sampled_from([0.25, 0.5, 0.75, 0.9, 1e-9, 1 - 1e-9])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

STAGES = {
    "top_k": lambda z: apply_top_k(z, 3),
    "top_p": lambda z: apply_top_p(z, 0.8),
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)

BOUNDARY = 1e-12  # a mass this close to top_p has reached it


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def top_k_by_hand(row, k):
    """Keep v iff fewer than k tokens have a strictly larger logit."""
    return [sum(w > z for w in row) < k and z > -INF for z in row]


def mass_above(row):
    """For each token, the probability of all tokens with strictly larger logits."""
    weights = [math.exp(z - max(row)) for z in row]
    total = math.fsum(weights)
    return [
        math.fsum(x for x, other in zip(weights, row, strict=True) if other > z) / total
        for z in row
    ]


def top_p_by_hand(row, rho):
    """Keep v iff the tokens strictly above it hold less than rho."""
    above = mass_above(row)
    return [
        (a < rho - BOUNDARY and z > -INF) or z == max(row)
        for a, z in zip(above, row, strict=True)
    ]


# Each stage is its definition


@every_dtype
@given(data=st.data(), k=ks)
def test_top_k_keeps_what_has_fewer_than_k_above_it(dtype, data, k):
    z = data.draw(logits(COARSE | EXTREME, dtype=dtype).filter(finite))
    y = apply_top_k(z, k)
    for got, row in zip(each_row(kept(y)), each_row(z), strict=True):
        assert got == top_k_by_hand(row, k)


def finite(z):
    """A dtype's rounding may have made +inf of an extreme number."""
    return not bool((z == INF).any())


@every_dtype
@given(data=st.data(), rho=masses)
def test_top_p_keeps_what_has_less_than_rho_above_it(dtype, data, rho):
    z = data.draw(logits(COARSE | EXTREME, dtype=dtype).filter(finite))
    y = apply_top_p(z, rho)
    for got, row in zip(each_row(kept(y)), each_row(z), strict=True):
        if rho < 1 and not near_a_boundary(row, rho - BOUNDARY, 1e-14):
            assert got == top_p_by_hand(row, rho)


def near_a_boundary(row, rho, tolerance):
    """Whether the mass above some token lies within rounding of rho."""
    return any(abs(a - rho) < tolerance for a in mass_above(row))


@every_stage
@given(data=st.data())
def test_what_is_kept_keeps_its_logit(stage, data):
    z = data.draw(logits(COARSE | FINE | EXTREME))
    y = stage(z)
    assert torch.equal(y[kept(y)], z[kept(y)])
    assert (y[~kept(y)] == -INF).all()


@every_stage
@given(data=st.data())
def test_classes_stay_or_go_as_a_whole_and_the_best_one_stays(stage, data):
    z = data.draw(logits(COARSE))
    y = stage(z)
    tied = z.unsqueeze(-1) == z.unsqueeze(-2)
    alike = kept(y).unsqueeze(-1) == kept(y).unsqueeze(-2)
    assert (alike | ~tied).all()
    assert kept(y)[z == z.amax(dim=-1, keepdim=True)].all()


@given(matrices(COARSE | FINE), ks)
def test_top_k_keeps_at_least_k_and_exactly_k_without_ties(z, k):
    for row in z:
        count = int(kept(apply_top_k(row, k)).sum())
        assert count >= min(k, int(kept(row).sum()))
        if len(row[kept(row)].unique()) == int(kept(row).sum()):
            assert count == min(k, int(kept(row).sum()))


@given(matrices(COARSE | FINE), st.floats(0.01, 0.999))
def test_no_whole_class_of_a_nucleus_can_be_dropped(z, rho):
    """The nucleus holds rho, and without its last class it does not: it is minimal."""
    for row in z.double():
        y = apply_top_p(row, rho)
        p = softmax(row)
        lowest = y[kept(y)].min()
        assert p[kept(y)].sum() >= rho - 1e-11
        assert p[row > lowest].sum() < rho


@given(logits(FINE, removed=False), st.floats(0.01, 0.999))
def test_no_smaller_set_of_any_kind_has_the_mass(z, rho):
    """Against all 2^V sets: none with fewer tokens holds rho (ties apart)."""
    row = z.double().reshape(-1, z.shape[-1])[0][:8]
    assume(len(row.unique()) == len(row))
    p = softmax(row)
    size = int(kept(apply_top_p(row, rho)).sum())
    sets = torch.arange(2 ** len(p))[:, None] >> torch.arange(len(p)) & 1
    enough = sets[(sets * p).sum(dim=-1) >= rho]
    assert size == int(enough.sum(dim=-1).min())


# Worked examples: the boundary rules that differ between engines


@pytest.mark.parametrize(
    ("p", "rho", "kept_tokens"),
    [
        ([0.5, 0.25, 0.25], 0.5, 1),  # the mass is reached exactly: stop
        ([0.5, 0.25, 0.25], 0.51, 3),  # the crossing token stays, and so does its tie
        ([0.5, 0.3, 0.2], 0.51, 2),
        ([0.5, 0.3, 0.2], 0.8, 2),  # 0.5 + 0.3 is not 0.8 in floating point
        ([0.9, 0.05, 0.05], 0.5, 1),  # the first token exceeds rho: it stays
        ([0.25, 0.25, 0.25, 0.25], 0.1, 4),  # one class
        ([0.7, 0.2, 0.1], 1e-300, 1),
        ([0.7, 0.2, 0.1], 0.9999999, 3),
        ([0.6, 0.4, 0.0], 0.9999999, 2),
    ],
)
def test_top_p_at_its_boundary(p, rho, kept_tokens):
    assert int(kept(apply_top_p(logits_of(*p), rho)).sum()) == kept_tokens


@pytest.mark.parametrize(
    ("z", "k", "expected"),
    [
        ([3.0, 2.0, 1.0], 1, [3.0, -INF, -INF]),
        ([1.0, 3.0, 2.0], 2, [-INF, 3.0, 2.0]),
        ([2.0, 1.0, 1.0, 0.0], 2, [2.0, 1.0, 1.0, -INF]),  # a tie at the boundary
        ([1.0, 1.0, 1.0], 1, [1.0, 1.0, 1.0]),
        ([1.0, -INF, -INF], 2, [1.0, -INF, -INF]),  # fewer than k are left
    ],
)
def test_top_k_at_its_boundary(z, k, expected):
    assert apply_top_k(torch.tensor(z), k).tolist() == expected


# Neutral settings are exact no-ops


@given(logits(COARSE | FINE | EXTREME), st.integers(0, 5))
def test_top_k_of_the_vocabulary_or_more_and_0_change_nothing(z, more):
    vocab = z.shape[-1]
    for k in (0, vocab, vocab + more, 10**9):
        assert same(apply_top_k(z, k), z)


@given(logits(COARSE | FINE | EXTREME))
def test_top_p_1_changes_nothing(z):
    for one in (1, 1.0):
        assert same(apply_top_p(z, one), z)


def top_p_of_the_note(z, top_p):
    """The seed note's code: float32 cumulative sums against top_p."""
    ranked, order = torch.sort(z, descending=True)
    cumulative = torch.cumsum(torch.softmax(ranked, dim=-1), dim=-1)
    remove = cumulative > top_p
    remove[..., 1:] = remove[..., :-1].clone()
    remove[..., 0] = False
    return z.masked_fill(remove.scatter(-1, order, remove), -INF)


def test_float32_cumulative_sums_exceed_1_so_that_top_p_1_removes_tokens():
    """At V = 50,257 the note's code removes tokens at top_p = 1.0, lib none."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(20, 50_257, generator=generator)
    removed = (~kept(top_p_of_the_note(z, 1.0))).sum(dim=-1)
    assert (removed > 0).any()
    assert kept(apply_top_p(z, 1.0)).all()


def test_a_nucleus_just_below_1_is_summed_in_float64():
    """Removing 1e-9 of the mass is beyond float32, whose sums err by 1e-7."""
    z = torch.cat([torch.zeros(1000), torch.full((1000,), -17.0)])  # tail: 4e-8
    tail = float(softmax(z.double())[1000:].sum())
    assert int(kept(apply_top_p(z, 1 - 2 * tail)).sum()) == 1000
    assert int(kept(apply_top_p(z, 1 - tail / 2)).sum()) == 2000


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_a_nucleus_of_a_real_vocabulary_is_that_of_float64_sums(rho):
    """In float32, masses near 1 are a few 1e-7 off, which is several tail tokens."""
    generator = torch.Generator().manual_seed(2)
    z = 3 * torch.randn(8, 50_257, generator=generator)
    p = torch.softmax(z.double(), dim=-1).numpy()
    ranked = -np.sort(-p, axis=-1)
    expected = (ranked.cumsum(axis=-1) - ranked < rho).sum(axis=-1)
    assert kept(apply_top_p(z, rho)).sum(dim=-1).tolist() == expected.tolist()
    if rho > 0.999:
        in_float32 = kept(top_p_of_the_note(z, rho)).sum(dim=-1)
        assert in_float32.tolist() != expected.tolist()


# Algebra


@every_stage
@given(data=st.data())
def test_a_common_shift_keeps_the_same_tokens(stage, data):
    z = data.draw(logits(COARSE))
    shift = data.draw(st.integers(-4096, 4096).map(lambda quarters: quarters / 4))
    assert same(stage(z + shift), stage(z) + shift)


@every_stage
@given(data=st.data())
def test_renaming_the_tokens_renames_the_result(stage, data):
    z = data.draw(logits(COARSE | FINE))
    order = torch.tensor(data.draw(st.permutations(range(z.shape[-1]))))
    assert same(stage(z[..., order]), stage(z)[..., order])


@given(logits(COARSE | FINE | EXTREME), ks, ks)
def test_top_k_is_idempotent_and_the_smaller_k_wins(z, k, other):
    once = apply_top_k(z, k)
    assert same(apply_top_k(once, k), once)
    both = apply_top_k(apply_top_k(z, other), k)
    assert same(both, apply_top_k(z, min(k, other)))


def test_top_p_is_not_idempotent():
    """.5 of .8 is more than .6, which .5 of 1 was not."""
    z = logits_of(0.5, 0.3, 0.2)
    once = apply_top_p(z, 0.6)
    assert kept(once).tolist() == [True, True, False]
    twice = apply_top_p(once, 0.6)
    assert kept(twice).tolist() == [True, False, False]


@given(logits(COARSE | FINE | EXTREME), ks, ks)
def test_the_support_grows_with_k(z, k, more):
    small, large = kept(apply_top_k(z, k)), kept(apply_top_k(z, k + more))
    assert (large | ~small).all()


@given(logits(COARSE | FINE | EXTREME), masses, masses)
def test_the_support_grows_with_rho(z, a, b):
    small, large = (kept(apply_top_p(z, rho)) for rho in sorted([a, b]))
    assert (large | ~small).all()


@given(logits(COARSE), ks, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_top_k_and_temperature_commute_exactly_where_division_is_exact(z, k, t):
    one = apply_top_k(apply_temperature(z, t), k)
    other = apply_temperature(apply_top_k(z, k), t)
    assert same(one, other)


@given(logits(COARSE), ks, st.floats(0.1, 10))
def test_top_k_and_temperature_commute_on_the_coarse_grid(z, k, t):
    """Neighbours on the grid stay apart under division: the same tokens are kept."""
    one = apply_top_k(apply_temperature(z, t), k)
    other = apply_temperature(apply_top_k(z, k), t)
    assert same(one, other)


@given(logits(FINE), ks, st.floats(0.1, 10))
def test_top_k_and_temperature_commute_to_tolerance(z, k, t):
    """Float32 division can merge neighbours: what differs lies at the boundary."""
    one = apply_top_k(apply_temperature(z, t), k)
    other = apply_temperature(apply_top_k(z, k), t)
    assert (kept(one) | ~kept(other)).all(), "merging adds, it never removes"
    extra = kept(one) & ~kept(other)
    boundary = one.masked_fill(~kept(one), INF).amin(dim=-1, keepdim=True)
    assert (one[extra] == boundary.expand_as(one)[extra]).all()


def test_float32_division_does_merge_neighbours():
    z = torch.tensor([1.0, torch.nextafter(torch.tensor(0.0), torch.tensor(1.0)), 0.0])
    one = apply_top_k(apply_temperature(z, 1.5), 2)
    other = apply_temperature(apply_top_k(z, 2), 1.5)
    assert int(kept(one).sum()) == 3
    assert int(kept(other).sum()) == 2


def test_top_p_and_temperature_do_not_commute():
    z = logits_of(0.5, 0.3, 0.2)
    assert int(kept(apply_top_p(apply_temperature(z, 0.5), 0.6)).sum()) == 1
    assert int(kept(apply_temperature(apply_top_p(z, 0.6), 0.5)).sum()) == 2


# Manners


@every_stage
@every_dtype
@given(data=st.data())
def test_inputs_stay_dtypes_stay_and_rows_are_independent(stage, dtype, data):
    z = data.draw(logits(COARSE, dtype=dtype))
    before = z.clone()
    y = stage(z)
    assert same(z, before)
    assert (y.dtype, y.shape, y.device) == (dtype, z.shape, z.device)
    if z.ndim > 1:
        alone = torch.stack([stage(row) for row in z.flatten(0, -2)]).view(z.shape)
        assert same(y, alone)


@pytest.mark.parametrize(
    "stage",
    [
        *STAGES.values(),
        lambda z: apply_top_k(z, 0),
        lambda z: apply_top_k(z, 99),
        lambda z: apply_top_p(z, 1.0),
    ],
    ids=[*STAGES, "top_k_0", "top_k_99", "top_p_1"],
)
def test_the_result_shares_no_memory_with_the_input(stage):
    z = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    stage(z).fill_(7.0)
    assert z.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


@every_stage
def test_an_empty_batch_gives_an_empty_result(stage):
    assert stage(torch.empty(0, 5)).shape == (0, 5)


@every_stage
@every_dtype
def test_half_precision_is_judged_as_its_exact_float64_values(stage, dtype):
    z = (4 * torch.randn(5, 500, generator=torch.Generator().manual_seed(1))).to(dtype)
    assert torch.equal(kept(stage(z)), kept(stage(z.double())))


@pytest.mark.gpu
@every_stage
def test_results_on_a_gpu_stay_there_and_agree(stage):
    z = torch.randn(4, 50_257, generator=torch.Generator().manual_seed(0))
    y = stage(z.cuda())
    assert y.device.type == "cuda"
    assert same(y.cpu(), stage(z))


# Against transformers


@given(matrices(COARSE | FINE), ks)
def test_top_k_equals_transformers_ties_included(z, k):
    assert same(apply_top_k(z, k), TopKLogitsWarper(k)(None, z))


def both(z, rho):
    """What lib keeps, and what transformers keeps."""
    return kept(apply_top_p(z, rho)), kept(TopPLogitsWarper(rho)(None, z))


FLOAT32 = 1e-5  # transformers sums its masses in float32


@given(matrices(FINE), st.floats(0.01, 0.99))
def test_top_p_equals_transformers_without_ties(z, rho):
    mine, theirs = both(z, rho)
    for row, m, t in zip(z, mine, theirs, strict=True):
        alone = len(row[kept(row)].unique()) == int(kept(row).sum())
        if alone and not near_a_boundary(row.tolist(), rho, FLOAT32):
            assert torch.equal(m, t)


@given(matrices(COARSE, vocab=st.integers(2, 30)), st.floats(0.01, 0.99))
def test_top_p_differs_from_transformers_by_exactly_the_tied_class(z, rho):
    """transformers cuts the boundary's class by sort position, lib keeps it whole."""
    mine, theirs = both(z, rho)
    for row, m, t in zip(z, mine, theirs, strict=True):
        if near_a_boundary(row.tolist(), rho, FLOAT32):
            continue
        boundary = row == row[m].min()
        assert torch.equal(m, t | boundary)
        assert (t & boundary).any()
        if int(boundary.sum()) == 1:
            assert torch.equal(m, t)


@given(matrices(COARSE | FINE), st.sampled_from([0.25, 0.5, 0.75]) | masses)
def test_whatever_differs_from_transformers_is_a_tie_or_rounding(z, rho):
    """Nothing assumed: a token kept by one alone is tied at the boundary, or the mass
    above it is within float32 rounding of rho."""
    mine, theirs = both(z, rho)
    for row, m, t in zip(z, mine, theirs, strict=True):
        above = torch.tensor(mass_above(row.tolist()))
        tie = row == row[m].min()
        rounding = (above - rho).abs() < FLOAT32
        assert (tie | rounding | ~kept(row))[m != t].all()


def test_transformers_does_cut_tied_classes_with_bfloat16_logits():
    """On most rows at V = 50,257 the two differ, and each time by that class."""
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(16, 50_257, generator=generator)).bfloat16().float()
    mine, theirs = both(z, 0.9)
    assert (mine != theirs).any(dim=-1).float().mean() > 0.5
    for row, m, t in zip(z, mine, theirs, strict=True):
        assert torch.equal(m, t | (row == row[m].min()))
