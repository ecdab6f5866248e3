"""Claims of chapter 8: the ledger, Zipf's nuclei, the cut, the race, the queue."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch
from exact import FALSE_ALARM, p_value
from model_zoo import random_model
from torch.utils.flop_counter import FlopCounterMode

import lib

# The ledger


def shape_of(model):
    """Layers, query heads, heads of keys and values, numbers a head."""
    c = model.config
    heads = c.num_attention_heads
    shared = getattr(c, "num_key_value_heads", None) or heads
    return c.num_hidden_layers, heads, shared, c.hidden_size // heads


@pytest.mark.parametrize(("family", "rows"), product(["gpt2", "llama"], [1, 3]))
def test_operations_and_bytes_of_a_step(family, rows):
    model = random_model(family)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter knows its products
    t = 11
    ids = torch.arange(rows * t).view(rows, t) % 40
    try:
        with torch.inference_mode():
            cache = model(ids[:, :-1], use_cache=True).past_key_values
            with FlopCounterMode(display=False) as counter:
                cache = model(ids[:, -1:], past_key_values=cache).past_key_values
    finally:
        model.set_attn_implementation(before)
    layers, heads, shared, size = shape_of(model)
    looked_up = {"wte", "wpe", "embed_tokens"}
    names = dict(model.named_parameters())
    matrices = sum(
        p.numel()
        for name, p in names.items()
        if p.ndim == 2 and not looked_up & set(name.split("."))
    )
    if "lm_head.weight" not in names:  # it is the embedding as well
        matrices += model.lm_head.weight.numel()
    operations = rows * (2 * matrices + 4 * layers * heads * size * t)
    assert counter.get_total_flops() == operations
    held = sum(x.keys.nbytes + x.values.nbytes for x in cache.layers)
    assert held == 2 * layers * shared * size * 4 * t * rows


def test_numbers_of_gpt2():
    """Exercise 1: 123.5 million numbers; 28.4 ms and 148 tokens a second."""
    weights = 12 * 12 * 768**2 + 50_257 * 768
    cache = 2 * 12 * 768 * 4 * 1000
    assert round(weights / 1e6, 1) == 123.5
    assert round((4 * weights + cache) / 20e9 * 1e3, 1) == 28.4
    eight = (4 * weights + 8 * cache) / 20e9
    assert round(8 / eight) == 148
    assert round(8 / eight * (4 * weights + cache) / 20e9, 1) == 4.2
    # Play, t = 1000: the intensity that no batch exceeds.
    limit = (2 * weights + 4 * 12 * 768 * 1000) / cache
    assert round(limit, 2) == 3.85


# Zipf's law


def zeta(a, vocab):
    return torch.arange(1, vocab + 1).double().pow(-a).sum().item()


def kappa(a, vocab, rho):
    if a == 1:
        return vocab * math.exp(-(1 - rho) * zeta(1, vocab))
    inside = vocab ** (1 - a) + (1 - rho) * (a - 1) * zeta(a, vocab)
    return inside ** (-1 / (a - 1))


def nucleus(a, vocab, rho):
    """Through the library: tokens that top-p keeps of Zipf's law."""
    z = -a * torch.arange(1, vocab + 1).double().log()
    return int((lib.apply_top_p(z, rho) > -torch.inf).sum())


@pytest.mark.parametrize("a", [0.2, 0.7, 0.999, 1, 1.001, 1.1, 1.5, 2, 5])
@pytest.mark.parametrize("vocab", [2, 10, 999, 50_257])
def test_the_nucleus_of_zipfs_law_is_known_to_a_token(a, vocab):
    for rho in (0.05, 0.5, 0.9, 0.99, 0.999):
        x = kappa(a, vocab, rho)
        assert x - 1 <= nucleus(a, vocab, rho) <= math.ceil(x)


def test_three_ways_to_grow():
    rho, large = 0.9, 10**7
    euler = 0.5772156649
    steep = ((1 - rho) * (3 - 1) * 1.2020569) ** (-1 / 2)
    assert kappa(3, large, rho) == pytest.approx(steep, rel=1e-4)
    power = math.exp(-euler * (1 - rho)) * large**rho
    assert kappa(1, large, rho) == pytest.approx(power, rel=1e-4)
    share = rho ** (1 / (1 - 0.5)) * large
    assert kappa(0.5, large, rho) == pytest.approx(share, rel=1e-3)


