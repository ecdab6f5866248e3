"""The model card of an embedded model, from its training.json and its own samples."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TINYSTORIES = """\
6,355 short stories of the TinyStories dataset (Eldan and Li, 2023, arXiv:2305.07759;
`roneneldan/TinyStories`), licensed CDLA-Sharing-1.0. They were written by GPT-3.5 and
GPT-4, in words that a child of three or four knows, and reached this book by way of
four public repositories that carry parts of the dataset:
`maxme1/tiny-stories` (2,992 stories), `mines-opt-ml/decoding-gpt` (1,714),
`ToonTalk/jlens-tinystories` (986) and `yuninxia/moe-routing-bench` (663). Cleaning
brought the text to ASCII, straightened quotes, and kept stories of 200 to 4,000
characters that end in a full sentence. The licence sets conditions on the data and on
changed data, none on the results of analysing it; the data is not part of this
repository."""

# What the corpora are, by the sha256 of the file.
CORPORA = {
    "205608e6a94b17324b6c88d9cca14516786cb9d6b015c09675e217b0bc2e59ac": TINYSTORIES,
}

INTENDED_USE = {
    "tiny": """\
To see, in a book and its exercises, how the next token is chosen: a model whose every
probability can be looked at, that loads in seconds and needs no network.""",
    "nano": """\
To see what decoding does with a weaker model, beside `tiny`, and to draft for `tiny`,
with which it shares the tokenizer.""",
}

LIMITS = """\
- Children's stories in English, and nothing else: other prompts are continued as if
  they opened such a story.
- No knowledge, no instructions, no reasoning. Stories lose their thread; names, things
  and pronouns change on the way.
- 512 tokens of context, prompt included: about 1,800 characters.
- The training text is itself the output of language models that were asked for simple
  stories. Its narrow view of families, roles and feelings, and its few dozen first
  names, come back in every sample.
- Not for use by children without an adult who reads along, and not for any decision
  about anybody."""


@dataclass(frozen=True)
class Sample:
    """One generated text, and the command-line flags that repeat it."""

    flags: str
    text: str
    ended: bool


@dataclass(frozen=True)
class Look:
    """What was counted when the samples were looked at."""

    samples: int
    ended: int
    settings: str
    greedy: int
    loops: int
    repeated: float


def count(number: float) -> str:
    return f"{number:,}"


def reflow(text: str) -> str:
    """Wrap paragraphs and list items to 88 columns."""

    def fill(part: str) -> str:
        indent = "  " if part.startswith("- ") else ""
        words = " ".join(part.split())
        return textwrap.fill(
            words,
            88,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    blocks = [re.split(r"\n(?=- )", block) for block in text.strip().split("\n\n")]
    return "\n\n".join("\n".join(map(fill, parts)) for parts in blocks)


def loss_table(history: Sequence[dict[str, float]], steps: int) -> str:
    """About eight points of the validation curve, the last among them."""
    chosen = [h for h in history if h["step"] % 500 == 0 or h["step"] == steps]
    lines = [
        "| step | validation, nats a token | bits a byte |",
        "|---:|---:|---:|",
        *(
            f"| {count(h['step'])} | {h['nats_per_token']:.3f} "
            f"| {h['bits_per_byte']:.3f} |"
            for h in chosen
        ),
    ]
    return "\n".join(lines)


def data_section(facts: dict[str, Any]) -> str:
    sha256 = facts["corpus_sha256"]
    corpus = CORPORA.get(sha256, "A text file of the trainer's own.")
    stories, validation = facts["train_stories"], facts["validation_stories"]
    return reflow(
        f"""\
{corpus}

- The corpus file has the sha256 `{sha256}`.
- Stories with the same letters count once (case, spaces and punctuation aside):
  {count(stories + validation)} are left.
- One story in twenty, chosen by the hash of its letters, is kept for validation:
  {count(validation)} stories. The other {count(stories)}
  ({count(facts["train_tokens"])} tokens) were trained on; the tokenizer saw them alone.
