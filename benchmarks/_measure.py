"""Measuring side by side: several ways to do one thing, timed in turn.

A machine that others use too is faster in one minute than in the next. So every figure
is a ratio: each round times A, then B, then C, and a ratio compares the times of one
round. Reported are the medians over rounds, and the range of the ratios.

A script has ``rows(quick)``, which measures, and a ``main(arguments=None)`` that hands
it to the ``main`` here:

    python benchmarks/step.py           measure, print a table, write step.json
    python benchmarks/step.py --quick   try everything once, write nothing
    python benchmarks/step.py --table   print the table of step.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from timeit import Timer
from typing import Any

import torch

ROUNDS = 9  # an odd number, so that a median is one of the measurements
SAMPLE = 0.05  # seconds

Row = dict[str, Any]
Column = Callable[[Row], str]


def compare(
    case: str,
    contestants: Mapping[str, Callable[[], object]],
    *,
    quick: bool,
    units: int = 1,
    sample: float = SAMPLE,
    **facts: Any,
) -> Row:
    """Time the contestants in turn; the first is the one the others are held against.

    Args:
        case: what is done, as the table calls it.
        contestants: name and function; a function that uses a GPU waits for it.
        quick: one call each, to see that everything runs.
        units: how many units of work, such as tokens, one call does.
        sample: seconds that one timing lasts at least; short calls are repeated.
        **facts: stored with the row.

    Returns:
        ``seconds``: each contestant's median time for one unit; ``times_faster``: how
        often the first one's time goes into each other one's, [lowest, median,
        highest] over rounds.
    """
    calls = {name: 1 if quick else _calls(f, sample) for name, f in contestants.items()}
    rounds = [
        {
            name: Timer(f).timeit(calls[name]) / calls[name] / units
            for name, f in contestants.items()
        }
        for _ in range(1 if quick else ROUNDS)
    ]
    first, *others = contestants
    return {
        "case": case,
        **facts,
        "seconds": {
            name: _digits(statistics.median(r[name] for r in rounds))
            for name in contestants
        },
        "times_faster": {
            name: spread([r[name] / r[first] for r in rounds]) for name in others
        },
    }


def _calls(function: Callable[[], object], sample: float) -> int:
    """How many calls fill a timing; what is done once only is done here."""
    function()
    return max(1, round(sample / Timer(function).timeit(1)))


def spread(ratios: Sequence[float]) -> list[float]:
    """Lowest, median, highest."""
    return [_digits(f(ratios)) for f in (min, statistics.median, max)]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and when."""
    packages = ["torch", "transformers", "numpy"]
    packages += ["ctranslate2"] if find_spec("ctranslate2") else []
    found = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    """The processor's name, which Python has no portable way to ask for."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def time_of(name: str) -> Column:
    """A column: the contestant's time for one unit."""
    return lambda row: _time(row["seconds"][name])


def faster_than(name: str) -> Column:
    """A column: how many times faster the first contestant is, and its range."""

    def cell(row: Row) -> str:
        low, middle, high = row["times_faster"][name]
        return f"{middle:.3g} ({low:.3g}–{high:.3g})"

    return cell


def fact(name: str) -> Column:
    """A column: one of the row's facts, as it stands."""
    return lambda row: str(row[name])


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def table(rows: Sequence[Row], columns: Mapping[str, Column]) -> str:
    """The rows as a Markdown table."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row) for cell in columns.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    script: str,
    rows: Callable[[bool], Iterable[Row]],
    columns: Mapping[str, Column],
    arguments: Sequence[str] | None = None,
) -> None:
    """The command line of a script, which passes its ``__file__``.

    Rows are told as they are measured. A run that is interrupted prints those it has,
    and leaves the file of an earlier, complete one.
    """
    results = Path(script).with_suffix(".json")
    parser = argparse.ArgumentParser(prog=f"python benchmarks/{Path(script).name}")
    parser.add_argument("--quick", action="store_true", help="try everything once")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(json.loads(results.read_text("utf-8"))["rows"], columns))
        return
    measured: list[Row] = []
    try:
        for row in rows(options.quick):
            measured.append(row)
            print(f"row {len(measured)}: {_told(row)}", file=sys.stderr, flush=True)
    finally:
        print(table(measured, columns))
    if not options.quick:
        # The machine is described after the run, which sets the number of threads.
        data = {"machine": machine(), "rounds": ROUNDS, "rows": measured}
        text = json.dumps(data, indent=1, ensure_ascii=False)
        results.write_text(text + "\n", "utf-8")


def _told(row: Row) -> str:
    """A row in a line, for who waits."""
    return ", ".join(f"{k} {v}" for k, v in row.items() if not isinstance(v, dict))
