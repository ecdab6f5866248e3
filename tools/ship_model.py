"""Make an embedded model of a trained one: copy, check, look at samples, write a card.

    python tools/ship_model.py build/nano/model --name nano --corpus stories.txt

Copies what `lib.load` needs into lib/weights/<name>, computes the validation loss again
through `lib` from the shipped files and holds it against training.json, writes fifty
samples to --samples to be read by somebody, counts endings and greedy loops, and writes
MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import model_card
import torch
import train_tiny
from model_card import Look, Sample

import lib
from lib import models

WEIGHTS = Path(models.__file__).parent / "weights"
TOLERANCE = 1e-3  # bits a byte
BUDGET = 10_000_000  # bytes of all embedded models together
CARD = "MODEL_CARD.md"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")

PROMPTS = (
    "Once upon a time",
    "One day, a little girl",
    "Tom and his dog",
    "The little bird was",
    "Lily had a red ball.",
    "There was a big, old tree",
    "Mom and Ben went to the",
    "The cat was hungry.",
    "Sue found a key in the garden.",
    '"Can I help you?" asked',
)
SEEDS = range(5)
SETTINGS: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
FLAGS = "--temperature 0.8 --top-p 0.9"
SHOWN = (1, 12)  # in the card; chosen before any was seen
LOOP_TOKENS = 300
LOOP_PERIOD = 100


def copy(model: Path, out: Path) -> dict[str, Any]:
    """Copy what is needed, the JSON without air; returns the facts of training.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    (out / "config.json").write_text((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    compact = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")
    facts: dict[str, Any] = json.loads((model / "training.json").read_text())
    (out / "training.json").write_text(trimmed(facts))
    for file in out.iterdir():
        if file.name in (*NEEDED, "training.json", CARD):
            file.chmod(0o644)
        else:
            file.unlink()
    return facts


def trimmed(facts: dict[str, Any]) -> str:
    """training.json with one line a fact and one a validation, rounded to 1e-5."""

    def line(value: object) -> str:
        return json.dumps(
            json.loads(json.dumps(value), parse_float=lambda f: round(float(f), 5))
        )

    history = [{k: v for k, v in h.items() if k != "stories"} for h in facts["history"]]
    lines = [f' "{k}": {line(v)}' for k, v in facts.items() if k != "history"]
    lines.append(' "history": [\n  ' + ",\n  ".join(map(line, history)) + "\n ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def measure(model: Any, tokenizer: Any, stories: list[str]) -> dict[str, float]:
    """The validation loss, story by story, through `lib` alone."""
    eot, context = tokenizer.eos_token_id, model.config.n_positions
    nats = tokens = size = count = 0.0
    for story in stories:
        ids = [eot, *tokenizer.encode(story, verbose=False), eot]
        if len(ids) <= context:
            surprise = -lib.log_probs(model, torch.tensor([ids])).double()
            nats += float(surprise.sum())
            tokens += surprise.numel()
            size += len(story.encode())
            count += 1
    return {
        "stories": count,
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / size,
    }


def check_losses(measured: dict[str, float], stated: dict[str, float]) -> None:
    """The shipped files must have the loss that training stated."""
    apart = abs(measured["bits_per_byte"] - stated["bits_per_byte"])
    if measured["stories"] != stated["stories"] or apart > TOLERANCE:
        raise SystemExit(f"the shipped files give {measured}, training stated {stated}")


def draw(model: Any, tokenizer: Any) -> list[Sample]:
    """Fifty samples, each as the command line would write it."""
    samples = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt)] * len(SEEDS))
        rows = lib.generate(model, ids, seed=list(SEEDS), **SETTINGS).tolist()
        for seed, row in zip(SEEDS, rows, strict=True):
            new = row[ids.shape[1] :]
            ended = tokenizer.eos_token_id in new
            text = tokenizer.decode(row, skip_special_tokens=True)
            quoted = prompt.replace('"', '\\"')
            samples.append(Sample(f'"{quoted}" {FLAGS} --seed {seed}', text, ended))
    return samples


