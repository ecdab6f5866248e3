"""How long it takes to begin: imports, and the command line's first token.

    python benchmarks/startup.py           measure, and write startup.json: minutes
    python benchmarks/startup.py --quick   try everything once, write nothing
    python benchmarks/startup.py --table   print the table of startup.json

Each is a process of its own, on one thread, from its start to its end. ``transformers``
loads most of itself when it is first used: so it is imported alone, and with the
classes that a GPT-2 and its tokenizer need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import _measure
import torch

PROGRAMS = {
    "import torch": ["-c", "import torch"],
    "import lib": ["-c", "import torch, lib"],
    "import transformers": ["-c", "import torch, transformers"],
    "import GPT-2": [
        "-c",
        "import torch; from transformers import GPT2LMHeadModel, "
        "PreTrainedTokenizerFast",
    ],
    "first token": ["-m", "lib", "Once upon a time", "--max-new-tokens", "1"],
}
PAIRS = [
    ("import torch", "import lib"),
    ("import transformers", "first token"),
    ("import GPT-2", "first token"),
]


def process(arguments: list[str]) -> Callable[[], object]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(
        command, check=True, capture_output=True, env=environment
    )


def rows(quick: bool) -> Iterator[_measure.Row]:
    torch.set_num_threads(1)
    contestants = {name: process(command) for name, command in PROGRAMS.items()}
    first, *_ = PAIRS
    for before, after in [first] if quick else PAIRS:
        yield _row(before, after, contestants, quick)


def _row(
    before: str, after: str, contestants: dict[str, Callable[[], object]], quick: bool
) -> _measure.Row:
    pair = {name: contestants[name] for name in (before, after)}
    return _measure.compare(after, pair, quick=quick, before=before)


COLUMNS: dict[str, _measure.Column] = {
    "program": _measure.fact("case"),
    "time": lambda row: _measure.time_of(row["case"])(row),
    "beside": _measure.fact("before"),
    "its time": lambda row: _measure.time_of(row["before"])(row),
    "times as long": lambda row: _measure.faster_than(row["case"])(row),
}


def main(arguments: Sequence[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