- Both embedded models have the same tokenizer: byte-level BPE,
  {count(facts["recipe"]["vocab_size"])} tokens, of which `<|endoftext|>` has id 0."""
    )


def recipe_section(name: str, facts: dict[str, Any]) -> str:
    r = facts["recipe"]
    text = reflow(
        f"""\
GPT-2 architecture: {r["n_layer"]} layers, width {r["n_embd"]}, {r["n_head"]} heads,
{r["n_positions"]} positions, tied embeddings; {count(facts["parameters"])} parameters,
stored in float16.

- {r["epochs"]:g} passes over the stories, {count(facts["steps"])} steps of
  {r["batch_rows"]} rows of up to {r["n_positions"]} tokens, bfloat16 autocast.
- Muon for the blocks' matrices (learning rate {r["matrix_lr"]:g}), AdamW for
  embeddings, gains and biases ({r["other_lr"]:g}, betas 0.9 and 0.98); weight decay
  {r["weight_decay"]:g} (none for gains and biases), gradient norm at most 1.
- {r["warmup_steps"]} steps of warm-up, then a cosine to zero. Dropout
  {r["dropout"]:g} on residuals and embeddings. Seed {r["seed"]}.
- {facts["training_minutes"]:g} minutes by the clock, pauses included, on one busy core.

To train it again:"""
    )
    return f"""\
{text}

    python tools/train_tiny.py --corpus stories.txt --preset {name} --out build/{name}
    python tools/ship_model.py build/{name}/model --name {name} --corpus stories.txt"""


def loss_section(facts: dict[str, Any]) -> str:
    final = facts["final"]
    text = reflow(
        f"""\
**{final["nats_per_token"]:.4f} nats a token, {final["bits_per_byte"]:.4f} bits a byte**
on the {count(final["stories"])} of {count(facts["validation_stories"])} validation
stories that fit into the context, computed in float32 from the float16 weights in this
folder. Each story stands alone: `<|endoftext|>`, its tokens, `<|endoftext|>`. The sum
of −ln p over its tokens and the closing `<|endoftext|>` is divided by their number
(nats a token), or by ln 2 and the number of UTF-8 bytes of the stories (bits a byte;
`<|endoftext|>` counts no bytes). Along the way, from the weights in training:"""
    )
    return f"{text}\n\n{loss_table(facts['history'], facts['steps'])}"


def sample_section(samples: Sequence[Sample], look: Look) -> str:
    parts = ["Two, chosen before any was seen:"]
    for sample in samples:
        lines = [f"> {line}".rstrip() for line in sample.text.split("\n")]
        parts += [f"    python -m lib {sample.flags}", "\n>\n".join(lines)]
    counts = f"""\
Of {look.samples} samples ({look.settings}) {look.ended} ended with `<|endoftext|>`
before the context was full.

Of {look.greedy} greedy continuations that may not end (the same openings, 300 tokens,
`eos_token_id=-1`) {look.loops} ran into a loop: for some period p of at most 100, each
of the last max(64, 2p) tokens equals the one p before it. Of all their 4-grams
{look.repeated:.0%} had occurred before in the same text."""
    return "\n\n".join([*parts, reflow(counts)])


def render(
    name: str, facts: dict[str, Any], samples: Sequence[Sample], look: Look
) -> str:
    """The card as Markdown."""
    use = INTENDED_USE.get(name, "To try the tools of this book on.")
    sections = {
        "Intended use": reflow(use),
        "Data": data_section(facts),
        "Recipe": recipe_section(name, facts),
        "Validation loss": loss_section(facts),
        "Samples": sample_section(samples, look),
        "Limits": LIMITS,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    opening = reflow(f"""\
A language model of {facts["parameters"] / 1e6:.2f} million parameters that writes short
children's stories in English. The weights are under the licence of this repository's
code (MIT).""")
    return f"""\
# {name}: a story model in the box

<!-- Written by tools/ship_model.py from training.json; change it there. -->

{opening}

{body}
"""
