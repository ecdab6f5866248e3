"""softmax, log_softmax, entropy, temperature: each held to its definition."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from drawn import COARSE, DTYPES, EXTREME, FINE, INF, each_row, kept, logits, same
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper

from lib import apply_temperature, entropy, log_softmax, softmax

EPS = {
    torch.float64: 1e-14,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
temperatures = st.floats(0.05, 20.0) | st.integers(1, 5)

STAGES = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "entropy": entropy,
    "temperature": lambda z: apply_temperature(z, 0.7),
    "temperature_1": lambda z: apply_temperature(z, 1.0),
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def softmax_by_hand(row):
    """p_v = exp(z_v) / sum_w exp(z_w), after subtracting the maximum."""
    weights = [math.exp(z - max(row)) for z in row]
    return [w / math.fsum(weights) for w in weights]


def entropy_by_hand(row):
    """H = -sum_v p_v log p_v, in nats, where 0 log 0 = 0."""
    return -math.fsum(p * math.log(p) for p in softmax_by_hand(row) if p > 0)


@every_dtype
@given(data=st.data())
def test_softmax_is_its_definition(dtype, data):
    z = data.draw(logits(COARSE | FINE | EXTREME, dtype=dtype).filter(finite))
    for got, row in zip(each_row(softmax(z)), each_row(z), strict=True):
        assert got == pytest.approx(
            softmax_by_hand(row), rel=2 * EPS[dtype] + 1e-5, abs=1e-7
        )


def finite(z):
    """A dtype's rounding may have made +inf of an extreme number."""
    return not bool((z == INF).any())


@every_dtype
@given(data=st.data())
def test_log_softmax_is_the_logarithm_of_softmax(dtype, data):
    z = data.draw(logits(COARSE | FINE, dtype=dtype))
    for got, row in zip(each_row(log_softmax(z)), each_row(z), strict=True):
        top = max(row)
        log_sum = top + math.log(math.fsum(math.exp(x - top) for x in row))
        expected = [x - log_sum for x in row]
        assert got == pytest.approx(expected, rel=2 * EPS[dtype], abs=2e-5)


@every_dtype
@given(data=st.data())
def test_entropy_is_its_definition(dtype, data):
    z = data.draw(logits(COARSE | FINE | EXTREME, dtype=dtype).filter(finite))
    got = entropy(z).double().reshape(-1).tolist()
    for h, row in zip(got, each_row(z), strict=True):
        assert h == pytest.approx(entropy_by_hand(row), rel=2 * EPS[dtype], abs=2e-5)


@given(logits(COARSE | FINE | EXTREME))
def test_entropy_is_between_0_and_log_of_the_support(z):
    h = entropy(z)
    assert (h >= 0).all()
    assert (h <= kept(z).sum(dim=-1).log() + 1e-5).all()


def test_entropy_at_its_bounds():
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([0.0, -INF, -INF])).item() == 0.0
    assert math.copysign(1, entropy(torch.tensor([0.0, -INF])).item()) == 1  # not -0


@given(logits(COARSE | FINE | EXTREME))
def test_probabilities_sum_to_1_and_removed_tokens_have_none(z):
    p = softmax(z)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(z.shape[:-1]))
    assert (p[~kept(z)] == 0).all()
    assert (log_softmax(z)[~kept(z)] == -INF).all()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"]
)
def test_half_precision_is_computed_in_float32(dtype):
    z = torch.linspace(-8, 8, 3000).to(dtype)
    assert same(softmax(z), softmax(z.float()).to(dtype))
    assert same(entropy(z), entropy(z.float()).to(dtype))
    assert same(log_softmax(z), log_softmax(z.float()).to(dtype))


@every_dtype
@given(data=st.data())
def test_temperature_divides_the_distance_to_the_maximum(dtype, data):
    """Up to one rounding, z -> (z - max z) / T; -inf stays, nothing else becomes it."""
    z = data.draw(logits(COARSE, dtype=dtype))
    t = data.draw(temperatures.filter(lambda t: t != 1))  # 1 returns z itself
    for got, row in zip(each_row(apply_temperature(z, t)), each_row(z), strict=True):
        top = Fraction(max(row))
        for value, before in zip(got, row, strict=True):
            if before == -INF:
                assert value == -INF
            else:
                exact = float((Fraction(before) - top) / Fraction(t))
                lowest = torch.finfo(dtype).min
                expected = max(exact, lowest)
                assert value == pytest.approx(expected, rel=2 * EPS[dtype], abs=1e-7)


@given(logits(COARSE | FINE), temperatures)
def test_temperature_gives_the_distribution_of_transformers(z, t):
    theirs = TemperatureLogitsWarper(float(t))(None, z)
    mine = apply_temperature(z, t)
    assert torch.equal(kept(mine), kept(theirs))
    torch.testing.assert_close(softmax(mine), softmax(theirs), rtol=1e-4, atol=1e-6)


@given(logits(COARSE | FINE), st.floats(0.05, 20))
def test_temperature_keeps_the_ranking(z, t):
    """A larger logit never falls below a smaller one, and ties stay ties."""
    y = apply_temperature(z, t)
    larger = z.unsqueeze(-1) >= z.unsqueeze(-2)
    still = y.unsqueeze(-1) >= y.unsqueeze(-2)
    assert (still | ~larger).all()


