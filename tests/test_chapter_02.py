"""Chapter 2: its propositions on drawn logits and in drawn worlds."""

from __future__ import annotations

import math

import pytest
import torch
from drawn import COARSE, FINE, kept, logits
from hypothesis import given
from hypothesis import strategies as st

import lib
from lib import (
    SamplingSettings,
    World,
    apply_temperature,
    build_pipeline,
    entropy,
    log_softmax,
    softmax,
)

temperatures = st.floats(0.1, 10.0)
rows = logits(COARSE | FINE).map(torch.Tensor.double)
worlds = st.builds(
    World.random,
    st.integers(2, 4),
    st.integers(1, 3),
    seed=st.integers(0, 2**53 - 1),
    grid=st.sampled_from([None, 1.0]),
)


def at(z, t):
    return softmax(apply_temperature(z, t))


def mean(p, z):
    return (p * z.masked_fill(z == -torch.inf, 0.0)).sum(dim=-1, keepdim=True)


def variance(p, z):
    deviation = z.masked_fill(z == -torch.inf, 0.0) - mean(p, z)
    return (p * deviation**2).sum(dim=-1)


def step_law(world, t):
    settings = SamplingSettings(do_sample=True, temperature=t)
    return world.sequence_law(build_pipeline(settings))


def text_law(world, t):
    return at(world.sequence_law().log(), t)


@given(rows, temperatures)
def test_the_slope_of_the_entropy_is_the_variance_over_t_cubed(z, t):
    h = 1e-4 * t
    above, below = (entropy(apply_temperature(z, t + d)) for d in (h, -h))
    slope = variance(at(z, t), z) / t**3  # (2.8)
    torch.testing.assert_close((above - below) / (2 * h), slope, rtol=1e-4, atol=1e-6)


@given(rows, temperatures)
def test_the_slope_of_a_log_probability_is_the_distance_to_the_mean(z, t):
    h = 1e-5 * t
    above, below = (log_softmax(apply_temperature(z, t + d)) for d in (h, -h))
    slope = (mean(at(z, t), z) - z) / t**2  # (2.6)
    here = kept(z)
    quotient = ((above - below) / (2 * h))[here]
    torch.testing.assert_close(quotient, slope[here], rtol=1e-5, atol=1e-5)


@given(rows, temperatures, st.integers(0, 2**31))
def test_temperature_is_the_price_of_entropy(z, t, seed):
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    other = softmax(noise.double().masked_fill(z == -torch.inf, -torch.inf))

    def value(q):  # (2.4)
        return mean(q, z).squeeze(-1) + t * torch.special.entr(q).sum(dim=-1)

    best = t * (z / t).logsumexp(dim=-1)
    divergence = torch.special.xlogy(other, other / at(z, t)).nan_to_num(0).sum(dim=-1)
    torch.testing.assert_close(value(at(z, t)), best, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        value(other), best - t * divergence, rtol=1e-7, atol=1e-7
    )


@given(rows, temperatures)
def test_the_bounds_of_the_two_limits(z, t):
    for row in z.reshape(-1, z.shape[-1]):
        left = row[row > -torch.inf]
        p, size = at(left, t), len(left)
        best = left == left.amax()
        a = int(best.sum())
        if a < size:  # (2.10)
            gap = float(left.amax() - left[~best].amax())
            bound = (size - a) / a * math.exp(-gap / t)
            assert float(p[~best].sum()) <= bound * (1 + 1e-9)
        spread = float(left.amax() - left.amin()) / t  # (2.11)
        assert (p >= math.exp(-spread) / size * (1 - 1e-9)).all()
        assert (p <= math.exp(min(spread, 700)) / size * (1 + 1e-9)).all()


@given(rows)
def test_every_probability_falls_rises_or_rises_and_then_falls(z):
    """Proposition 2.4, on a grid of temperatures."""
    path = torch.stack([at(z, 0.05 * 1.2**i) for i in range(60)])
    up = path[1:] > path[:-1] * (1 + 1e-12) + 1e-300
    down = path[1:] < path[:-1] * (1 - 1e-12)
    fell = down.long().cumsum(dim=0) > 0
    assert not (up[1:] & fell[:-1]).any(), "what has fallen does not rise again"
    best = z == z.amax(dim=-1, keepdim=True)
    assert not up[:, best].any()


@given(worlds, temperatures)
def test_cooling_each_step_divides_by_the_undecided_steps(world, t):
    texts = world.sequences()
    z = torch.ones(len(texts), dtype=torch.float64)
    for step in range(world.length):
        p = softmax(world.next_logits(texts[:, :step]))
        z = z * (p ** (1 / t)).sum(dim=-1)
    expected = world.sequence_law() ** (1 / t) / z  # (2.15)
    torch.testing.assert_close(step_law(world, t), expected, rtol=1e-9, atol=1e-12)


@given(worlds, temperatures, temperatures)
def test_the_entropy_of_the_text_law_rises_with_temperature(world, a, b):
    low, high = sorted([a, b])
    cool, hot = (torch.special.entr(text_law(world, t)).sum() for t in (low, high))
    assert cool <= hot + 1e-9


