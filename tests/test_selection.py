"""Greedy and sample: the maximum, and the inverse of the cumulative distribution."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from drawn import COARSE, DTYPES, EXTREME, FINE, INF, each_row, kept, logits, same
from hypothesis import given
from hypothesis import strategies as st

from lib import greedy, sample, softmax
from lib.selection import _invert, _invert_blocks, masses

LAST = 1 - 2**-53  # the largest uniform
uniforms = st.floats(0, LAST)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def luck(data, z):
    """One uniform for each row of ``z``."""
    rows = z[..., 0].numel()
    drawn = data.draw(st.lists(uniforms, min_size=rows, max_size=rows))
    return torch.tensor(drawn, dtype=torch.float64).view(z.shape[:-1])


def finite(z):
    """A dtype's rounding may have made +inf of an extreme number."""
    return not bool((z == INF).any())


# Greedy


@every_dtype
@given(data=st.data())
def test_greedy_is_the_first_of_the_largest(dtype, data):
    z = data.draw(logits(COARSE | EXTREME, dtype=dtype).filter(finite))
    tokens = greedy(z)
    assert tokens.dtype == torch.int64
    assert tokens.shape == z.shape[:-1]
    expected = [row.index(max(row)) for row in each_row(z)]
    assert tokens.reshape(-1).tolist() == expected