@given(logits(COARSE), st.floats(0.1, 10), st.floats(0.1, 10))
def test_entropy_rises_with_temperature(z, t1, t2):
    low, high = sorted([t1, t2])
    cooler, hotter = (entropy(apply_temperature(z.double(), t)) for t in (low, high))
    assert (cooler <= hotter + 1e-12).all()


@given(logits(COARSE), st.floats(0.5, 2), st.floats(0.5, 2))
def test_temperatures_multiply(z, a, b):
    twice = apply_temperature(apply_temperature(z.double(), a), b)
    once = apply_temperature(z.double(), a * b)
    torch.testing.assert_close(softmax(twice), softmax(once), rtol=1e-12, atol=1e-15)


@given(logits(COARSE | FINE | EXTREME))
def test_temperature_1_changes_nothing(z):
    for one in (1, 1.0):
        assert same(apply_temperature(z, one), z)


@every_dtype
@pytest.mark.parametrize("t", [1e-6, 1e-30, 1e-45, 1e-300, 5e-324])
@given(data=st.data())
def test_tiny_temperatures_leave_the_maximum_and_its_ties(dtype, t, data):
    z = data.draw(logits(COARSE, dtype=dtype))
    y = apply_temperature(z, t)
    assert torch.equal(kept(y), kept(z)), "a finite logit stays finite"
    best = z == z.amax(dim=-1, keepdim=True)
    expected = best / best.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(softmax(y.float()), expected, rtol=1e-6, atol=1e-6)


@every_dtype
@pytest.mark.parametrize("t", [1e6, 1e30, 1e300])
@given(data=st.data())
def test_huge_temperatures_leave_the_uniform_distribution(dtype, t, data):
    z = data.draw(logits(COARSE, dtype=dtype))
    y = apply_temperature(z, t)
    expected = kept(z) / kept(z).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(softmax(y.float()), expected, rtol=1e-4, atol=1e-4)


@given(logits(EXTREME), st.sampled_from([1e-300, 1e-3, 0.5, 2.0, 1e3, 1e300]))
def test_extreme_logits_never_become_nan_or_infinite(z, t):
    y = apply_temperature(z, t)
    assert torch.equal(kept(y), kept(z))
    assert (y <= 0).all()
    assert not y.isnan().any()
    assert not softmax(y).isnan().any()
    assert not entropy(y).isnan().any()


def test_dividing_before_subtracting_the_maximum_would_overflow():
    """Why the maximum goes first: 60 / 1e-38 is +inf in float32."""
    z = torch.tensor([60.0, 59.0])
    assert (z / 1e-38 == INF).all()
    assert softmax(apply_temperature(z, 1e-38)).tolist() == [1.0, 0.0]


@every_stage
@given(data=st.data())
def test_a_common_shift_changes_nothing(stage, data):
    """Exact: on the coarse grid the shifted logits are representable."""
    z = data.draw(logits(COARSE))
    shift = data.draw(st.integers(-4096, 4096).map(lambda quarters: quarters / 4))
    a, b = stage(z), stage(z + shift)
    if stage is STAGES["temperature_1"]:  # the logits themselves, not yet normalised
        a, b = softmax(a), softmax(b)
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-5)


@every_stage
@given(data=st.data())
def test_renaming_the_tokens_renames_the_result(stage, data):
    z = data.draw(logits(COARSE | FINE))
    order = torch.tensor(data.draw(st.permutations(range(z.shape[-1]))))
    mine = stage(z[..., order])
    theirs = stage(z) if stage is entropy else stage(z)[..., order]
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@every_stage
@every_dtype
@given(data=st.data())
def test_inputs_stay_dtypes_stay_and_rows_are_independent(stage, dtype, data):
    z = data.draw(logits(COARSE, dtype=dtype))
    before = z.clone()
    y = stage(z)
    assert same(z, before)
    assert y.dtype == dtype
    assert y.shape == (z.shape[:-1] if stage is entropy else z.shape)
    assert y.device == z.device
    if z.ndim > 1:
        alone = torch.stack([stage(row) for row in z.flatten(0, -2)]).view(y.shape)
        torch.testing.assert_close(y, alone, rtol=1e-6, atol=1e-6)


@every_stage
def test_the_result_shares_no_memory_with_the_input(stage):
    z = torch.tensor([1.0, 2.0])
    stage(z).fill_(7.0)
    assert z.tolist() == [1.0, 2.0]


@every_stage
def test_an_empty_batch_gives_an_empty_result(stage):
    assert stage(torch.empty(0, 5)).shape[0] == 0


@every_stage
def test_one_token_is_certain(stage):
    result = stage(torch.tensor([[3.5]])).flatten().tolist()
    certain = {"softmax": 1.0, "temperature_1": 3.5}
    name = next(name for name, function in STAGES.items() if function is stage)
    assert result == [certain.get(name, 0.0)]


@pytest.mark.gpu
@every_stage
def test_results_on_a_gpu_stay_there_and_agree(stage):
    z = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    y = stage(z.cuda())
    assert y.device.type == "cuda"
    torch.testing.assert_close(y.cpu(), stage(z), rtol=1e-5, atol=1e-5)