def test_the_entropy_of_texts_can_fall_when_each_step_is_heated():
    """Proposition 2.7: from log 9 near T = 0.2 towards log 2 + log(8) / 2."""
    table = {(): [0.6, 0.4, *[0] * 6], (0,): [1 / 8] * 8, (1,): [1, *[0] * 7]}
    world = World.from_table(table, 2)

    def h(t):
        return torch.special.entr(step_law(world, t)).sum().item()

    assert h(1e-3) == pytest.approx(math.log(8))
    assert h(math.log(1.5) / math.log(8)) == pytest.approx(math.log(9))
    assert h(1e6) == pytest.approx(math.log(2) + math.log(8) / 2, abs=1e-5)


def test_the_cold_limits_are_the_greedy_and_the_most_probable_text():
    table = {
        (): [0.6, 0, 0, 0.4, 0, 0],
        (0,): [0, 0.3, 0.4, 0, 0.3, 0],
        (3,): [0, 0, 0, 0, 0.1, 0.9],
    }
    world = World.from_table(table, 2)
    for law, text in [
        (step_law, world.greedy_sequence),
        (text_law, world.map_sequence),
    ]:
        coldest = world.sequences()[law(world, 1e-3).argmax()]
        assert law(world, 1e-3).amax().item() == pytest.approx(1.0)
        assert coldest.tolist() == text().tolist()
    assert world.greedy_sequence().tolist() != world.map_sequence().tolist()


def test_independent_tokens_have_one_law():
    world = World.from_table({(): [0.5, 0.3, 0.2]}, 3)
    for t in (0.3, 2.0):
        torch.testing.assert_close(step_law(world, t), text_law(world, t))


@pytest.fixture(scope="module")
def story_model():
    return lib.load()


def logits_of(story_model, text):
    """The logits after each position, and the tokens."""
    model, tokenizer = story_model
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(ids).logits[0], ids


def test_experiment_a_what_another_seed_changes(story_model):
    model, _ = story_model
    _, ids = logits_of(story_model, "Once upon a time, there was a little")
    n = ids.shape[1]
    found = {}
    for t in (0.2, 1.0, 1.3):
        for seed in (1, 2, 3, 5):
            out = lib.generate(
                model,
                ids,
                do_sample=True,
                temperature=t,
                max_new_tokens=40,
                eos_token_id=-1,
                num_return_sequences=8,
                seed=seed,
            )
            with torch.inference_mode():
                raw = model(out).logits[:, n - 1 : -1]
            h = entropy(apply_temperature(raw, t)).mean()
            costs = -lib.log_probs(model, out)[:, n - 1 :]
            perplexity, rare = float(costs.mean().exp()), int((costs > 8).sum())
            found.setdefault(t, []).append((float(h), perplexity, rare, out[:, n:]))
    entropies, perplexities, *_ = zip(*found[1.0], strict=True)
    assert [min(entropies), max(entropies)] == pytest.approx([1.44, 1.60], abs=0.006)
    assert [min(perplexities), max(perplexities)] == pytest.approx(
        [3.86, 4.55], abs=0.006
    )
    entropies, perplexities, rare, _ = zip(*found[1.3], strict=True)
    assert [min(entropies), max(entropies)] == pytest.approx([2.68, 2.88], abs=0.006)
    assert [min(perplexities), max(perplexities)] == pytest.approx(
        [8.99, 27.8], rel=0.006
    )
    assert (rare[0], rare[3]) == (11, 38)  # seeds 1 and 5
    _, tokenizer = story_model
    for row in found[0.2][-1][-1]:  # answer (c), the seed of the chapter
        story = " ".join(tokenizer.decode(row).split())
        assert story.startswith("girl named Lily. She loved to play")


def test_experiment_b_when_a_forced_word_stops_being_forced(story_model):
    z = logits_of(story_model, "Once upon a")[0][-1]
    found = [float(entropy(apply_temperature(z, t))) for t in (1.0, 1.3, 2.0)]
    assert found == pytest.approx([0.0, 0.07, 2.08], abs=0.006)


def test_exercise_6_the_best_temperature_of_the_text(story_model):
    """At the best T, expected and observed scores agree, and the loss is least."""
    text = "<|endoftext|>Tom had a red ball. One day, it fell into the river."
    rows, ids = logits_of(story_model, text)
    steps, seen = rows[:-1].double(), ids[0, 1:]
    assert len(seen) == 15

    def loss(t):
        log_p = log_softmax(apply_temperature(steps, t))
        return float(-log_p.gather(-1, seen[:, None]).mean())

    p = at(steps, 1.384)
    expected = (p * steps).sum(-1).mean()
    observed = steps.gather(-1, seen[:, None]).mean()
    assert expected.item() == pytest.approx(observed.item(), abs=0.01)
    assert loss(1.384) < min(loss(1.37), loss(1.40))
    assert min([0.5, 0.7, 1.0, 1.4, 2.0, 2.8], key=loss) == 1.4
