"""The law: what is drawn has exactly the probabilities that the formulas give.

Every test is a chi² against exact probabilities. Seeds are 0 … N - 1, fixed before
looking. A correct sampler fails one test with probability 1e-6. N is large enough for
each wrong sampler listed here, among them one that drops 1 % of the mass, to be
rejected with probability 0.99 or more: that power is computed beforehand from the
wrong law, and then the wrong sampler is run and must be rejected.
"""

from __future__ import annotations

import functools
import secrets

import numpy as np
import pytest
import torch
from exact import (
    FALSE_ALARM,
    POWER,
    cells,
    dropping,
    next_law,
    numbers,
    p_value,
    power,
    sequence_law,
)

from lib import (
    Pipeline,
    SamplingSettings,
    Step,
    World,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    build_pipeline,
    generate,
    sample,
    uniforms,
)
from lib.generator import luck_of, run
from lib.request import prepare

STRATEGIES = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 1.5},
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.9},
    "small top_p": {"top_p": 0.8},
    "temperature, top_k": {"temperature": 1.3, "top_k": 30},
    "temperature, top_p": {"temperature": 0.8, "top_p": 0.95},
    "top_k, top_p": {"top_k": 40, "top_p": 0.9},
    "all three": {"temperature": 1.2, "top_k": 40, "top_p": 0.9},
}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


# One step

N = 20_000
VOCAB = 100  # more than the 64 candidates with which the pipeline begins
LOGITS = 1.5 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(0))


@functools.cache
def luck():
    """The first uniform of the seeds 0 … N - 1."""
    return torch.cat([uniforms(seed, [0], [0]) for seed in range(N)]).flatten()


def pipeline_of(settings):
    return build_pipeline(SamplingSettings(do_sample=True, **settings))


def drawn(settings, u, z=LOGITS):
    """What lib draws for each uniform."""
    ids = torch.zeros(len(u), 1, dtype=torch.long)
    return pipeline_of(settings)(ids, z.expand(len(u), len(z)), u)


@every_strategy
def test_drawn_tokens_have_their_exact_probabilities(name):
    law = next_law(LOGITS, **STRATEGIES[name])
    assert p_value(drawn(STRATEGIES[name], luck()), law) > FALSE_ALARM


@every_strategy
def test_the_dense_stages_have_the_same_law(name):
    law = next_law(LOGITS, **STRATEGIES[name])
    pipeline = pipeline_of(STRATEGIES[name])
    row = pipeline.process(Step(torch.zeros(1, 1, dtype=torch.long)), LOGITS[None])
    tokens = sample(row.expand(N, VOCAB), luck())
    assert p_value(tokens, law) > FALSE_ALARM
    assert torch.equal(tokens, drawn(STRATEGIES[name], luck()))


@every_strategy
def test_a_sampler_that_drops_1_percent_of_the_mass_is_rejected(name):
    law = next_law(LOGITS, **STRATEGIES[name])
    wrong = dropping(law)
    assert power(wrong, law, N) > POWER
    z = torch.tensor(wrong, dtype=torch.float64).log()
    assert p_value(drawn({}, luck(), z), law) < FALSE_ALARM


def unnormalised(z, u):
    """Compares u with sums that do not end at 1."""
    return torch.searchsorted((z - z.max()).exp().double().cumsum(-1), u, right=True)


def zeroed_then_softmax(z, u):
    """Softmax of zeroed probabilities is not renormalisation."""
    p = torch.softmax(apply_top_k(z, 20), dim=-1)
    return sample(p.expand(len(u), VOCAB), u)


def at(settings):
    return lambda z, u: drawn(settings, u, z)


def nucleus(keep):
    """A top-p with another rule; ``keep`` sees the mass before and with each rank."""

    def draw(z, u):
        p, order = torch.softmax(z.double(), dim=-1).sort(descending=True)
        kept = keep(p.cumsum(-1) - p, p.cumsum(-1))
        z = z.double().masked_fill(~kept[order.argsort()], -torch.inf)
        return sample(z.expand(len(u), len(z)), u)

    return draw


def top_p_before_temperature(z, u):
    z = apply_temperature(apply_top_p(z, 0.95), 0.8)
    return sample(z.expand(len(u), VOCAB), u)


