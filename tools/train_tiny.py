"""Train the embedded models and their tokenizer from a plain text corpus.

    python tools/train_tiny.py --corpus stories.txt --preset tiny --out build/tiny

The corpus is a text file whose documents are separated by <|endoftext|>.
A run can be stopped at any time and taken up again with the same command:
every --save-every steps it writes <out>/checkpoint.pt, and Ctrl-C writes one
more before it ends. The finished model (fp16 safetensors, tokenizer, model
card) is written to <out>/model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOT = "<|endoftext|>"
VALIDATION_SHARE = 20  # one story in twenty, chosen by its hash
SAMPLE_PROMPTS = ["Once upon a time", "Tom and his dog", "The little bird was"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the corpus."""

    n_layer: int
    n_embd: int
    n_head: int
    n_positions: int = 512
    vocab_size: int = 2048
    dropout: float = 0.1
    epochs: float = 12.0
    batch_rows: int = 8
    matrix_lr: float = 0.006
    other_lr: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    seed: int = 0


PRESETS = {
    "tiny": Recipe(n_layer=4, n_embd=256, n_head=4),
    "nano": Recipe(n_layer=3, n_embd=144, n_head=4, epochs=10.0),
}


# ---------------------------------------------------------------- the corpus


def read_stories(path: Path) -> list[str]:
    """Read the documents of a corpus, without duplicates, in file order."""
    seen: set[str] = set()
    stories = []
    for story in path.read_text(encoding="utf-8").split(EOT):
        story = story.strip()
        key = fingerprint(story)
        if story and key not in seen:
            seen.add(key)
            stories.append(story)
    return stories


def fingerprint(story: str) -> str:
    """Hash a story by its letters alone: case and punctuation make no new story."""
    letters = re.sub(r"[^a-z]", "", story.lower())
    return hashlib.sha256(letters.encode()).hexdigest()


def split(stories: list[str]) -> tuple[list[str], list[str]]:
    """Split stories into (train, validation) by hash: no order or seed enters."""
    train, validation = [], []
    for story in stories:
        chosen = int(fingerprint(story), 16) % VALIDATION_SHARE == 0
        (validation if chosen else train).append(story)
    return train, validation


def train_tokenizer(stories: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; <|endoftext|> has id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOT,
        eos_token=EOT,
        clean_up_tokenization_spaces=False,
    )


def pack(
    documents: list[list[int]], length: int, eot: int, rng: random.Random
) -> list[list[int]]:
    """Pack whole documents into rows of at most ``length`` tokens.

    Every row begins with the beginning of a document, as a prompt does; half
    of the rows have an <|endoftext|> before it. A document too long for a row
    goes on at the head of the next.
    """
    pieces = [
        tokens[start : start + length - 2] + ([eot] if start + length - 2 >= len(tokens) else [])
        for tokens in documents
        for start in range(0, len(tokens), length - 2)
    ]
    rng.shuffle(pieces)
    rows: list[list[int]] = []
    open_rows: list[list[int]] = []
    for piece in pieces:
        fits = [row for row in open_rows if len(row) + len(piece) <= length]
        if fits:
            row = max(fits, key=len)
        else:
            row = [eot] if rng.random() < 0.5 else []
            rows.append(row)
            open_rows.append(row)
        row.extend(piece)
        open_rows = [r for r in open_rows if len(r) < length - 40][-64:]
    rng.shuffle(rows)
    return rows


