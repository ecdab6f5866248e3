"""Luck is data: Philox-4x32-10 and the uniforms made from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib import uniforms
from lib.luck import philox4x32

FALSE_ALARM = 1e-6  # the chance that a perfect generator fails one statistical test

words = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**53 - 1)
indices = st.lists(words, min_size=1, max_size=5)


def block(counter, key):
    """One block of ``philox4x32`` as four ints."""
    arrays = [np.array([word], dtype=np.uint64) for word in counter]
    return [int(word[0]) for word in philox4x32(arrays, key)]


def philox4x32_by_hand(counter, key):
    """Philox-4x32-10 from Salmon et al. (2011), in unbounded integers."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            [0xFFFFFFFF] * 4,
            (0xFFFFFFFF, 0xFFFFFFFF),
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],  # digits of pi
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    assert block(counter, key) == [int(word, 16) for word in answer.split()]


@given(st.tuples(words, words, words, words), st.tuples(words, words))
def test_philox_is_its_definition_in_unbounded_integers(counter, key):
    assert block(counter, key) == philox4x32_by_hand(counter, key)


@given(seeds, words, words)
def test_a_uniform_is_53_bits_of_the_block_at_seed_sample_step(seed, sample, step):
    x0, x1, _, _ = philox4x32_by_hand(
        [step, sample, 0, 0], (seed % 2**32, seed // 2**32)
    )
    expected = ((x0 >> 5) * 2**26 + (x1 >> 6)) / 2**53
    assert uniforms(seed, [sample], [step]).item() == expected


GOLDEN = {  # (seed, sample, step): the same numbers as hexadecimal float literals
    (0, 0, 0): "0x1.989fa370b4e2cp-2",
    (0, 0, 1): "0x1.f1c999572c803p-1",
    (0, 1, 0): "0x1.ab4317f511b12p-2",
    (1, 0, 0): "0x1.c7d00cf94283ap-1",
    (2**32, 0, 0): "0x1.fbbc7c3e9f962p-1",
    (2**53 - 1, 2**32 - 1, 2**32 - 1): "0x1.175ac3dff618fp-1",
}


@pytest.mark.parametrize("place", GOLDEN, ids=str)
def test_golden_uniforms_which_the_javascript_twin_repeats(place):
    seed, sample, step = place
    assert uniforms(seed, [sample], [step]).item() == float.fromhex(GOLDEN[place])


@given(seeds, indices, indices)
def test_uniforms_are_float64_in_0_1_one_row_a_sample_one_column_a_step(
    seed, samples, steps
):
    u = uniforms(seed, samples, steps)
    assert u.dtype == torch.float64
    assert u.shape == (len(samples), len(steps))
    assert ((u >= 0) & (u < 1)).all()


def test_the_largest_uniform_is_below_1():
    """53 bits, all ones, are the double next below 1; more bits would round to 1."""
    assert ((2**27 - 1) * 2**26 + (2**26 - 1)) / 2**53 < 1.0


@given(seeds, indices, indices, st.randoms(use_true_random=False))
def test_an_entry_depends_on_seed_sample_and_step_alone(seed, samples, steps, random):
    whole = uniforms(seed, samples, steps)
    rows = random.sample(range(len(samples)), random.randint(1, len(samples)))
    columns = random.sample(range(len(steps)), random.randint(1, len(steps)))
    part = uniforms(seed, [samples[i] for i in rows], [steps[j] for j in columns])
    assert torch.equal(part, whole[rows][:, columns])


def test_ranges_lists_and_arrays_of_indices_are_one():
    u = uniforms(7, range(3), range(2, 6))
    assert torch.equal(u, uniforms(7, [0, 1, 2], [2, 3, 4, 5]))
    assert torch.equal(u, uniforms(7, np.arange(3), np.arange(2, 6)))
    assert uniforms(7, [], range(4)).shape == (0, 4)


def test_sample_and_step_are_not_exchanged():
    square = uniforms(0, range(50), range(50))
    assert not torch.equal(square, square.T)
    assert len(square.unique()) == 2500


def test_both_halves_of_the_seed_count():
    low, high = uniforms(1, [0], range(8)), uniforms(2**32, [0], range(8))
    assert not torch.equal(low, high)
    assert not torch.equal(low, uniforms(2**32 + 1, [0], range(8)))


def along(axis, n):
    """``n`` uniforms along one axis, the other two indices at 0."""
    if axis == "seeds":
        return torch.cat([uniforms(seed, [0], [0]) for seed in range(n)]).flatten()
    samples, steps = (range(n), [0]) if axis == "samples" else ([0], range(n))
    return uniforms(0, samples, steps).flatten()


@pytest.mark.parametrize("axis", ["seeds", "samples", "steps"])
def test_uniforms_are_uniform_along_each_axis(axis):
    """Kolmogorov-Smirnov on 4,000 uniforms."""
    u = along(axis, 4_000)
    assert stats.kstest(u.numpy(), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("axis", ["seeds", "samples", "steps"])
def test_neighbours_along_each_axis_are_independent(axis):
    """Chi² on a 5 × 5 table of 2,000 disjoint pairs of neighbours."""
    first, second = along(axis, 4_000).view(-1, 2).mul(5).long().T
    counts = torch.bincount(5 * first + second, minlength=25).numpy()
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_the_low_bits_are_uniform_too():
    """Chi² on the 6 lowest of the 53 bits, 20,000 draws in 64 cells."""
    fractions = (uniforms(3, range(20), range(1000)).flatten() * 2**53).long()
    counts = torch.bincount(fractions % 64, minlength=64).numpy()
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
