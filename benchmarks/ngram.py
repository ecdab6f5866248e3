"""One step's n-gram ban on a long text, against ``transformers``.

    python benchmarks/ngram.py           measure, and write ngram.json
    python benchmarks/ngram.py --quick   try everything once, write nothing
    python benchmarks/ngram.py --table   print the table of ngram.json

On one thread. Ours is what a generation runs: each step its memory reads the tokens
that are new, and the banned tokens are written into the logits and taken back. Theirs
reads the text again and copies the logits. Between the two, our stage without memory,
which does the same. The texts are made before, and are as long as the table says when
the first step begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import _measure
import torch
from step import ROOM, History
from transformers import NoRepeatNGramLogitsProcessor

import lib
from lib.pipeline import RememberedBan

BATCH = 4
N = 3
CASES = ((1024, 50_257), (4096, 50_257), (16_384, 50_257), (16_384, 151_936))
STEPS = 8  # steps a call
SAMPLE = 0.02  # seconds a timing: the text grows meanwhile


def taking(
    ban: Callable[[lib.Step], object], texts: list[lib.Step]
) -> Callable[[], None]:
    """A call takes some steps, and the next call those after them."""
    to_come = iter(texts)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                ban(next(to_come))

    return run


def rows(quick: bool) -> Iterator[_measure.Row]:
    torch.set_num_threads(1)
    for length, vocab in CASES[:1] if quick else CASES:
        yield _row(length, vocab, quick)


def _row(length: int, vocab: int, quick: bool) -> _measure.Row:
    history = History(BATCH, length)
    growing = [lib.Step(history.so_far(i), None, i) for i in range(ROOM)]
    of_one_length = [lib.Step(history.latest(i), None, i) for i in range(ROOM)]
    logits = torch.randn(BATCH, vocab, generator=torch.Generator().manual_seed(0))
    pipeline = lib.build_pipeline(lib.SamplingSettings(no_repeat_ngram_size=N))
    alone, memory = pipeline.stages[0], pipeline.with_memory().stages[0].function
    theirs = NoRepeatNGramLogitsProcessor(N)
    assert isinstance(memory, RememberedBan)
    return _measure.compare(
        f"n = {N}",
        {
            "lib": taking(
                lambda step: memory.during(step, logits, lambda: None), growing
            ),
            "without memory": taking(lambda step: alone(step, logits), of_one_length),
            "transformers": taking(
                lambda step: theirs(step.input_ids, logits), of_one_length
            ),
        },
        quick=quick,
        units=STEPS,
        sample=SAMPLE,
        length=length,
        batch=BATCH,
        vocab=vocab,
    )


COLUMNS = {
    "tokens so far": _measure.fact("length"),
    "vocabulary": _measure.fact("vocab"),
    "batch": _measure.fact("batch"),
    "lib": _measure.time_of("lib"),
    "lib without memory": _measure.time_of("without memory"),
    "transformers": _measure.time_of("transformers"),
    "times faster": _measure.faster_than("transformers"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