def period_of_loop(tokens: Sequence[int]) -> int | None:
    """The period with which a text ends in a loop, None where it does not.

    A loop of period p <= 100: each of the last max(64, 2p) tokens equals the one p
    before it.
    """
    for period in range(1, LOOP_PERIOD + 1):
        tail = max(64, 2 * period)
        if len(tokens) >= tail + period and all(
            tokens[-i] == tokens[-i - period] for i in range(1, tail + 1)
        ):
            return period
    return None


def greedy_texts(model: Any, tokenizer: Any) -> list[list[int]]:
    """For each prompt the new tokens of greedy decoding that may not end."""
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt)])
        row = lib.generate(model, ids, max_new_tokens=LOOP_TOKENS, eos_token_id=-1)
        texts.append(row[0, ids.shape[1] :].tolist())
    return texts


def look_at(samples: list[Sample], greedy: list[list[int]]) -> Look:
    """Count what the card states of the samples."""
    periods = [period_of_loop(tokens) for tokens in greedy]
    repeated = [lib.rep_n(tokens, 4) for tokens in greedy]
    print(f"periods of greedy loops: {periods}")
    print(f"share of 4-grams that had occurred: {[round(r, 2) for r in repeated]}")
    return Look(
        samples=len(samples),
        ended=sum(sample.ended for sample in samples),
        settings=f"{len(PROMPTS)} openings, {len(SEEDS)} seeds, `{FLAGS}`",
        greedy=len(greedy),
        loops=sum(period is not None for period in periods),
        repeated=sum(repeated) / len(repeated),
    )


def write_samples(path: Path, samples: list[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"=== {s.flags}  [{'ended' if s.ended else 'cut off'}]\n{s.text}\n"
        for s in samples
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def size_of_all() -> int:
    """Bytes of what `lib.load` reads, all embedded models together."""
    return sum(
        (WEIGHTS / name / file).stat().st_size
        for name in models.EMBEDDED
        for file in NEEDED
        if (WEIGHTS / name / file).exists()
    )


def check_neighbours(name: str) -> None:
    """One tokenizer for all, and not too many bytes."""
    mine = (WEIGHTS / name / "tokenizer.json").read_bytes()
    for other in models.EMBEDDED:
        theirs = WEIGHTS / other / "tokenizer.json"
        if theirs.exists() and theirs.read_bytes() != mine:
            print(f"note: the tokenizer is not that of {other}; they must be the same")
    print(f"{size_of_all():,} bytes of {BUDGET:,} in {WEIGHTS.name}/")


def ship(model: Path, name: str, corpus: Path, samples_file: Path) -> None:
    out = WEIGHTS / name
    facts = copy(model, out)
    shipped, tokenizer = lib.load(name, device="cpu")
    _, validation = train_tiny.split(train_tiny.read_stories(corpus))
    measured = measure(shipped, tokenizer, validation)
    print(f"measured {measured}\nstated   {facts['final']}")
    check_losses(measured, facts["final"])
    check_neighbours(name)
    samples = draw(shipped, tokenizer)
    write_samples(samples_file, samples)
    look = look_at(samples, greedy_texts(shipped, tokenizer))
    print(f"{look.ended} of {look.samples} samples ended; read them: {samples_file}")
    card = model_card.render(name, facts, [samples[i] for i in SHOWN], look)
    (out / CARD).write_text(card, encoding="utf-8")


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("model", type=Path, help="the folder model/ of a training run")
    p.add_argument("--name", choices=models.EMBEDDED, required=True)
    p.add_argument("--corpus", type=Path, required=True, help="what it was trained on")
    p.add_argument("--samples", type=Path, help="default: build/samples_<name>.txt")
    args = p.parse_args()
    torch.set_num_threads(1)
    samples = args.samples or Path("build") / f"samples_{args.name}.txt"
    ship(args.model, args.name, args.corpus, samples)


if __name__ == "__main__":
    main()