# name: (the strategy it is taken for, the wrong sampler)
WRONG = {
    "top-k keeps one more": ("top_k", at({"top_k": 21})),
    "top-k keeps one less": ("top_k", at({"top_k": 19})),
    "top-k is ignored": ("top_k", at({})),
    "top-p stops before the crossing token": (
        "small top_p",
        nucleus(lambda before, within: within <= 0.8),
    ),
    "top-p keeps one more": (
        "top_p",
        nucleus(lambda before, within: torch.roll(before, 1) < 0.9),
    ),
    "top-p is 0.88": ("top_p", at({"top_p": 0.88})),
    "temperature is 0.75": ("temperature", at({"temperature": 0.75})),
    "temperature is inverted": ("temperature", at({"temperature": 1 / 0.7})),
    "temperature is forgotten": ("temperature, top_k", at({"top_k": 30})),
    "top-p comes before temperature": ("temperature, top_p", top_p_before_temperature),
    "sums are not normalised": ("plain", unnormalised),
    "zeroed probabilities go through softmax": ("top_k", zeroed_then_softmax),
    "the token before is taken": (
        "plain",
        lambda z, u: (sample(z.expand(len(u), VOCAB), u) - 1).clamp_min(0),
    ),
    "one u serves all rows": ("plain", lambda z, u: drawn({}, u[:1].expand(N), z)),
    "one u serves 4 rows": (
        "plain",
        lambda z, u: drawn({}, u[: N // 4].repeat_interleave(4), z),
    ),
    "u has 4 bits": ("plain", lambda z, u: drawn({}, (u * 16).floor() / 16, z)),
    "u is squared": ("plain", lambda z, u: drawn({}, u**2, z)),
}
# These draw dependent rows, so that power is not that of one law.
DEPENDENT = {"one u serves all rows", "one u serves 4 rows"}


def exact_law_of(draw, z):
    """The law of a sampler, from 50,000 evenly spaced uniforms."""
    u = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000
    return np.bincount(draw(z, u), minlength=VOCAB) / len(u)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_sampler_is_rejected(name):
    strategy, draw = WRONG[name]
    law = next_law(LOGITS, **STRATEGIES[strategy])
    if name not in DEPENDENT:
        assert power(exact_law_of(draw, LOGITS), law, N) > POWER
    assert p_value(draw(LOGITS, luck()), law) < FALSE_ALARM


DYADIC = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()


def test_the_boundary_of_top_p_where_the_mass_is_reached_exactly():
    """.5 + .25 reach .75: two tokens stay. The ≤ rule keeps a third class."""
    law = next_law(DYADIC, top_p=0.75)
    np.testing.assert_allclose(law, [2 / 3, 1 / 3, 0, 0])
    assert p_value(drawn({"top_p": 0.75}, luck(), DYADIC), law) > FALSE_ALARM
    at_most = nucleus(lambda before, within: before <= 0.75 + 1e-12)
    assert p_value(at_most(DYADIC, luck()), law) < FALSE_ALARM


def test_a_tied_class_shares_its_mass():
    """[2, 1, 1, 0] at top-k 2: three tokens stay; cutting the class is seen."""
    z = torch.tensor([2.0, 1.0, 1.0, 0.0])
    law = next_law(z, top_k=2)
    assert (law > 0).sum() == 3
    assert p_value(drawn({"top_k": 2}, luck(), z), law) > FALSE_ALARM
    cut = torch.tensor([2.0, 1.0, -torch.inf, -torch.inf])
    assert p_value(drawn({}, luck(), cut), law) < FALSE_ALARM


# Whole sequences of an enumerable world

WORLD = World.random(4, 4, seed=1)
SEQUENCES = 60_000
WALKS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.9},
    "all three": {"temperature": 1.5, "top_k": 3, "top_p": 0.9},
}
every_walk = pytest.mark.parametrize("name", WALKS)


@functools.cache
def model():
    return WORLD.as_model()


def walks(settings, seed=0, n=SEQUENCES, **more):
    """Samples 0 … n - 1 of one prompt and seed, as numbers of sequences."""
    out = generate(
        model(),
        WORLD.prompt(),
        max_new_tokens=WORLD.length,
        do_sample="pipeline" not in more,
        num_return_sequences=n,
        seed=seed,
        **settings,
        **more,
    )
    return numbers(WORLD, out[:, 1:])


