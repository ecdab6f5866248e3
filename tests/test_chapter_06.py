"""Claims of chapter 6 that no other test holds: bounds, couplings, beams, windows."""

from __future__ import annotations

import math

import pytest
import torch
from exact import FALSE_ALARM, p_value

import lib


def random_law(vocab, seed):
    z = 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(seed))
    return z.double()


def gumbel_max(z, u):
    return (z - (-u.log()).log()).argmax(dim=-1)


def noise(seed, rows, vocab):
    return lib.uniforms(seed, range(rows), range(vocab)).clamp_min(2.0**-60)


# Gumbel-max


@pytest.mark.parametrize("vocab", [2, 9, 60])
def test_the_race_has_the_law_of_softmax(vocab):
    z = random_law(vocab, seed=vocab)
    tokens = gumbel_max(z, noise(1, 20_000, vocab))
    assert p_value(tokens, lib.softmax(z).numpy()) > FALSE_ALARM


def test_the_first_two_to_ring_are_drawn_without_replacement():
    z = random_law(5, seed=0)
    p = lib.softmax(z)
    race = z - (-noise(2, 50_000, 5).log()).log()
    first, second = race.topk(2).indices.T
    law = p[:, None] * p / (1 - p[:, None])
    law.fill_diagonal_(0.0)
    assert float(law.sum()) == pytest.approx(1)
    assert p_value(5 * first + second, law.flatten().numpy()) > FALSE_ALARM


def test_one_uniform_for_all_tokens_is_rejected():
    z = random_law(5, seed=0)
    same = noise(3, 20_000, 1).expand(-1, 5)
    assert p_value(gumbel_max(z, same), lib.softmax(z).numpy()) < FALSE_ALARM


# Common luck


@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_common_tokens_is_the_formula_of_the_race(seed):
    """Equation (6.12), to five standard errors of 50,000 draws, and its bounds."""
    z, y = random_law(6, seed), random_law(6, seed + 100)
    p, q = lib.softmax(z), lib.softmax(y)
    ratio = torch.maximum(p / p[:, None], q / q[:, None])
    formula = float((1 / ratio.sum(dim=-1)).sum())
    u = noise(seed, 50_000, 6)
    share = float((gumbel_max(z, u) == gumbel_max(y, u)).double().mean())
    assert abs(share - formula) < 5 * math.sqrt(0.25 / 50_000)
    distance = float((p - q).abs().sum()) / 2
    assert (1 - distance) / (1 + distance) - 1e-12 <= formula <= 1 - distance + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_common_tokens_is_the_overlap_of_the_rulers(seed):
    """Equation (6.11), on a grid of uniforms."""
    z, y = random_law(6, seed), random_law(6, seed + 100)
    p, q = lib.softmax(z), lib.softmax(y)
    ends = torch.minimum(p.cumsum(-1), q.cumsum(-1))
    begins = torch.maximum(p.cumsum(-1) - p, q.cumsum(-1) - q)
    overlap = float((ends - begins).clamp_min(0).sum())
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    same = lib.sample(z.expand(len(u), 6), u) == lib.sample(y.expand(len(u), 6), u)
    assert abs(float(same.double().mean()) - overlap) < 2e-4
    assert overlap <= 1 - float((p - q).abs().sum()) / 2 + 1e-12


# Texts


@pytest.mark.parametrize(("vocab", "length"), [(2, 6), (3, 5), (4, 4), (8, 3)])
def test_no_greedy_text_is_worse_than_its_bound_and_one_comes_close(vocab, length):
    """Equation (6.3)."""
    bound = vocab ** -(length - 1)
    for seed in range(20):
        world = lib.World.random(vocab, length, seed=seed)
        law = world.sequence_law()
        greedy = law[(world.sequences() == world.greedy_sequence()).all(dim=1)]
        assert float(greedy) >= bound * float(law.max()) - 1e-15
    first = [0.5 + 1e-6, 0.5 - 1e-6] + [0.0] * (vocab - 2)
    table = {(): first}
    for t in range(1, length):  # after 0 all is uniform, after 1 all is certain
        table[(0,) + (0,) * (t - 1)] = [1 / vocab] * vocab
        table[(1,) * t] = [0.0, 1.0] + [0.0] * (vocab - 2)
    world = lib.World.from_table(table, length)
    law = world.sequence_law()
    assert world.greedy_sequence().tolist() == [0] * length
    assert float(law[0] / law.max()) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_surprisal_minus_entropy_has_mean_0_and_a_small_variance(seed):
    """Proposition 6.3, over all texts of a world; greedy lies below at each step."""
    world = lib.World.random(3, 5, seed=seed, sharpness=1 + seed / 3)
    texts, law = world.sequences(), world.sequence_law()
    entropies = [lib.entropy(world.next_logits(texts[:, :t])) for t in range(5)]
    d = (-law.log() - sum(entropies)) / 5
    assert abs(float(law @ d)) < 1e-12
    assert float(law @ d**2) <= math.log(3 + math.e) ** 2 / 5
    greedy = world.greedy_sequence()[None]
    for t in range(5):
        z = world.next_logits(greedy[:, :t])
        assert -lib.log_softmax(z).max() <= lib.entropy(z) + 1e-12


def test_a_beam_of_two_can_be_worse_than_greedy_in_transformers_too():
    thirds = [0.34, 0.33, 0.33]
    world = lib.World.from_table(
        {
            (): [0.40, 0.35, 0.25],
            (0,): thirds,
            (1,): [0.5, 0.5, 0.0],
            (2,): thirds,
            (0, 0): [1.0, 0.0, 0.0],
            (1, 0): thirds,
            (1, 1): thirds,
        },
        3,
    )
    start, law = world.prompt(), world.sequence_law()
    found = {}
    for beams in (1, 2, 3):
        out = world.as_model().generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=3,
            num_beams=beams,
            do_sample=False,
            pad_token_id=0,
        )
        found[beams] = float(law[int(out[0, 1:] @ torch.tensor([9, 3, 1]))])
    assert found[1] == found[3] == float(law.max()) == pytest.approx(0.136)
    assert found[2] == pytest.approx(0.0595)


# Loops


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_short_memory_makes_every_deterministic_text_periodic(n):
    """Proposition 6.7, for random maps on windows of n of three tokens."""
    for seed in range(20):
        luck = torch.Generator().manual_seed(seed)
        choice = torch.randint(3, (3**n,), generator=luck).tolist()
        text = torch.randint(3, (n,), generator=luck).tolist()
        for _ in range(4 * 3**n):
            window = sum(v * 3**i for i, v in enumerate(text[-n:]))
            text.append(choice[window])
        tail = text[3**n :]
        assert any(tail[k:] == tail[:-k] for k in range(1, 3**n + 1))
