"""The page "Choosing settings" says what benchmarks/settings.json says."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import settings  # noqa: E402

PAGE = (ROOT / "book" / "choosing.md").read_text("utf-8")
DATA = json.loads(settings.RESULTS.read_text("utf-8"))
RESULTS = DATA["results"]


def mean(name, measure):
    return RESULTS[name][measure][1]


def nats(name):
    return math.log(mean(name, "perplexity"))


def test_the_page_holds_the_table_of_the_results():
    assert f"\n\n{settings.table(DATA)}\n\n" in PAGE


def test_the_results_are_those_of_the_script_and_of_the_model_in_the_box():
    assert DATA["arguments"] == settings.SETTINGS
    assert DATA["prompts"] == settings.PROMPTS
    assert DATA["weights_sha256"] == settings.weights_hash()
    assert (DATA["samples"], DATA["measured_tokens"], DATA["end_within_tokens"]) == (
        settings.SAMPLES,
        settings.TEXT,
        settings.END,
    )
    assert list(RESULTS) == list(settings.SETTINGS)
    for values in RESULTS.values():
        assert list(values) == list(settings.MEASURES)
        assert all(low <= middle <= high for low, middle, high in values.values())


def test_likely_and_varied_pull_in_opposite_directions():
    line = ["greedy", "T = 0.5", "T = 0.7", "T = 1", "T = 1.3"]
    for measure, sign in [("perplexity", 1), ("distinct_2", 1), ("rep_4", -1)]:
        values = [sign * mean(name, measure) for name in line]
        assert values == sorted(values), measure


def test_greedy_repeats_itself_most():
    assert max(RESULTS, key=lambda name: mean(name, "rep_4")) == "greedy"


def test_what_the_page_reads_off_the_table():
    said = {
        "lowers perplexity from {:.1f}": mean("T = 1", "perplexity"),
        "to {:.1f}, and distinct-2 only": mean("ρ = 0.95", "perplexity"),
        "distinct-2 only from {:.2f}": mean("T = 1", "distinct_2"),
        "to {:.2f}. $T = 0.5$": mean("ρ = 0.95", "distinct_2"),
        "further, to {:.1f}": mean("T = 0.5", "perplexity"),
        "pays with distinct-2: {:.2f}": mean("T = 0.5", "distinct_2"),
        "alone has a perplexity of {:.1f}": mean("T = 1.3", "perplexity"),
        "with top-p at 0.9 it is {:.1f}": mean("ρ = 0.9, T = 1.3", "perplexity"),
        "({:.2f} against": mean("ρ = 0.9, T = 1.3", "distinct_2"),
        "against {:.2f})": mean("T = 1.3", "distinct_2"),
        "At $T = 1$ the measured means are {:.2f}": nats("T = 1"),
        "and {:.2f} nats. At $T = 0.7$": mean("T = 1", "entropy"),
        "At $T = 0.7$ they are {:.2f}": nats("T = 0.7"),
        "and {:.2f}: the text is less": mean("T = 0.7", "entropy"),
        "At $T = 1.3$ they are {:.2f}": nats("T = 1.3"),
        "and {:.2f}, more surprising": mean("T = 1.3", "entropy"),
    }
    for words, value in said.items():
        assert words.format(value) in PAGE
    for name in ("greedy", "ρ = 0.9"):  # the ban
        assert mean(f"{name}, n = 4", "rep_4") == 0
        assert mean(f"{name}, n = 4", "perplexity") > mean(name, "perplexity")


def test_the_surprise_of_real_stories_is_that_of_the_model_card():
    record = (settings.WEIGHTS.parent / "MODEL_CARD.md").read_text("utf-8")
    assert "**2.03" in record
    assert "2.03 nats a token" in PAGE
    assert f"a perplexity of {math.exp(2.0318):.1f}" in PAGE


@pytest.fixture(scope="module")
def tiny():
    return lib.load(device="cpu")


def test_all_beginnings_have_six_tokens(tiny):
    _, tokenizer = tiny
    assert {len(tokenizer(p)["input_ids"]) for p in settings.PROMPTS} == {6}
    assert len(set(settings.PROMPTS)) == 10


def test_measures_by_hand(tiny):
    """One text that loops and one that has ended, six times each."""
    model, tokenizer = tiny
    prompts = torch.tensor([tokenizer(p)["input_ids"] for p in settings.PROMPTS[:2]])
    loop = torch.tensor([5, 6, 7]).repeat(settings.END)[: settings.END]
    ended = torch.zeros(settings.END, dtype=torch.long)
    ended[:4] = torch.tensor([8, 9, 10, 11])
    new = torch.stack([loop, ended])[:, None].expand(-1, settings.SAMPLES, -1)
    found = settings.measure(model, prompts, new)
    assert found["ended"].tolist() == [0, 1]
    assert found["rep_4"].tolist() == pytest.approx([1 - 3 / 77, 0])
    assert found["distinct_2"].tolist() == pytest.approx([3 / 474, 1 / 6])
    rows = torch.cat([prompts[1:], new[1, :1, :5]], dim=1)
    surprisal = -lib.log_probs(model, rows)[0, 5:].mean()
    assert found["perplexity"][1] == pytest.approx(float(surprisal), rel=1e-4)


def test_the_interval_holds_the_mean_and_shrinks_with_the_spread():
    values = np.arange(10.0)
    low, middle, high = settings.interval(values)
    assert low < middle == 4.5 < high
    # The normal approximation: 1.96 standard errors.
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 10**0.5, rel=0.1)
    assert settings.interval(np.full(10, 2.0)) == (2, 2, 2)
