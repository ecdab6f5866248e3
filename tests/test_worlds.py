"""Worlds: every sequence listed, every law an equality, and a model like any other."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from drawn import INF, same
from exact import sequence_law
from hypothesis import given
from hypothesis import strategies as st

from lib import (
    EmptySupportError,
    Pipeline,
    SamplingSettings,
    World,
    build_pipeline,
    entropy,
    generate,
    log_probs,
    softmax,
)

worlds = st.builds(
    World.random,
    st.integers(2, 4),
    st.integers(1, 3),
    seed=st.integers(0, 2**53 - 1),
    sharpness=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    grid=st.sampled_from([None, 1.0]),
    eos_token_id=st.sampled_from([None, 0, 1]),
)
# Greedy takes 0 (.6), after which all is even; the best sequence begins with 1.
GARDEN_PATH = {
    (): [0.6, 0.4, 0.0],
    (0,): [0.34, 0.33, 0.33],
    (1,): [0.0, 0.05, 0.95],
}


def sampling(**settings):
    return build_pipeline(SamplingSettings(do_sample=True, **settings))


# Listing


@given(worlds)
def test_sequences_are_all_of_them_in_lexicographic_order(world):
    expected = list(itertools.product(range(world.vocab_size), repeat=world.length))
    assert [tuple(row) for row in world.sequences().tolist()] == expected


@given(worlds)
def test_the_law_is_the_chain_rule(world):
    law = world.sequence_law()
    assert law.dtype == torch.float64
    assert law.sum().item() == pytest.approx(1.0, abs=1e-12)
    by_hand = sequence_law(world, world.eos_token_id)
    np.testing.assert_allclose(law.numpy(), by_hand, rtol=1e-12, atol=1e-300)


@given(
    worlds,
    st.sampled_from([1.0, 0.5, 2.0]),
    st.integers(0, 3),
    st.sampled_from([1.0, 0.8, 0.5]),
)
def test_the_law_of_a_strategy_is_the_chain_rule_of_its_steps(world, t, k, rho):
    settings = {"temperature": t, "top_k": k, "top_p": rho}
    law = world.sequence_law(sampling(**settings))
    by_hand = sequence_law(world, world.eos_token_id, **settings)
    np.testing.assert_allclose(law.numpy(), by_hand, rtol=1e-9, atol=1e-300)


@given(worlds)
def test_a_strategy_without_sampling_puts_all_mass_on_one_sequence(world):
    law = world.sequence_law(build_pipeline(SamplingSettings()))
    assert sorted(law.unique().tolist()) == [0.0, 1.0]
    assert world.sequences()[law.argmax()].tolist() == world.greedy_sequence().tolist()


@given(worlds)
def test_the_map_sequence_is_the_most_probable_and_the_first_of_them(world):
    law = world.sequence_law().tolist()
    first = world.sequences()[law.index(max(law))]
    assert world.map_sequence().tolist() == first.tolist()


@given(worlds)
def test_the_greedy_sequence_takes_the_best_token_at_each_step(world):
    sequence = []
    for _ in range(world.length):
        row = world.next_logits(torch.tensor([sequence], dtype=torch.long))[0].tolist()
        sequence.append(row.index(max(row)))
    assert world.greedy_sequence().tolist() == sequence


def test_greedy_can_miss_the_most_probable_sequence():
    world = World.from_table(GARDEN_PATH, 2)
    assert world.greedy_sequence().tolist() == [0, 0]
    assert world.map_sequence().tolist() == [1, 2]
    law = world.sequence_law().view(3, 3)
    assert law[0, 0].item() == pytest.approx(0.6 * 0.34)
    assert law[1, 2].item() == pytest.approx(0.4 * 0.95)


def test_truncating_each_step_is_not_truncating_the_sequence():
    """top-k's law of sequences is not the world's law on the sequences that remain.

    After 0 top-k removes .2 of the mass, after 1 nothing. Renormalised step by step,
    what begins with 0 keeps its .5; among the sequences that remain it has .4 of .9.
    """
    world = World.from_table(
        {(): [0.5, 0.5, 0, 0], (0,): [0.25] * 2 + [0.2, 0.3], (1,): [0.5, 0.5, 0, 0]}, 2
    )
    stepwise = world.sequence_law(sampling(top_k=2))
    assert [x for x in stepwise.tolist() if x] == pytest.approx(
        [0.5 * 0.25 / 0.8] * 2 + [0.5 * 0.3 / 0.8] + [0.25] * 2
    )
    restricted = world.sequence_law() * (stepwise > 0)
    restricted /= restricted.sum()
    assert restricted[:4].sum().item() == pytest.approx(0.4 / 0.9)


def test_the_ban_forbids_every_sequence_with_a_repeated_ngram():
    world = World.random(3, 4, seed=1)
    law = world.sequence_law(sampling(no_repeat_ngram_size=2))
    for row, p in zip(world.sequences().tolist(), law.tolist(), strict=True):
        bigrams = list(itertools.pairwise(row))
        assert (p == 0) == (len(set(bigrams)) < len(bigrams))


def test_a_strategy_that_can_get_stuck_raises_with_its_step():
    world = World.random(2, 3)
    message = r"no_repeat_ngram\(1\).*step 2"
    with pytest.raises(EmptySupportError, match=message):
        world.sequence_law(sampling(no_repeat_ngram_size=1))


# End of sequence


def test_after_the_end_everything_is_the_end():
    world = World.random(3, 4, seed=2, eos_token_id=1)
    for row, p in zip(
        world.sequences().tolist(), world.sequence_law().tolist(), strict=True
    ):
        filled = 1 not in row or all(x == 1 for x in row[row.index(1) :])
        assert (p > 0) == filled


def test_min_new_tokens_shifts_the_end():
    world = World.random(3, 4, seed=2, eos_token_id=1)
    law = world.sequence_law(sampling(min_new_tokens=2, eos_token_id=1))
    assert law.sum().item() == pytest.approx(1.0)
    early = (world.sequences()[:, :2] == 1).any(dim=1)
    assert (law[early] == 0).all()


def test_what_has_ended_never_comes_to_the_pipeline():
    """The filling repeats bigrams; a ban that saw it would leave no token."""
    world = World.random(3, 4, seed=2, eos_token_id=1)
    law = world.sequence_law(sampling(no_repeat_ngram_size=2))
    assert law.sum().item() == pytest.approx(1.0)
    ended = (world.sequences()[:, 0] == 1) & (law > 0)
    assert world.sequences()[ended].tolist() == [[1, 1, 1, 1]]


# Making worlds


def test_a_seed_is_a_world_on_every_machine():
    world = World.random(3, 2, seed=5)
    again = World.random(3, 2, seed=5)
    assert same(world.sequence_law(), again.sequence_law())
    assert not torch.equal(
        world.sequence_law(), World.random(3, 2, seed=6).sequence_law()
    )
    start = softmax(world.next_logits(torch.empty(1, 0, dtype=torch.long)))
    assert start[0].tolist() == pytest.approx([0.2795867, 0.0821068, 0.6383066])


def test_random_distributions_are_uniform_on_the_simplex():
    """Each probability has mean 1/V, variance (V-1)/(V²(V+1)); 1,024 rows, 5 sigma."""
    world = World.random(4, 6, seed=0)
    prefixes = torch.tensor(list(itertools.product(range(4), repeat=5)))
    p = softmax(world.next_logits(prefixes))
    deviation = (3 / (16 * 5)) ** 0.5
    assert (p.mean(dim=0) - 0.25).abs().max() < 5 * deviation / 1024**0.5
    assert (p.std(dim=0) - deviation).abs().max() < 0.1 * deviation


def test_sharpness_moves_from_uniform_to_certain():
    begin = torch.empty(1, 0, dtype=torch.long)
    h = [
        entropy(World.random(4, 1, sharpness=s).next_logits(begin)).item()
        for s in (0, 0.5, 1, 4, 50)
    ]
    assert h[0] == pytest.approx(np.log(4))
    assert h == sorted(h, reverse=True)
    assert h[-1] < 0.01


def test_a_grid_makes_ties():
    world = World.random(4, 4, seed=0, grid=1.0)
    level = world.next_logits(world.sequences()[:, :3])
    assert (level == level.round()).all()
    tied = [len(row.unique()) < 4 for row in level]
    assert sum(tied) > len(tied) / 4


def test_a_missing_prefix_takes_the_row_of_its_longest_suffix():
    table = {(): [0.5, 0.5], (0,): [0.1, 0.9], (1, 0): [0.3, 0.7]}
    world = World.from_table(table, 4)

    def after(*prefix):
        ids = torch.tensor([prefix], dtype=torch.long)
        return softmax(world.next_logits(ids))[0].tolist()

    assert after() == pytest.approx([0.5, 0.5])
    assert after(0) == pytest.approx([0.1, 0.9])
    assert after(1) == pytest.approx([0.5, 0.5])
    assert after(1, 0) == pytest.approx([0.3, 0.7])
    assert after(0, 1, 0) == pytest.approx([0.3, 0.7])
    assert after(0, 0) == pytest.approx([0.1, 0.9])


def test_levels_are_copied_and_kept_in_float64():
    level = torch.zeros(1, 2)
    world = World([level])
    level[0, 0] = 9.0
    got = world.next_logits(torch.empty(1, 0, dtype=torch.long))
    assert same(got, torch.zeros(1, 2, dtype=torch.float64))
    got[0, 0] = 9.0
    assert world.sequence_law().tolist() == [0.5, 0.5]


def test_repr_says_the_size():
    assert repr(World.random(3, 2)) == "World(vocab_size=3, length=2)"
    world = World.random(3, 2, eos_token_id=0)
    assert repr(world) == "World(vocab_size=3, length=2, eos_token_id=0)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: World.random(1, 2), ValueError, "vocab_size=1 .* from 2 to 8"),
        (lambda: World.random(9, 2), ValueError, "vocab_size=9 .* from 2 to 8"),
        (lambda: World.random(2, 0), ValueError, "length=0 .* from 1 to 6"),
        (lambda: World.random(2, 7), ValueError, "length=7 .* from 1 to 6"),
        (lambda: World.random(5, 6), ValueError, "15625 sequences.* 4096"),
        (lambda: World.random(2.0, 3), TypeError, "vocab_size=2.0"),
        (lambda: World.random(2, 3, seed=-1), ValueError, "seed=-1"),
        (lambda: World.random(2, 3, sharpness=-1), ValueError, "sharpness=-1"),
        (lambda: World.random(2, 3, grid=0.0), ValueError, "grid=0.0"),
        (lambda: World.random(2, 3, eos_token_id=2), ValueError, "eos_token_id=2"),
        (lambda: World([]), ValueError, "vocab_size=0"),
        (lambda: World([[0.0, 1.0]]), TypeError, "floating-point tensor"),
        (lambda: World([torch.zeros(2, 2)]), ValueError, r"levels\[0\]"),
        (
            lambda: World([torch.zeros(1, 2), torch.zeros(1, 2)]),
            ValueError,
            r"levels\[1\] has shape \(1, 2\); .*\(2, 2\)",
        ),
        (lambda: World([torch.full((1, 2), -INF)]), EmptySupportError, "World"),
        (lambda: World([torch.tensor([[0.0, np.nan]])]), ValueError, "NaN"),
        (lambda: World.from_table({}, 2), ValueError, r"prefix \(\)"),
        (lambda: World.from_table({(): [0.5, 0.4]}, 2), ValueError, "sums to 0.9"),
        (lambda: World.from_table({(): [1.5, -0.5]}, 2), ValueError, "1.5"),
        (
            lambda: World.from_table({(): [0.5, 0.5], (0,): [1.0]}, 2),
            ValueError,
            r"table\[\(0,\)\] has 1 prob",
        ),
        (
            lambda: World.from_table({(): [0.5, 0.5], (2,): [0.5, 0.5]}, 2),
            ValueError,
            r"table\[\(2,\)\]: token=2",
        ),
        (
            lambda: World.from_table({(): [0.5, 0.5], 0: [0.5, 0.5]}, 2),
            TypeError,
            "must be a tuple",
        ),
        (
            lambda: World.random(2, 3).next_logits(torch.zeros(1, 3).long()),
            ValueError,
            "length 3; allowed are 0 to 2",
        ),
        (
            lambda: World.random(2, 3).next_logits(torch.tensor([[2]])),
            ValueError,
            "prefixes holds the id 2",
        ),
        (lambda: World.random(2, 3).prompt(0), ValueError, "rows=0"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The world as a model


def test_importing_the_library_does_not_import_transformers():
    code = "import lib, sys; print('transformers' in sys.modules, lib.World)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("False")


@given(worlds)
def test_the_model_gives_the_logits_of_every_prefix(world):
    ids = torch.cat([world.prompt(len(world.sequences())), world.sequences()], dim=1)
    logits = world.as_model()(ids).logits
    assert logits.dtype == torch.float64
    for t in range(world.length):
        assert same(logits[:, t], world.next_logits(world.sequences()[:, :t]))
    assert (logits[:, world.length] == 0).all(), "past the end: uniform"


def test_the_models_log_probabilities_are_those_of_the_law():
    world = World.random(3, 4, seed=3)
    ids = torch.cat([world.prompt(81), world.sequences()], dim=1)
    total = log_probs(world.as_model(), ids).double().sum(dim=1)
    torch.testing.assert_close(total, world.sequence_law().log(), rtol=1e-5, atol=1e-5)


def test_the_model_understands_left_padding():
    world = World.random(3, 5, seed=4)
    start = world.bos_token_id
    ids = torch.tensor([[0, 2, start, 1], [start, 1, 2, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    logits = world.as_model()(ids, attention_mask=mask).logits[:, -1]
    assert same(logits[:1], world.next_logits(torch.tensor([[1]])))
    assert same(logits[1:], world.next_logits(torch.tensor([[1, 2, 0]])))


@given(worlds)
def test_greedy_decoding_of_the_model_is_the_greedy_sequence(world):
    model = world.as_model()
    expected = [world.bos_token_id, *world.greedy_sequence().tolist()]
    run = {"max_new_tokens": world.length, "do_sample": False}
    mine = generate(model, world.prompt(2), **run).tolist()
    theirs = model.generate(world.prompt(2), **run).tolist()
    assert mine == theirs
    width = len(mine[0])  # all rows may have ended early
    assert mine == [expected[:width]] * 2
    assert all(token == world.eos_token_id for token in expected[width:])


def test_transformers_samples_from_the_worlds_law_step_by_step():
    """Its scores, exponentiated, are the next-token laws of the prefix it drew."""
    world = World.random(4, 4, seed=6)
    torch.manual_seed(0)
    out = world.as_model().generate(
        world.prompt(5),
        max_new_tokens=4,
        do_sample=True,
        top_k=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for t, scores in enumerate(out.scores):
        expected = world.next_logits(out.sequences[:, 1 : 1 + t])
        torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-6)


def test_generation_past_the_end_of_the_world_is_refused():
    world = World.random(3, 2)
    with pytest.raises(ValueError, match="max_new_tokens=3"):
        generate(world.as_model(), world.prompt(), max_new_tokens=3)
    assert generate(world.as_model(), world.prompt()).shape == (1, 3)


def test_the_start_token_inside_a_text_is_refused():
    world = World.random(3, 3)
    with pytest.raises(ValueError, match="above 2"):
        world.as_model()(torch.tensor([[3, 3]]))


def test_a_pipeline_of_ones_own_has_a_law_too():
    """Only even tokens: the mass of the others is spread over them."""

    def even(input_ids, logits):
        return logits.masked_fill(torch.arange(logits.shape[-1]) % 2 == 1, -INF)

    world = World.random(4, 2, seed=8)
    law = world.sequence_law(Pipeline([even], do_sample=True))
    odd = (world.sequences() % 2 == 1).any(dim=1)
    assert (law[odd] == 0).all()
    assert law.sum().item() == pytest.approx(1.0)
