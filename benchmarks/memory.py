"""The memory of a generation: its peak, and whether it grows from one to the next.

    python benchmarks/memory.py           measure, write memory.json: an hour and a half
    python benchmarks/memory.py --quick   try everything once, write nothing
    python benchmarks/memory.py --table   print the table of memory.json

Each figure comes from processes of its own, as Linux counts it: the bytes resident
before the generation, with the model in them, and their peak during it, medians over
rounds. GPT-2 runs on weights of its own layout (see lib/gpt2.py); a Llama takes the
general path.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _measure
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lib
import lib.gpt2

PROMPT = 16


def llama() -> Any:
    """A Llama of 42M parameters with the context of GPT-2."""
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "max_position_embeddings": 1024}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16_000, **sizes, **heads)).eval()


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config()).eval()


def packed_gpt2() -> Any:
    model = gpt2()
    lib.gpt2.pack(model)
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "Llama 42M": llama,
    "GPT-2 124M": gpt2,
    "GPT-2 124M, packed": packed_gpt2,
    "tiny": lambda: lib.load("tiny", device="cpu")[0],
}


def ours(model: Any, ids: torch.Tensor, new: int) -> None:
    lib.generate(model, ids, max_new_tokens=new, eos_token_id=-1)


def theirs(model: Any, ids: torch.Tensor, new: int) -> None:
    lengths = {"max_new_tokens": new, "min_new_tokens": new}
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)


WAYS = {"lib": ours, "transformers": theirs}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or (VmHWM) at their peak."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak(model: str, way: str, rows: int, new: int) -> tuple[int, int]:
    """Bytes before one generation, and the most during it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    subject = MODELS[model]()
    ids = torch.randint(1, 1000, (rows, PROMPT))
    WAYS[way](subject, ids[:1], 2)  # what is set up once is no growth
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak starts anew
    WAYS[way](subject, ids, new)
    return before, resident("VmHWM")


def growth(model: str, count: int) -> int:
    """Bytes by which the last nine tenths of ``count`` generations grow."""
    torch.set_num_threads(1)
    subject = MODELS[model]()
    ids = torch.randint(1, 1000, (1, PROMPT))
    settled = 0
    for index in range(count):
        if index == count // 10:
            settled = resident()
        lib.generate(subject, ids, max_new_tokens=4, do_sample=True, top_p=0.9)
    return resident() - settled


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What a function finds in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def megabytes(size: float) -> float:
    return round(size / 1e6, 1)


def of_one(model: str, batch: int, new: int, rounds: int) -> _measure.Row:
    """Peaks of a generation, ours and theirs in turn, each in a fresh process."""
    taken = [
        {way: alone(peak, model, way, batch, new) for way in WAYS}
        for _ in range(rounds)
    ]
    row: _measure.Row = {"case": f"{new} new tokens", "model": model, "batch": batch}
    for way in WAYS:
        row[way] = {
            moment: megabytes(statistics.median(found[way][at] for found in taken))
            for at, moment in enumerate(("before", "peak"))
        }
    shares = [found["lib"][1] / found["transformers"][1] for found in taken]
    return {**row, "of_theirs": _measure.spread(shares)}


def rows(quick: bool) -> Iterator[_measure.Row]:
    if quick:
        cases, new, count, rounds = [("tiny", 1)], 4, 10, 1
    else:
        cases = [("Llama 42M", 1), ("Llama 42M", 8)]
        cases += [("GPT-2 124M", 1), ("GPT-2 124M, packed", 1)]
        new, count, rounds = 1000, 1000, _measure.ROUNDS
    for model, batch in cases:
        yield of_one(model, batch, new, rounds)
    for model in ("tiny",) if quick else ("tiny", "Llama 42M"):
        grown = megabytes(alone(growth, model, count))
        facts = {"case": f"{count} generations", "model": model, "batch": 1}
        yield {**facts, "growth": grown}


def bytes_of(way: str, moment: str) -> _measure.Column:
    return lambda row: f"{row[way][moment]:.0f} MB" if way in row else ""


def ratio(row: _measure.Row) -> str:
    if "of_theirs" not in row:
        return ""
    low, middle, high = row["of_theirs"]
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


COLUMNS: dict[str, _measure.Column] = {
    "what": _measure.fact("case"),
    "model": _measure.fact("model"),
    "batch": _measure.fact("batch"),
    "lib, before": bytes_of("lib", "before"),
    "lib, peak": bytes_of("lib", "peak"),
    "transformers, before": bytes_of("transformers", "before"),
    "transformers, peak": bytes_of("transformers", "peak"),
    "peak against theirs": ratio,
    "growth": lambda row: f"{row['growth']:.1f} MB" if "growth" in row else "",
}


def main(arguments: list[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