@pytest.mark.parametrize("vocab", [2, 3, 64, 1000, 50_257])
def test_greedy_takes_the_lowest_id_at_a_tie_however_wide_the_row(vocab):
    for first in (0, vocab // 2, vocab - 1):
        z = torch.zeros(2, vocab)
        z[:, first:] = 1.0
        assert greedy(z).tolist() == [first, first]


@given(logits(COARSE), st.integers(-400, 400).map(lambda quarters: quarters / 4))
def test_greedy_ignores_a_common_shift(z, shift):
    assert torch.equal(greedy(z + shift), greedy(z))


# Sampling


def cumulative_by_hand(row):
    """sum over w <= v of exp(z_w - max), as exact fractions of rounded terms."""
    sums, total = [], Fraction(0)
    for z in row:
        total += Fraction(math.exp(z - max(row)))
        sums.append(total)
    return sums


@every_dtype
@given(data=st.data())
def test_sample_is_the_first_token_whose_cumulative_mass_exceeds_u(dtype, data):
    z = data.draw(logits(COARSE | EXTREME, dtype=dtype).filter(finite))
    u = luck(data, z)
    tokens = sample(z, u).reshape(-1).tolist()
    for token, x, row in zip(tokens, u.reshape(-1).tolist(), each_row(z), strict=True):
        sums = cumulative_by_hand(row)
        target = Fraction(x) * sums[-1]
        # Exact up to the rounding of a few float64 additions.
        slack = Fraction(1e-14) * sums[-1]
        below = sums[token - 1] if token else Fraction(0)
        assert below <= target + slack
        assert target - slack < sums[token]


@given(st.data())
def test_a_removed_token_is_never_drawn(data):
    z = data.draw(logits(COARSE | FINE | EXTREME))
    for u in (0.0, LAST, 0.5):
        token = sample(z, torch.full(z.shape[:-1], u, dtype=torch.float64))
        assert kept(z).gather(-1, token.unsqueeze(-1)).all()


@given(logits(COARSE | FINE | EXTREME))
def test_a_token_of_probability_zero_is_never_drawn(z):
    """Nor one whose probability is too small for float64 to add up."""
    for u in (0.0, LAST):
        token = sample(z, torch.full(z.shape[:-1], u, dtype=torch.float64))
        chosen = softmax(z.double()).gather(-1, token.unsqueeze(-1))
        assert (chosen > 0).all()


def test_the_ends_of_the_interval():
    z = torch.tensor([-INF, 0.0, 0.0, -INF])
    assert sample(z, torch.tensor(0.0, dtype=torch.float64)).item() == 1
    assert sample(z, torch.tensor(0.5, dtype=torch.float64)).item() == 2
    below = math.nextafter(0.5, 0)
    assert sample(z, torch.tensor(below, dtype=torch.float64)).item() == 1
    assert sample(z, torch.tensor(LAST, dtype=torch.float64)).item() == 2


@given(st.floats(1, 1e6))
def test_the_largest_uniform_times_the_total_stays_below_the_total(total):
    """Between 1/2 and 1 unit in the last place below it: rounding goes down."""
    assert LAST * total < total


@pytest.mark.parametrize("vocab", [3, 7, 49, 1000, 50_257])
def test_the_largest_uniform_gives_the_last_token_that_is_left(vocab):
    for seed in range(5):
        z = torch.randn(vocab, generator=torch.Generator().manual_seed(seed))
        z[-1] = -INF
        token = sample(z, torch.tensor(LAST, dtype=torch.float64)).item()
        assert token == vocab - 2


@given(logits(COARSE), st.data())
def test_a_larger_uniform_never_gives_a_lower_id(z, data):
    a, b = luck(data, z), luck(data, z)
    assert (sample(z, torch.minimum(a, b)) <= sample(z, torch.maximum(a, b))).all()


@given(logits(COARSE, removed=False), st.integers(-400, 400))
def test_sample_ignores_a_common_shift(z, quarters):
    """Exact on the coarse grid: the maximum is subtracted first."""
    u = torch.full(z.shape[:-1], 0.618, dtype=torch.float64)
    assert torch.equal(sample(z + quarters / 4, u), sample(z, u))


@given(logits(COARSE | FINE), st.data())
def test_sampling_uses_float64_whatever_the_dtype_of_the_logits(z, data):
    u = luck(data, z)
    assert torch.equal(sample(z, u), sample(z.double(), u))


def test_the_measure_of_uniforms_that_give_a_token_is_its_probability():
    """On a grid of 10^5 uniforms each token gets its share, to one grid step."""
    z = torch.randn(20, generator=torch.Generator().manual_seed(0))
    n = 100_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = sample(z.expand(n, 20), u)
    share = torch.bincount(tokens, minlength=20).double() / n
    assert (share - softmax(z.double())).abs().max() <= 1.0 / n + 1e-12


@given(logits(COARSE | FINE, leading=st.just((3,))), st.data())
def test_rows_are_independent_and_removed_columns_do_not_matter(z, data):
    """A row's token is the same alone, and with removed tokens put after it."""
    u = luck(data, z)
    together = sample(z, u)
    assert together.tolist() == [int(sample(z[i], u[i])) for i in range(len(z))]
    wider = torch.cat([z, torch.full((len(z), 7), -INF)], dim=-1)
    assert torch.equal(sample(wider, u), together)


@every_dtype
@given(data=st.data())
def test_inputs_stay_and_ids_are_int64(dtype, data):
    z = data.draw(logits(COARSE, dtype=dtype))
    u = luck(data, z)
    before, u_before = z.clone(), u.clone()
    tokens = sample(z, u)
    assert same(z, before)
    assert same(u, u_before)
    assert (tokens.dtype, tokens.shape, tokens.device) == (
        torch.int64,
        z.shape[:-1],
        z.device,
    )
    assert ((tokens >= 0) & (tokens < z.shape[-1])).all()


def test_an_empty_batch_gives_no_tokens():
    assert greedy(torch.empty(0, 5)).shape == (0,)
    assert sample(torch.empty(0, 5), torch.empty(0)).shape == (0,)


@given(data=st.data())
def test_the_search_by_blocks_finds_the_same_token(data):
    """But for a u so close to an edge that the order of the summands decides."""
    z = data.draw(logits(COARSE | EXTREME).filter(finite))
    u, mass = luck(data, z), masses(z)
    found = _invert_blocks(mass, u)
    assert found.shape == u.shape
    assert (mass.gather(-1, found[..., None]) > 0).all(), "no removed token"
    sums = mass.cumsum(dim=-1)
    edge = (sums - u[..., None] * sums[..., -1:]).abs().amin(dim=-1)
    clear = edge > 1e-12 * sums[..., -1]
    assert torch.equal(found[clear], _invert(mass, u)[clear])


@pytest.mark.parametrize("vocab", [1, 2, 3, 4, 63, 64, 65, 50_257])
def test_the_search_by_blocks_bears_every_width_and_the_outermost_luck(vocab):
    torch.manual_seed(0)
    mass = masses(4 * torch.randn(200, vocab)).masked_fill(
        torch.rand(200, vocab) < 0.9, 0.0
    )
    mass[:, -1:] += mass.sum(dim=-1, keepdim=True) == 0
    for luck in (0.0, LAST, None):
        u = (
            torch.rand(200).double()
            if luck is None
            else torch.full((200,), luck, dtype=torch.float64)
        )
        assert torch.equal(_invert_blocks(mass, u.double()), _invert(mass, u))
    assert _invert_blocks(mass[:0], torch.empty(0)).shape == (0,)


@pytest.mark.gpu
def test_results_on_a_gpu_stay_there_and_agree():
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(512, 50_257, generator=generator)
    u = torch.rand(512, generator=generator, dtype=torch.float64)
    assert torch.equal(greedy(z.cuda()).cpu(), greedy(z))
    tokens = sample(z.cuda(), u.cuda())
    assert tokens.device.type == "cuda"
    assert torch.equal(tokens.cpu(), sample(z, u))