def test_temperature_moves_the_exponent():
    z = -1.5 * torch.arange(1, 2049).double().log()
    for temperature in (0.75, 1.5, 3.0):
        kept = lib.apply_top_p(lib.apply_temperature(z, temperature), 0.9)
        size = int((kept > -torch.inf).sum())
        assert size == nucleus(1.5 / temperature, 2048, 0.9)


# The cut


def cut(z, k, blocks):
    return (
        torch.stack([part.amax(-1) for part in z.tensor_split(blocks, -1)], -1)
        .topk(k)
        .values[..., -1:]
    )


@pytest.mark.parametrize("vocab", [4, 7])
def test_the_cut_is_safe_for_every_small_vector(vocab):
    every = torch.tensor(list(product(range(3), repeat=vocab))).float()
    for blocks in range(1, vocab + 1):
        for k in range(1, blocks + 1):
            tau = cut(every, k, blocks)
            kept = lib.apply_top_k(every, k) > -torch.inf
            assert (every >= tau)[kept].all()
            above = torch.stack(
                [(p > tau).any(-1) for p in every.tensor_split(blocks, -1)], -1
            )
            assert (above.sum(-1) < k).all()


def test_the_best_lie_in_the_blocks_with_the_largest_maxima():
    orders = torch.stack([torch.randperm(60) for _ in range(200)]).float()
    for k, blocks in product([1, 2, 5], [5, 6, 12]):
        maxima = orders.view(len(orders), blocks, -1).amax(-1)
        homes = orders.topk(k).indices // (60 // blocks)
        allowed = maxima.topk(k).indices
        assert (homes[:, :, None] == allowed[:, None, :]).any(-1).all()


@pytest.mark.parametrize(("blocks", "size", "k"), [(3, 2, 2), (2, 3, 2), (4, 2, 3)])
def test_how_many_reach_the_cut_in_all_orders(blocks, size, k):
    """The mean over every order of the tokens stays below (8.11)."""
    orders = torch.tensor(list(permutations(range(blocks * size)))).float()
    reach = (orders >= cut(orders, k, blocks)).sum(-1).double().mean()
    bound = sum(blocks / (blocks - i) for i in range(k))
    assert k <= reach <= bound


def test_exercise_4():
    best = min(range(50, 50_257), key=lambda d: d + 50 * 50_257 / d)
    assert abs(best - 1585) <= 1
    assert round(best + 50 * 50_257 / best) == 3170
    assert round(sum(best / (best - i) for i in range(50)), 1) == 50.8


# The race


@pytest.mark.parametrize("vocab", [2, 9, 40])
def test_winner_and_time_are_independent(vocab):
    z = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)).double()
    p = lib.softmax(z)
    u = lib.uniforms(3, range(30_000), range(vocab)).clamp_min(2.0**-60)
    first = (-u.log() / p).min(-1)
    third = (3 * (1 - (-first.values).exp())).long().clamp_max(2)
    law = p.repeat_interleave(3) / 3
    assert p_value(first.indices * 3 + third, law.numpy()) > FALSE_ALARM


def test_multinomial_runs_the_race():
    p = torch.softmax(torch.randn(500, 33), -1)

    def seeded():
        return torch.Generator().manual_seed(5)

    raced = (torch.empty_like(p).exponential_(generator=seeded()) / p).argmin(-1)
    drawn = torch.multinomial(p, 1, generator=seeded())[:, 0]
    assert torch.equal(raced, drawn)


# The queue


def ends(kernels, launch, run, python, steps, *, reads):
    host = device = 0.0
    for _ in range(steps):
        host += python
        for _ in range(kernels):
            host += launch
            device = max(host, device) + run
        if reads:
            host = max(host, device)
    return max(host, device)


@pytest.mark.parametrize(
    ("launch", "run", "python"), product([0.1, 1.0], [0.05, 1.0, 3.0], [0.0, 4.0])
)
def test_what_a_look_costs(launch, run, python):
    kernels, steps = 7, 500
    host, device = python + kernels * launch, kernels * run
    free = ends(kernels, launch, run, python, steps, reads=False)
    looking = ends(kernels, launch, run, python, steps, reads=True)
    longest = max(host, device)
    assert steps * longest <= free + 1e-6
    assert free <= steps * longest + host + device + 1e-6
    assert looking >= steps * max(host, python + launch + device) - 1e-6


def test_exercise_6():
    def gain(x, m, y):
        return (1 - x**m) / (1 - x) / (1 + (m - 1) * y)

    assert round(gain(0.8, 5, 0), 1) == 3.4
    assert round(gain(0.8, 5, 0.1), 1) == 2.4