@functools.cache
def walk_law(name):
    return sequence_law(WORLD, **WALKS[name])


@every_walk
def test_generated_sequences_have_their_exact_probabilities(name):
    assert p_value(walks(WALKS[name]), walk_law(name)) > FALSE_ALARM


def test_so_do_the_sequences_of_many_prompts_with_a_seed_each():
    n = 20_000
    out = generate(
        model(),
        WORLD.prompt(n),
        max_new_tokens=4,
        do_sample=True,
        seed=range(n),
        **WALKS["all three"],
    )
    law = walk_law("all three")
    assert power(dropping(law), law, n) > POWER
    assert p_value(numbers(WORLD, out[:, 1:]), law) > FALSE_ALARM


@every_walk
def test_dropping_1_percent_of_the_sequences_would_be_rejected(name):
    law = walk_law(name)
    wrong = dropping(law)
    assert power(wrong, law, SEQUENCES) > POWER
    z = torch.tensor(wrong).log().expand(SEQUENCES, len(wrong))
    u = uniforms(0, range(SEQUENCES), [0]).flatten()
    assert p_value(sample(z, u), law) < FALSE_ALARM


def dropping_1_percent_a_step(input_ids, logits):
    """A stage that thins the least probable token by 1 % of the mass, or drops it."""
    p = torch.softmax(logits, dim=-1)
    lowest = p.argmin(dim=-1, keepdim=True)
    less = (p.gather(-1, lowest) - 0.01).clamp_min(0.0)
    return p.scatter(-1, lowest, less).log()


def test_a_model_that_loses_1_percent_of_the_mass_at_each_step_is_rejected():
    law = walk_law("plain")
    wrong = Pipeline([dropping_1_percent_a_step], do_sample=True)
    assert power(WORLD.sequence_law(wrong).numpy(), law, SEQUENCES) > POWER
    assert p_value(walks({}, pipeline=wrong), law) < FALSE_ALARM


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("top_k", {"top_k": 2}),
        ("top_k", {"top_k": 4}),
        ("top_p", {"top_p": 0.85}),
        ("temperature", {"temperature": 0.75}),
        ("all three", {"temperature": 1.5, "top_k": 3}),
    ],
    ids=str,
)
def test_a_generation_with_a_wrong_setting_is_rejected(name, settings):
    law = walk_law(name)
    assert power(sequence_law(WORLD, **settings), law, SEQUENCES) > POWER
    assert p_value(walks(settings), law) < FALSE_ALARM


def with_luck(change):
    """Generate with other uniforms: ``change`` makes them of those of the request."""
    request = prepare(
        model(),
        WORLD.prompt(),
        max_new_tokens=4,
        do_sample=True,
        num_return_sequences=SEQUENCES,
        seed=0,
    )
    true = [luck_of(request)(0), *(luck_of_step(request, t) for t in (1, 2, 3))]
    steps = run(request, luck=lambda t: change(true, t))
    return numbers(WORLD, torch.stack([step.tokens for step in steps], dim=1))


def luck_of_step(request, t):
    return uniforms(request.seeds[0], range(request.samples), [t]).flatten()


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda u, t: u[t], True),
        (lambda u, t: u[0], False),
        (lambda u, t: u[t // 2], False),
        (lambda u, t: u[t] if t < 3 else 1 - u[0] - 2**-53, False),
        (lambda u, t: u[t][:1].expand_as(u[t]), False),
    ],
    ids=["right", "one u a row", "each u twice", "mirrored", "one u for all rows"],
)
def test_uniforms_used_twice_are_rejected(change, right):
    assert (p_value(with_luck(change), walk_law("plain")) > FALSE_ALARM) == right


def pair_law(law):
    return np.outer(law, law).ravel()


