"""Train the embedded models and their tokenizer from a plain text corpus.

    python tools/train_tiny.py --corpus stories.txt --preset tiny --out build/tiny
    python tools/train_tiny.py --corpus stories.txt --preset nano --out build/nano

The corpus is a UTF-8 text file whose documents are separated by <|endoftext|>.
A run can be stopped at any time and taken up again with the same command: every
--save-every steps it writes <out>/checkpoint.pt, and Ctrl-C writes one more before it
ends. A run that was taken up ends with the weights of one that was never stopped, bit
for bit on the same machine, as long as --save-every and --threads stay the same. One
thread is as fast as two for models of this size.

The finished model (fp16 safetensors, tokenizer, training.json) is written to
<out>/model; tools/ship_model.py makes an embedded model of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOT = "<|endoftext|>"
VALIDATION_SHARE = 20  # one story in twenty, chosen by its hash
SAMPLE_PROMPT = "Once upon a time"
IGNORED = -100  # the label of padding

Documents = list[list[int]]
Batch = tuple[torch.Tensor, torch.Tensor]


class TrainingError(Exception):
    """Something the user can mend; its text says what."""


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
OVERRIDES = ("epochs", "matrix_lr", "other_lr", "dropout", "weight_decay", "batch_rows")


# ---------------------------------------------------------------- the corpus


def read_stories(path: Path) -> list[str]:
    """Read the documents of a corpus, without duplicates, in file order."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"corpus {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"corpus {path} is not UTF-8 text: {error}") from error
    if EOT not in text:
        raise TrainingError(
            f"corpus {path} holds no {EOT}: it must stand between the documents"
        )
    seen: set[str] = set()
    stories = []
    for story in map(str.strip, text.split(EOT)):
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
    train: list[str] = []
    validation: list[str] = []
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
    return wrap(tokenizer)


def read_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Read a tokenizer that was trained before; it must fit the recipe."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TrainingError(f"tokenizer {folder}: it holds no tokenizer.json")
    tokenizer = Tokenizer.from_file(str(file))
    if tokenizer.token_to_id(EOT) is None or tokenizer.get_vocab_size() > vocab_size:
        raise TrainingError(
            f"tokenizer {folder}: it must know {EOT} and at most {vocab_size} tokens, "
            f"the recipe's vocab_size; it knows {tokenizer.get_vocab_size()}"
        )
    return wrap(tokenizer)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOT,
        eos_token=EOT,
        clean_up_tokenization_spaces=False,
    )


# ------------------------------------------------------------------- batches


def cut(tokens: list[int], length: int, eot: int) -> Documents:
    """Cut a document into pieces that fit a row; the last ends with <|endoftext|>."""
    size = length - 2  # room for an <|endoftext|> on either side
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [*pieces[:-1], [*pieces[-1], eot]] if pieces else []


def pack(documents: Documents, length: int, eot: int, rng: random.Random) -> Documents:
    """Pack documents, in random order, into rows of at most ``length`` tokens.

    A row holds whole pieces of documents, after an <|endoftext|> in half of the rows;
    in the other half it begins as a prompt does, with nothing before it. Documents are
    cut only where they are longer than a row: their later pieces are rows of their own
    or stand behind the end of another document.
    """
    pieces = [piece for tokens in documents for piece in cut(tokens, length, eot)]
    rng.shuffle(pieces)
    rows: Documents = []
    open_rows: Documents = []
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


def pad(rows: Documents, eot: int) -> Batch:
    """Make (inputs, labels) of rows; padding is no label."""
    width = max(map(len, rows))
    inputs = [row + [eot] * (width - len(row)) for row in rows]
    labels = [row + [IGNORED] * (width - len(row)) for row in rows]
    return torch.tensor(inputs), torch.tensor(labels)


