"""One step's choice of a token, from logits to id, against ``transformers``.

    python benchmarks/step.py           measure, and write step.json: minutes
    python benchmarks/step.py --quick   try everything once, write nothing
    python benchmarks/step.py --table   print the table of step.json

On one thread. Ours is what the generation loop does between two calls of the model:
draw uniforms (in blocks of steps), check the logits, run the pipeline with its memory
of the history, choose. Theirs is what ``model.generate`` does there: its
``LogitsProcessorList``, softmax and ``torch.multinomial``. Both get the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import _measure
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import lib
from lib.generator import luck_of

HISTORY = 1024  # tokens so far
STEPS = 8  # steps of logits, gone through again and again
WORDS = 2000  # kinds of tokens in the history: about one token a step is banned
ROOM = 30_000  # steps that the history has room for

FULL = {"no_repeat_ngram_size": 3, "temperature": 0.8, "top_k": 50, "top_p": 0.9}
TOP_P = {"top_p": 0.9}
TEMPERATURE = {"temperature": 0.8}
HOT = {"temperature": 10.0, "top_p": 0.9}


def gpt2_like(rows: int, vocab: int, seed: int = 0) -> Tensor:
    """Logits that imitate those of GPT-2, ``(rows, vocab)``; they are drawn, not run.

    A bell-shaped bulk of the vocabulary, and a head that the context lifts out of it,
    so far that the entropies of the rows are spread evenly from 0.3 to 7 nats.
    """
    g = torch.Generator().manual_seed(seed)
    bulk = 2.3 * torch.randn((rows, vocab), generator=g)
    head = torch.empty((rows, vocab)).exponential_(generator=g)
    head = head.masked_fill(torch.rand((rows, vocab), generator=g) > 0.004, 0.0)
    wanted = torch.linspace(0.3, 7.0, rows)[torch.randperm(rows, generator=g)]
    low, high = torch.zeros(rows, 1), torch.full((rows, 1), 40.0)
    for _ in range(20):  # the further the head is lifted, the lower the entropy
        lift = (low + high) / 2
        too_flat = lib.entropy(bulk + lift * head)[:, None] > wanted[:, None]
        low, high = torch.where(too_flat, lift, low), torch.where(too_flat, high, lift)
    return bulk + high * head - 35.0  # where GPT-2's logits lie


def zipf(rows: int, vocab: int, exponent: float, seed: int = 0) -> Tensor:
    """Logits of Zipf's law, p proportional to rank^-exponent, in random order."""
    g = torch.Generator().manual_seed(seed)
    z = -exponent * torch.log(torch.arange(1.0, vocab + 1))
    return torch.stack([z[torch.randperm(vocab, generator=g)] for _ in range(rows)])


LOGITS: dict[str, Callable[[int, int], Tensor]] = {
    "GPT-2-like": gpt2_like,
    "Zipf 1.1": lambda rows, vocab: zipf(rows, vocab, 1.1),
    "Zipf 1.01": lambda rows, vocab: zipf(rows, vocab, 1.01),
    "all equal": lambda rows, vocab: torch.zeros(rows, vocab),
}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    settings: dict[str, Any]
    logits: str
    vocab: int
    batch: int
    at_least: float  # how many times faster it has to be

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())


def cases() -> list[Case]:
    small, large = 50_257, 151_936
    usual = ("GPT-2-like", "Zipf 1.1")
    batches = (1, 8, 32)
    return [
        *(Case(FULL, z, small, b, 10) for z in usual for b in batches),
        *(Case(FULL, z, large, b, 15) for z in usual for b in batches),
        *(Case(TOP_P, z, small, b, 8) for z in usual for b in batches),
        *(Case(TEMPERATURE, z, small, b, 4) for z in usual for b in batches),
        *(
            Case(s, z, small, b, 1)
            for s in (FULL, TOP_P, TEMPERATURE)
            for z in ("Zipf 1.01", "all equal")
            for b in (1, 8)
        ),
        *(Case(HOT, "GPT-2-like", small, b, 1) for b in (1, 8)),
    ]


