"""What decoding settings do to the stories of the embedded model.

    python benchmarks/settings.py           measure, and write settings.json: a minute
    python benchmarks/settings.py --table   print the table of book/choosing.md

Every setting continues the same prompts with the same luck. Nothing here depends on
how fast the machine is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lib

RESULTS = Path(__file__).with_suffix(".json")
WEIGHTS = Path(lib.__file__).parent / "weights" / "tiny" / "model.safetensors"

PROMPTS = [  # six tokens each, so that they make a batch without padding
    "One day, a little girl",
    "One morning, Ben woke up",
    "Mom said it was time to",
    "Mia and Ben went to the",
    "Lily wanted to bake a",
    "One night, Tom and Sue",
    "There was a big dog",
    "The boy and the cat ran",
    "It was cold in the house",
    "The little bird was sad because",
]
SAMPLES = 6  # texts a prompt
TEXT = 80  # new tokens that are measured
END = 160  # new tokens within which a text may end
RESAMPLES = 2000  # of the bootstrap

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "greedy, n = 4": {"do_sample": False, "no_repeat_ngram_size": 4},
    "T = 0.5": {"temperature": 0.5},
    "T = 0.7": {"temperature": 0.7},
    "T = 1": {},
    "T = 1.3": {"temperature": 1.3},
    "k = 40": {"top_k": 40},
    "ρ = 0.95": {"top_p": 0.95},
    "ρ = 0.9": {"top_p": 0.9},
    "ρ = 0.9, T = 0.7": {"top_p": 0.9, "temperature": 0.7},
    "ρ = 0.9, T = 1.3": {"top_p": 0.9, "temperature": 1.3},
    "ρ = 0.9, n = 4": {"top_p": 0.9, "no_repeat_ngram_size": 4},
}
MEASURES = ("perplexity", "entropy", "distinct_2", "rep_3", "rep_4", "ended")
COLUMNS = {  # of the table: measure, heading, digits
    "perplexity": ("perplexity", 1),
    "distinct_2": ("distinct-2", 2),
    "rep_4": ("rep-4", 2),
    "ended": ("ended", 2),
}

Floats = NDArray[np.float64]


def continue_prompts(
    model: Any, prompts: torch.Tensor, *, do_sample: bool = True, **setting: Any
) -> torch.Tensor:
    """New tokens, ``(prompts, samples, END)``; what ended is filled with its end."""
    rows = lib.generate(
        model,
        prompts,
        do_sample=do_sample,
        # Without luck all samples are the same text.
        num_return_sequences=SAMPLES if do_sample else 1,
        max_new_tokens=END,
        seed=range(len(prompts)),
        **setting,
    )
    new = torch.full((len(rows), END), model.config.eos_token_id)
    new[:, : rows.shape[1] - prompts.shape[1]] = rows[:, prompts.shape[1] :]
    return new.view(len(prompts), -1, END).expand(-1, SAMPLES, -1)


def measure(model: Any, prompts: torch.Tensor, new: torch.Tensor) -> dict[str, Floats]:
    """Each measure of each prompt, the mean over its samples.

    Perplexity is given as its logarithm, the mean surprisal.
    """
    eos = model.config.eos_token_id
    starts = prompts.repeat_interleave(SAMPLES, dim=0)
    rows = torch.cat([starts, new[..., :TEXT].flatten(0, 1)], dim=1)
    with torch.inference_mode():
        logits = model(rows).logits[:, prompts.shape[1] - 1 : -1]
    surprisal = -lib.log_probs(model, rows)[:, prompts.shape[1] - 1 :]
    entropy = lib.entropy(logits)
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for i, samples in enumerate(new):
        texts = [until(text, eos) for text in samples[:, :TEXT].tolist()]
        here = slice(i * SAMPLES, (i + 1) * SAMPLES)
        read = torch.arange(TEXT) < torch.tensor([[len(text)] for text in texts])
        bigrams = [pair for text in texts for pair in pairwise(text)]
        found["perplexity"].append(float(surprisal[here][read].mean()))
        found["entropy"].append(float(entropy[here][read].mean()))
        found["distinct_2"].append(len(set(bigrams)) / len(bigrams))
        for n in (3, 4):
            found[f"rep_{n}"].append(mean([lib.rep_n(text, n) for text in texts]))
        found["ended"].append(float((samples == eos).any(dim=-1).float().mean()))
    return {name: np.array(values) for name, values in found.items()}


def until(text: list[int], end: int) -> list[int]:
    """The text up to and with its end."""
    return text[: text.index(end) + 1] if end in text else text


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def interval(per_prompt: Floats) -> tuple[float, float, float]:
    """Mean over prompts, and the 95 % bootstrap interval around it: low, mean, high.

    Prompts are resampled, not texts: texts with one beginning are not independent.
    """
    n = len(per_prompt)
    again = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(per_prompt[again].mean(axis=1), [0.025, 0.975])
    return float(low), float(per_prompt.mean()), float(high)


def weights_hash() -> str:
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def results() -> dict[str, Any]:
    """Measure everything."""
    torch.set_num_threads(1)
    model, tokenizer = lib.load(device="cpu")
    prompts = torch.tensor([tokenizer(prompt)["input_ids"] for prompt in PROMPTS])
    measured = {}
    for name, setting in SETTINGS.items():
        new = continue_prompts(model, prompts, **setting)
        values = {m: interval(v) for m, v in measure(model, prompts, new).items()}
        values["perplexity"] = tuple(np.exp(values["perplexity"]).tolist())
        measured[name] = {m: [round(x, 4) for x in v] for m, v in values.items()}
    return {
        "model": "tiny",
        "weights_sha256": weights_hash(),
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "measured_tokens": TEXT,
        "end_within_tokens": END,
        "interval": "95 % bootstrap over prompts: [low, mean, high]",
        "arguments": SETTINGS,
        "results": measured,
    }


def table(data: dict[str, Any]) -> str:
    """The results as the table of book/choosing.md."""
    lines = [
        "| setting | " + " | ".join(head for head, _ in COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for name, values in data["results"].items():
        cells = [name.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")]
        for measure, (_, digits) in COLUMNS.items():
            low, middle, high = (f"{x:.{digits}f}" for x in values[measure])
            # The joiner keeps an interval on one line.
            cells.append(f"{middle} ({low}–\N{WORD JOINER}{high})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table alone")
    if not parser.parse_args().table:
        text = json.dumps(results(), indent=1, ensure_ascii=False)
        RESULTS.write_text(text + "\n", "utf-8")
    print(table(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
