"""The tool that makes an embedded model of a trained one, and its model card."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import lib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import model_card  # noqa: E402
import ship_model as tool  # noqa: E402
import train_tiny  # noqa: E402

FACTS = {
    "corpus_sha256": next(iter(model_card.CORPORA)),
    "train_stories": 6045,
    "train_tokens": 1340312,
    "validation_stories": 310,
    "steps": 1200,
    "parameters": 1121040,
    "training_minutes": 12.5,
    "recipe": vars(train_tiny.PRESETS["nano"]),
    "history": [
        {
            "step": step,
            "train_loss": 3.0000001,
            "stories": 304,
            "nats_per_token": 4 - step / 1000,
            "bits_per_byte": 2 - step / 1000,
        }
        for step in (250, 500, 750, 1000, 1200)
    ],
    "final": {"stories": 304, "nats_per_token": 2.8123456, "bits_per_byte": 0.8123456},
}


@pytest.fixture(scope="module")
def nano():
    return lib.load("nano", device="cpu")


@pytest.mark.parametrize(
    ("tokens", "period"),
    [
        (list(range(300)), None),
        ([*range(200), *[7] * 65], 1),
        ([*range(200), *[7] * 64], None),  # the first of 64 has none before it
        ([*range(100), *[1, 2, 3, 4] * 17], 4),
        ([*range(100), *[1, 2, 3, 4] * 17, 9], None),  # it got out
        (list(range(100)) * 3, 100),
        (list(range(101)) * 3, None),
        ([5], None),
    ],
)
def test_period_of_loop(tokens, period):
    assert tool.period_of_loop(tokens) == period


def test_trimmed_facts_are_the_facts_rounded():
    text = tool.trimmed(FACTS)
    facts = json.loads(text)
    assert set(facts) == set(FACTS)
    assert facts["recipe"] == FACTS["recipe"]
    assert facts["final"]["bits_per_byte"] == 0.81235
    assert facts["history"][0] == {
        "step": 250,
        "train_loss": 3.0,
        "nats_per_token": 3.75,
        "bits_per_byte": 1.75,
    }
    # A line a fact and a line a validation, so that a change can be read.
    assert len(text.splitlines()) == 3 + len(FACTS) + len(FACTS["history"])


def test_copy_takes_what_is_needed_and_the_tokenizer_stays_the_same(tmp_path, nano):
    model, tokenizer = nano
    source, out = tmp_path / "model", tmp_path / "out"
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "training.json").write_text(json.dumps(FACTS))
    out.mkdir()
    (out / "left_over.bin").write_text("old")
    assert tool.copy(source, out) == FACTS
    names = {*tool.NEEDED, "training.json"}
    assert {file.name for file in out.iterdir()} == names
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in out.iterdir())
    first, second = (
        json.loads((d / "tokenizer.json").read_text()) for d in (source, out)
    )
    assert first == second


def test_measure_agrees_with_the_training_tool(nano):
    stories = ["Tom ran to the park.", "Lily saw a bird.\nIt was red.", "a " * 600]
    measured = tool.measure(*nano, stories)
    assert measured == pytest.approx(train_tiny.evaluate(nano[0], stories, nano[1]))
    tool.check_losses(measured, measured)
    with pytest.raises(SystemExit, match="training stated"):
        tool.check_losses(
            measured, {**measured, "bits_per_byte": measured["bits_per_byte"] + 0.002}
        )


def test_samples_are_those_of_the_command_line(nano, monkeypatch):
    monkeypatch.setattr(tool, "PROMPTS", ('"Hi," said',))
    monkeypatch.setattr(tool, "SEEDS", range(2))
    samples = tool.draw(*nano)
    assert [sample.flags for sample in samples] == [
        rf'"\"Hi,\" said" --temperature 0.8 --top-p 0.9 --seed {seed}'
        for seed in (0, 1)
    ]
    settings = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 1}
    assert samples[1].text == lib.complete(*nano, '"Hi," said', **settings)


def test_card_states_what_a_reader_needs():
    samples = [model_card.Sample('"Tom" --seed 1', "Tom ran.\nHe fell.", True)]
    look = model_card.Look(50, 48, "10 openings", 10, 3, 0.456)
    card = model_card.render("nano", FACTS, samples, look)
    words = " ".join(card.split())
    for fact in (
        "CDLA-Sharing-1.0",
        "GPT-3.5 and GPT-4",
        FACTS["corpus_sha256"],
        "310 stories",
        "1,340,312 tokens",
        "**2.8123 nats a token, 0.8123 bits a byte** on the 304 of 310",
        "| 1,200 | 2.800 | 0.800 |",
        'python -m lib "Tom" --seed 1',
        "> Tom ran. > > He fell.",
        "48 ended with `<|endoftext|>`",
        "3 ran into a loop",
        "46% had occurred",
        "512 tokens of context",
        "--preset nano",
    ):
        assert fact in words
    for line in card.splitlines():
        assert len(line) <= 88 or line.startswith(">"), line
    assert "trainer's own" in model_card.data_section({**FACTS, "corpus_sha256": "0"})