def batches(
    documents: list[list[int]], recipe: Recipe, eot: int, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ``steps`` (inputs, labels) pairs; epoch e depends on (seed, e) alone."""
    done, epoch = 0, 0
    while True:
        rng = random.Random(f"{recipe.seed}/{epoch}")
        rows = pack(documents, recipe.n_positions, eot, rng)
        for start in range(0, len(rows) - recipe.batch_rows + 1, recipe.batch_rows):
            chunk = rows[start : start + recipe.batch_rows]
            width = max(map(len, chunk))
            inputs = torch.tensor([row + [eot] * (width - len(row)) for row in chunk])
            labels = torch.tensor([row + [-100] * (width - len(row)) for row in chunk])
            yield inputs, labels
            done += 1
            if done == steps:
                return
        epoch += 1


# ------------------------------------------------------------------ training


def make_model(recipe: Recipe, eot: int) -> GPT2LMHeadModel:
    """Build the untrained network."""
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=recipe.vocab_size,
        n_positions=recipe.n_positions,
        n_embd=recipe.n_embd,
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=0.0,  # with it, attention on a CPU leaves its fast path
        bos_token_id=eot,
        eos_token_id=eot,
    )
    return GPT2LMHeadModel(config)


def make_optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, gains and biases."""
    matrices = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    ids = {id(p) for p in matrices}
    embeddings = [p for p in model.parameters() if id(p) not in ids and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(
        matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    groups = [
        {"params": embeddings, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98))
    return [muon, adamw]


def schedule(step: int, steps: int, recipe: Recipe) -> float:
    """Learning-rate factor: linear warm-up, then cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def loss_of(model: GPT2LMHeadModel, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (nats a token) of the next-token predictions."""
    device = next(model.parameters()).device
    inputs, labels = inputs.to(device), labels.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = model(inputs).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


@torch.inference_mode()
def evaluate(
    model: GPT2LMHeadModel, stories: list[str], tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    """Nats a token and bits a byte of whole stories, each alone after one
    <|endoftext|> and with its closing one counted."""
    model.eval()
    device = next(model.parameters()).device
    eot, context = tokenizer.eos_token_id, model.config.n_positions
    nats = tokens = size = 0.0
    encoded = [(story, tokenizer.encode(story)) for story in stories]
    kept = sorted((e for e in encoded if len(e[1]) + 2 <= context), key=lambda e: len(e[1]))
    for start in range(0, len(kept), 16):
        chunk = kept[start : start + 16]
        width = max(len(ids) for _, ids in chunk) + 2
        rows = [[eot, *ids, eot] for _, ids in chunk]
        inputs = torch.tensor([r + [eot] * (width - len(r)) for r in rows], device=device)
        labels = torch.tensor([r + [-100] * (width - len(r)) for r in rows], device=device)
        logits = model(inputs).logits[:, :-1].float().flatten(0, 1)
        nats += F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum").item()
        tokens += sum(len(r) - 1 for r in rows)
        size += sum(len(story.encode()) for story, _ in chunk)
    model.train()
    return {
        "stories": len(kept),
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / size,
    }


def train(
    corpus: Path, out: Path, recipe: Recipe, tokenizer_from: Path | None,
    device: str, eval_every: int, save_every: int, stop_after: int | None,
) -> None:
    """Train from the last checkpoint in ``out`` (or from nothing) to the end."""
    out.mkdir(parents=True, exist_ok=True)
    train_stories, validation = split(read_stories(corpus))
    if tokenizer_from:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_from)
    else:
        tokenizer = train_tokenizer(train_stories, recipe.vocab_size)
    eot = tokenizer.eos_token_id
    documents = [tokenizer.encode(story) for story in train_stories]
    total = sum(map(len, documents))
    rows = len(pack(documents, recipe.n_positions, eot, random.Random(0)))
    steps = int(recipe.epochs * rows / recipe.batch_rows)
    print(f"{len(train_stories)} stories to train on ({total:,} tokens), "
          f"{len(validation)} to validate; {steps} steps")

    model = make_model(recipe, eot).to(device)
    print(f"{model.num_parameters():,} parameters")
    optimizers = make_optimizers(model, recipe)
    base_lrs = [[g["lr"] for g in o.param_groups] for o in optimizers]
    state_file, first, history, seconds = out / "checkpoint.pt", 0, [], 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"].cpu())
        first, history, seconds = state["step"], state["history"], state["seconds"]
        print(f"resumed at step {first}")

    def save(step: int) -> None:
        state = {
            "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
            "rng": torch.get_rng_state(), "step": step, "history": history,
            "seconds": seconds + time.monotonic() - started,
        }
        torch.save(state, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").replace(state_file)

    started, done = time.monotonic(), first
    model.train()
    bar = tqdm(total=steps, initial=first, mininterval=5.0, desc="training")
    try:
        for step, (inputs, labels) in enumerate(batches(documents, recipe, eot, steps)):
            if step < first:
                continue
            factor = schedule(step, steps, recipe)
            for optimizer, lrs in zip(optimizers, base_lrs, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * factor
            loss = loss_of(model, inputs, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
            done = step + 1
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if done % eval_every == 0 or done == steps:
                result = {"step": done, "train_loss": loss.item(),
                          **evaluate(model, validation, tokenizer)}
                history.append(result)
                tqdm.write(json.dumps(result))
            if done % save_every == 0 or done == steps:
                save(done)
                tqdm.write(sample(model, tokenizer, SAMPLE_PROMPTS[0]))
            if done == stop_after:
                break
    except KeyboardInterrupt:
        save(done)
        print(f"stopped at step {done}; the same command goes on from there")
        return
    bar.close()
    seconds += time.monotonic() - started
    facts = {
        "corpus_sha256": hashlib.sha256(corpus.read_bytes()).hexdigest(),
        "train_stories": len(train_stories), "train_tokens": total,
        "validation_stories": len(validation), "steps": done,
        "parameters": model.num_parameters(), "training_minutes": round(seconds / 60, 1),
        "recipe": asdict(recipe), "history": history,
    }
    export(model, tokenizer, out / "model", facts, validation)


@torch.inference_mode()
def sample(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """One sampled continuation, to look at during training."""
    model.eval()
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    tokens = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        do_sample=True, temperature=0.8, top_k=0, max_new_tokens=120,
        pad_token_id=tokenizer.eos_token_id,
    )
    model.train()
    return str(tokenizer.decode(tokens[0]))


def export(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path,
    facts: dict[str, object], validation: list[str],
) -> None:
    """Write fp16 weights and tokenizer; the losses stated are those of the fp16 weights."""
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict({k: v.half() for k, v in model.state_dict().items()})
    facts["final"] = evaluate(half, validation, tokenizer)
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["final"]), "->", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="text file, <|endoftext|> between documents")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and model folder")
    parser.add_argument("--tokenizer", type=Path, help="use this folder's tokenizer instead of training one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    parser.add_argument("--eval-every", type=int, default=250, help="steps between validations")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints and samples")
    parser.add_argument("--stop-after", type=int, help="end after this step, as if it were the last")
    for name in ("epochs", "matrix_lr", "other_lr", "dropout", "weight_decay"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help="override the preset")
    parser.add_argument("--batch-rows", type=int, help="override the preset")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    overrides = {
        name: getattr(args, name)
        for name in ("epochs", "matrix_lr", "other_lr", "dropout", "weight_decay", "batch_rows")
        if getattr(args, name) is not None
    }
    recipe = Recipe(**{**asdict(PRESETS[args.preset]), **overrides})
    train(args.corpus, args.out, recipe, args.tokenizer, args.device,
          args.eval_every, args.save_every, args.stop_after)


if __name__ == "__main__":
    main()