class History:
    """Token ids of a text that goes on and on, ``(batch, length)``."""

    def __init__(self, batch: int, length: int = HISTORY) -> None:
        g = torch.Generator().manual_seed(1)
        odds = 1 / torch.arange(1.0, WORDS + 1)
        count = batch * (length + ROOM)
        draws = torch.multinomial(odds, count, replacement=True, generator=g)
        self._ids, self._length = draws.view(batch, -1), length

    def so_far(self, step: int) -> Tensor:
        return self._ids[:, : self._length + step]

    def latest(self, step: int) -> Tensor:
        return self._ids[:, step : self._length + step]


def ours(
    settings: dict[str, Any], logits: Sequence[Tensor], history: History
) -> Callable[[], None]:
    """A call goes through all of ``logits``, and further on from call to call."""
    chosen = lib.SamplingSettings(do_sample=True, **settings)
    pipeline = lib.build_pipeline(chosen).with_memory()
    rows = len(logits[0])
    request: Any = SimpleNamespace(
        decoder_input_ids=history.so_far(0),
        seeds=range(rows),
        samples=1,
        max_new_tokens=ROOM,
    )
    luck = luck_of(request)
    live = torch.ones(rows, dtype=torch.bool)
    index = 0

    def run() -> None:
        nonlocal index
        with torch.inference_mode():
            for z in logits:
                step = lib.Step(history.so_far(index), None, index, live=live)
                pipeline.choose(step, z, luck(index))
                index += 1

    return run


def theirs(
    settings: dict[str, Any], logits: Sequence[Tensor], history: History
) -> Callable[[], None]:
    """The same for ``transformers``; its ban always reads the latest HISTORY tokens."""
    makers: dict[str, Callable[[Any], Any]] = {
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
    }
    processors = LogitsProcessorList(
        makers[name](value) for name, value in settings.items()
    )
    index = 0

    def run() -> None:
        nonlocal index
        with torch.inference_mode():
            for z in logits:
                scores = processors(history.latest(index), z)
                probabilities = torch.softmax(scores, dim=-1)
                torch.multinomial(probabilities, num_samples=1).squeeze(1)
                index = (index + 1) % ROOM

    return run


def nucleus_sizes(settings: dict[str, Any], logits: Sequence[Tensor]) -> list[int]:
    """Tokens that the settings keep: least, median, most over all rows."""
    pipeline = lib.build_pipeline(
        lib.SamplingSettings(do_sample=True, **{**settings, "no_repeat_ngram_size": 0})
    )
    sizes = []
    for z in logits:
        step = lib.Step(torch.zeros((len(z), 1), dtype=torch.long))
        kept = pipeline.process(step, z) > -torch.inf
        sizes += kept.sum(dim=-1).tolist()
    sizes.sort()
    return [sizes[0], sizes[len(sizes) // 2], sizes[-1]]


def rows(quick: bool) -> Iterator[_measure.Row]:
    torch.set_num_threads(1)
    for case in cases()[::9] if quick else cases():
        yield _row(case, quick)


def _row(case: Case, quick: bool) -> _measure.Row:
    steps = 1 if quick else STEPS
    together = LOGITS[case.logits](steps * case.batch, case.vocab)
    logits = together.view(steps, case.batch, case.vocab).unbind()
    history = History(case.batch)
    return _measure.compare(
        str(case),
        {
            "lib": ours(case.settings, logits, history),
            "transformers": theirs(case.settings, logits, history),
        },
        quick=quick,
        units=steps,
        settings=case.settings,
        logits=case.logits,
        vocab=case.vocab,
        batch=case.batch,
        kept=nucleus_sizes(case.settings, logits),
        at_least=case.at_least,
    )


def _kept(row: _measure.Row) -> str:
    least, median, most = row["kept"]
    return f"{median} ({least}–{most})" if least < most else str(median)


COLUMNS = {
    "settings": _measure.fact("case"),
    "logits": _measure.fact("logits"),
    "vocabulary": _measure.fact("vocab"),
    "batch": _measure.fact("batch"),
    "kept tokens": _kept,
    "times faster": _measure.faster_than("transformers"),
    "aim": _measure.fact("at_least"),
    "lib": _measure.time_of("lib"),
    "transformers": _measure.time_of("transformers"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
