"""One step's n-gram ban on a long text, against ``transformers``.

    python benchmarks/ngram.py           measure, and write ngram.json
    python benchmarks/ngram.py --quick   try everything once, write nothing
    python benchmarks/ngram.py --table   print the table of ngram.json

On one thread. Ours is what a generation runs: each step its memory reads the tokens
that are new, and the banned tokens are written into the logits and taken back. Theirs
reads the text again and copies the logits. Between the two, our stage without memory,
which does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import _measure
import torch
from step import History
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

import lib
from lib.pipeline import RememberedBan

BATCH = 4
VOCAB = 50_257
N = 3
LENGTHS = (1024, 4096, 16_384)
STEPS = 8  # steps a call


def steps(
    ban: Callable[[Tensor, Tensor, int], object],
    ids: Callable[[int], Tensor],
    logits: Tensor,
) -> Callable[[], None]:
    """A call takes some steps, and the next call those after them."""
    index = 0

    def run() -> None:
        nonlocal index
        with torch.inference_mode():
            for _ in range(STEPS):
                ban(ids(index), logits, index)
                index += 1

    return run


def rows(quick: bool) -> Iterator[_measure.Row]:
    torch.set_num_threads(1)
    for length in LENGTHS[:1] if quick else LENGTHS:
        yield _row(length, quick)


def _row(length: int, quick: bool) -> _measure.Row:
    history = History(BATCH, length)
    logits = torch.randn(BATCH, VOCAB, generator=torch.Generator().manual_seed(0))
    pipeline = lib.build_pipeline(lib.SamplingSettings(no_repeat_ngram_size=N))
    alone, memory = pipeline.stages[0], pipeline.with_memory().stages[0].function
    theirs = NoRepeatNGramLogitsProcessor(N)
    assert isinstance(memory, RememberedBan)

    def applied(ids: Tensor, z: Tensor, index: int) -> None:
        with memory.applied(lib.Step(ids, None, index), z):
            pass

    return _measure.compare(
        f"n = {N}",
        {
            "lib": steps(applied, history.so_far, logits),
            "without memory": steps(
                lambda ids, z, index: alone(lib.Step(ids, None, index), z),
                history.latest,
                logits,
            ),
            "transformers": steps(
                lambda ids, z, index: theirs(ids, z), history.latest, logits
            ),
        },
        quick=quick,
        units=STEPS,
        length=length,
        batch=BATCH,
        vocab=VOCAB,
    )


COLUMNS = {
    "tokens so far": _measure.fact("length"),
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