def test_samples_of_one_prompt_and_neighbouring_seeds_are_independent():
    """Chi² over pairs (first token of one, first token of the next), 16 cells."""
    begin = next_law(WORLD.next_logits(torch.empty(1, 0, dtype=torch.long))[0])
    tokens = walks({}) // 4**3
    pairs = tokens.reshape(-1, 2) @ [4, 1]
    assert p_value(pairs, pair_law(begin)) > FALSE_ALARM
    first = drawn({}, luck(), torch.tensor(begin).log())
    pairs = first.numpy().reshape(-1, 2) @ [4, 1]
    assert p_value(pairs, pair_law(begin)) > FALSE_ALARM
    shared = np.repeat(first.numpy(), 2).reshape(-1, 2) @ [4, 1]
    assert p_value(shared, pair_law(begin)) < FALSE_ALARM


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (World.random(4, 4, seed=2, eos_token_id=3), {}),
        (World.random(4, 4, seed=2, eos_token_id=3), {"min_new_tokens": 2}),
        (World.random(4, 4, seed=2, eos_token_id=3), {"no_repeat_ngram_size": 2}),
        (World.random(4, 4, seed=3, grid=1.0), {"top_k": 2}),
        (World.random(4, 4, seed=3, grid=1.0), {"top_p": 0.7}),
        (World.random(3, 5, seed=4), {"no_repeat_ngram_size": 2}),
        (World.random(3, 5, seed=4), {"no_repeat_ngram_size": 2, "top_k": 2}),
        (World.random(2, 6, seed=5), {"no_repeat_ngram_size": 3}),
    ],
    ids=[
        "eos",
        "min_new_tokens",
        "eos and ban",
        "tied top_k",
        "tied top_p",
        "ban",
        "ban top_k",
        "trigrams",
    ],
)
def test_ends_ties_and_bans_have_their_law_too(world, settings):
    """Against the world's own law under the pipeline, which test_worlds checks."""
    eos = world.eos_token_id
    minimum = {} if eos is None else {"eos_token_id": eos}
    law = world.sequence_law(pipeline_of({**settings, **minimum})).numpy()
    n = 20_000
    out = generate(
        world.as_model(),
        world.prompt(),
        max_new_tokens=world.length,
        do_sample=True,
        num_return_sequences=n,
        seed=0,
        **settings,
    )
    tokens = torch.nn.functional.pad(
        out[:, 1:], (0, world.length + 1 - out.shape[1]), value=eos or 0
    )
    assert power(dropping(law), law, n) > POWER
    assert p_value(numbers(world, tokens), law) > FALSE_ALARM


# The instrument itself


def test_the_false_alarm_rate_of_the_test_is_what_it_says():
    """500 correct experiments: p-values are uniform, none of them below 1e-6."""
    law = next_law(LOGITS)
    generator = np.random.default_rng(0)
    p = [p_value(generator.choice(VOCAB, 2000, p=law), law) for _ in range(500)]
    assert min(p) > FALSE_ALARM
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 5 * (0.09 / 500) ** 0.5


def test_fewer_draws_would_not_have_the_power():
    """N is not arbitrary: with a third of it, 1 % of the mass can go unseen."""
    law = next_law(LOGITS)
    wrong = dropping(law)
    assert power(wrong, law, N // 3) < 0.5
    assert power(wrong, law, N) > POWER


def test_pooled_cells_expect_at_least_5():
    for law in (next_law(LOGITS), walk_law("plain"), walk_law("top_k")):
        for n in (100, 1000, N):
            cell = cells(law, n)
            assert np.bincount(cell[cell >= 0], weights=law[cell >= 0]).min() * n >= 5
            assert ((cell < 0) == (law == 0)).all()


# Fresh seeds: `make slow`


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(10))
def test_the_laws_hold_for_fresh_seeds(trial, capsys):
    """20 times the draws, another seed each time; false alarm 1e-6 a strategy."""
    seed = secrets.randbelow(2**53)
    with capsys.disabled():
        print(f"\nfresh seed: {seed}")
    u = uniforms(seed, range(20 * N), [0]).flatten()
    for settings in STRATEGIES.values():
        tokens = torch.cat([drawn(settings, part) for part in u.split(N)])
        assert p_value(tokens, next_law(LOGITS, **settings)) > FALSE_ALARM, seed
    for name, settings in WALKS.items():
        outcome = walks(settings, seed=seed, n=5 * SEQUENCES)
        assert p_value(outcome, walk_law(name)) > FALSE_ALARM, seed