def batches(documents: Documents, recipe: Recipe, eot: int) -> Iterator[Batch]:
    """Yield batches without end; epoch e depends on (seed, e) alone."""
    epoch = 0
    while True:
        rng = random.Random(f"{recipe.seed}/{epoch}")
        rows = pack(documents, recipe.n_positions, eot, rng)
        for start in range(0, len(rows) - recipe.batch_rows + 1, recipe.batch_rows):
            yield pad(rows[start : start + recipe.batch_rows], eot)
        epoch += 1


# ------------------------------------------------------------------ the model


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


def make_optimizers(
    model: GPT2LMHeadModel, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, gains and biases."""
    matrices = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    ids = {id(p) for p in matrices}
    embeddings = [p for p in model.parameters() if id(p) not in ids and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.matrix_lr,
        weight_decay=recipe.weight_decay,
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


def loss_of(model: GPT2LMHeadModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy (nats a token) of the next-token predictions."""
    inputs, labels = (tensor.to(model.device) for tensor in batch)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        logits = model(inputs).logits
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    )


@torch.inference_mode()
def evaluate(
    model: GPT2LMHeadModel, stories: list[str], tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    """Nats a token and bits a byte of whole stories.

    Each story stands alone after one <|endoftext|>, and its closing <|endoftext|>
    counts as a token of it, but not as bytes. Stories that the context does not hold
    whole are left out.
    """
    eot, context = tokenizer.eos_token_id, model.config.n_positions
    encoded = [(story, tokenizer.encode(story)) for story in stories]
    kept = [(story, ids) for story, ids in encoded if len(ids) + 2 <= context]
    kept.sort(key=lambda pair: len(pair[1]))
    if not kept:
        raise TrainingError(
            f"none of the {len(stories)} stories to validate on fits a context of "
            f"{context} tokens"
        )
    training = model.training
    model.eval()
    nats = tokens = 0.0
    for start in range(0, len(kept), 16):
        rows = [[eot, *ids, eot] for _, ids in kept[start : start + 16]]
        inputs, labels = (tensor.to(model.device) for tensor in pad(rows, eot))
        logits = model(inputs).logits[:, :-1].float().flatten(0, 1)
        nats += F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum").item()
        tokens += sum(len(row) - 1 for row in rows)
    model.train(training)
    size = sum(len(story.encode()) for story, _ in kept)
    return {
        "stories": len(kept),
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / size,
    }


@torch.inference_mode()
def sample(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> str:
    """One sampled story, to look at during training."""
    model.eval()
    inputs = tokenizer(SAMPLE_PROMPT, return_tensors="pt").to(model.device)
    room = model.config.n_positions - inputs["input_ids"].shape[1]
    tokens = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        temperature=0.8,
        top_k=0,
        max_new_tokens=min(120, room),
        pad_token_id=tokenizer.eos_token_id,
    )
    model.train()
    return str(tokenizer.decode(tokens[0]))


# ------------------------------------------------------------------- training


@dataclass(frozen=True)
class Data:
    """A corpus made ready for one recipe."""

    tokenizer: PreTrainedTokenizerFast
    documents: Documents
    validation: list[str]
    steps: int
    corpus_sha256: str

    @property
    def eot(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


def prepare(corpus: Path, recipe: Recipe, tokenizer_from: Path | None) -> Data:
    """Read, split and tokenize a corpus, and count the steps of the recipe."""
    stories, validation = split(read_stories(corpus))
    if tokenizer_from:
        tokenizer = read_tokenizer(tokenizer_from, recipe.vocab_size)
    else:
        tokenizer = train_tokenizer(stories, recipe.vocab_size)
    documents = [tokenizer.encode(story) for story in stories]
    eot = tokenizer.eos_token_id
    rows = len(pack(documents, recipe.n_positions, eot, random.Random(0)))
    steps = int(recipe.epochs * rows / recipe.batch_rows)
    if not validation or rows < 2 * recipe.batch_rows or steps < 1:
        raise TrainingError(
            f"corpus {corpus} is too small: {len(documents)} stories to train on make "
            f"{rows} rows of {recipe.n_positions} tokens, and {len(validation)} are "
            f"left to validate; needed are {2 * recipe.batch_rows} rows (twice "
            "batch_rows), one story to validate, and epochs for at least one step"
        )
    sha256 = hashlib.sha256(corpus.read_bytes()).hexdigest()
    return Data(tokenizer, documents, validation, steps, sha256)


@dataclass
class Training:
    """The state of a run: all that a checkpoint holds, and how to go on from it."""

    recipe: Recipe
    data: Data
    device: str = "cpu"
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = make_model(self.recipe, self.data.eot).to(self.device)
        self.model.train()
        self.optimizers = make_optimizers(self.model, self.recipe)
        self._rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]

    def advance(self, batch: Batch) -> float:
        """Take one step; returns its loss."""
        factor = schedule(self.step, self.data.steps, self.recipe)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = loss_of(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def validate(self, train_loss: float) -> dict[str, float]:
        """Measure the validation loss and note it."""
        losses = evaluate(self.model, self.data.validation, self.data.tokenizer)
        self.history.append({"step": self.step, "train_loss": train_loss, **losses})
        return self.history[-1]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be taken up."""
        vocabulary = self.data.tokenizer.backend_tokenizer.to_str()
        return {
            **asdict(self.recipe),
            "corpus": self.data.corpus_sha256,
            "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint; a crash on the way leaves the former one whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "identity": self.identity(),
        }
        if torch.device(self.device).type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe, corpus and tokenizer."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            # Early checkpoints hold no identity; their shapes must do.
            self._compare(path, state.get("identity", {}))
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(
                self.optimizers, state["optimizers"], strict=True
            ):
                optimizer.load_state_dict(saved)
        except TrainingError:
            raise
        except Exception as error:  # torch has no one class for what it cannot read
            raise TrainingError(
                f"checkpoint {path} is not of this recipe, or damaged: delete it or "
                f"choose another --out ({str(error).splitlines()[0]})"
            ) from error
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state and torch.device(self.device).type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]

    def _compare(self, path: Path, saved: dict[str, Any]) -> None:
        mine = self.identity()
        other = [name for name in saved if saved[name] != mine.get(name)]
        if other:
            what = ", ".join(f"{n}: {saved[n]}, now {mine.get(n)}" for n in other)
            raise TrainingError(
                f"checkpoint {path} is of another recipe ({what}): give that one "
                "again, delete the checkpoint, or choose another --out"
            )


@dataclass(frozen=True)
class Schedule:
    """When a run looks at itself, and when it ends early."""

    eval_every: int = 250
    save_every: int = 500
    stop_after: int | None = None

    def last(self, steps: int) -> int:
        return steps if self.stop_after is None else min(steps, self.stop_after)


def run(
    training: Training,
    checkpoint: Path,
    schedule: Schedule,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Train to the end; False if it was interrupted, with a checkpoint written."""
    data, first = training.data, training.step
    last = schedule.last(data.steps)
    bar = tqdm(total=last, initial=first, mininterval=5.0, desc="training")
    ahead = batches(data.documents, training.recipe, data.eot)
    clock = time.monotonic()
    for batch in islice(ahead, first, last):
        loss = training.advance(batch)
        done, end = training.step, training.step == data.steps
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if done % schedule.eval_every == 0 or end:
            tqdm.write(json.dumps(training.validate(loss)))
        training.seconds += time.monotonic() - clock
        clock = time.monotonic()
        stop = interrupted()
        if done % schedule.save_every == 0 or end:
            # Before the checkpoint: drawing a sample moves the random state.
            tqdm.write(sample(training.model, data.tokenizer))
            training.save(checkpoint)
        elif stop or done == last:
            training.save(checkpoint)
        if stop and done < last:
            bar.close()
            return False
    bar.close()
    return True


class Interrupt:
    """Ctrl-C as a question: the step at hand is finished before the run ends."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._former)  # a second one ends at once

    def __enter__(self) -> Interrupt:
        self._former = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._former)


def export(training: Training, out: Path) -> dict[str, Any]:
    """Write fp16 weights and tokenizer; the losses stated are those of these."""
    data, model = training.data, training.model
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict({k: v.half() for k, v in model.state_dict().items()})
    facts = {
        "corpus_sha256": data.corpus_sha256,
        "train_stories": len(data.documents),
        "train_tokens": data.tokens,
        "validation_stories": len(data.validation),
        "steps": training.step,
        "parameters": model.num_parameters(),
        "training_minutes": round(training.seconds / 60, 1),
        "recipe": asdict(training.recipe),
        "history": training.history,
        "final": evaluate(half, data.validation, data.tokenizer),
    }
    half.half().save_pretrained(out)
    data.tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def train(
    corpus: Path,
    out: Path,
    recipe: Recipe,
    *,
    tokenizer_from: Path | None = None,
    device: str = "cpu",
    schedule: Schedule | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train from the last checkpoint in ``out``, or from nothing, to the end.

    Returns what training.json holds, or None if the run was interrupted.
    """
    data = prepare(corpus, recipe, tokenizer_from)
    print(
        f"{len(data.documents):,} stories to train on ({data.tokens:,} tokens), "
        f"{len(data.validation):,} to validate; {data.steps:,} steps"
    )
    training = Training(recipe, data, device)
    print(f"{training.model.num_parameters():,} parameters")
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        training.load(checkpoint)
        print(f"resumed at step {training.step:,}")
    if not run(training, checkpoint, schedule or Schedule(), interrupted):
        print(f"stopped at step {training.step:,}; the same command goes on from there")
        return None
    facts = export(training, out / "model")
    print(json.dumps(facts["final"]), "->", out / "model")
    return facts


# --------------------------------------------------------------- command line


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be an integer >= 1")
    return value


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--corpus", type=Path, required=True, help=f"{EOT} between documents"
    )
    p.add_argument("--preset", choices=PRESETS, default="tiny")
    p.add_argument("--out", type=Path, required=True, help="for checkpoint and model")
    p.add_argument(
        "--tokenizer",
        type=Path,
        help="folder of a tokenizer to use (default: train one)",
    )
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument(
        "--threads", type=positive, help="CPU threads (default: torch's own)"
    )
    p.add_argument(
        "--eval-every", type=positive, default=250, help="steps between validations"
    )
    p.add_argument(
        "--save-every",
        type=positive,
        default=500,
        help="steps between checkpoints and samples",
    )
    p.add_argument(
        "--stop-after",
        type=positive,
        help="end after this step, as if it were the last",
    )
    group = p.add_argument_group("instead of the preset's")
    for name in OVERRIDES:
        kind = positive if name == "batch_rows" else float
        group.add_argument(f"--{name.replace('_', '-')}", type=kind)
    return p


def check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"--device {device} is not there: {reason}") from error


def main(arguments: list[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    given = {n: getattr(args, n) for n in OVERRIDES if getattr(args, n) is not None}
    recipe = Recipe(**{**asdict(PRESETS[args.preset]), **given})
    try:
        check_device(args.device)
        with Interrupt() as interrupted:
            facts = train(
                args.corpus,
                args.out,
                recipe,
                tokenizer_from=args.tokenizer,
                device=args.device,
                schedule=Schedule(args.eval_every, args.save_every, args.stop_after),
                interrupted=interrupted,
            )
    except TrainingError as error:
        p.exit(2, f"{p.prog}: error: {error}\n")
    except KeyboardInterrupt:  # the second, by somebody in a hurry
        return 130
    return 0 if facts else 130


if __name__ == "__main__":
    raise SystemExit(main())
