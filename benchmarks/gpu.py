"""Whole generations on a GPU, tokens per second, against ``model.generate``.

    python benchmarks/gpu.py           measure, and write gpu.json: minutes
    python benchmarks/gpu.py --quick   try everything once, small, on any machine
    python benchmarks/gpu.py --table   print the table of gpu.json

GPT-2 of 124M parameters and a Llama of 1.2 billion, random weights, bfloat16. Ours and
theirs are measured as they come, and compiled: theirs with a static cache, for which
``transformers`` compiles the step; ours by ``model.compile()`` before the generation.
"One reading" reads as many bytes as a step must, once a step; the share of it that our
steps reach, the prompt not counted, is their part of the memory bandwidth.

The loop of ours waits for the device every 16 steps, to look for the end and for
faults in the logits. A ban of n-grams reads each token on the host: its row shows what
that costs; a stop string costs the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import _measure
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lib

PROMPT = 16
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 50}
BANNED: dict[str, Any] = {**GREEDY, "no_repeat_ngram_size": 3}
CHOICES = {"greedy": GREEDY, "sampled": SAMPLED, "greedy, n-gram ban": BANNED}
# Matrices times one vector as sums of products, in the shapes found fastest.
COMPILED: dict[str, Any] = {
    "dynamic": False,
    "options": {"coordinate_descent_tuning": True},
}


def gpt2(quick: bool) -> Any:
    small = {"n_layer": 2, "n_embd": 64, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**(small if quick else {})))


def llama(quick: bool) -> Any:
    """The shape of Llama 3.2 1B."""
    full = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    full |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    sizes = small if quick else full
    config = LlamaConfig(
        **sizes, max_position_embeddings=1024, tie_word_embeddings=True
    )
    return LlamaForCausalLM(config)


MODELS: dict[str, Callable[[bool], Any]] = {"GPT-2 124M": gpt2, "Llama 1.2B": llama}


def waiting(call: Callable[[], object]) -> Callable[[], object]:
    """The call, timed until the device has finished."""

    def run() -> object:
        result = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return run


def ours(model: Any, *, ids: Tensor, new: int, **settings: Any) -> Tensor:
    settings = {"eos_token_id": -1, "seed": 1, **settings}
    return lib.generate(model, ids, max_new_tokens=new, **settings)


def theirs(model: Any, *, ids: Tensor, new: int, **settings: Any) -> Tensor:
    mask = torch.ones_like(ids)
    lengths = {"max_new_tokens": new, "min_new_tokens": new}
    settings = {"pad_token_id": 0, **lengths, **settings}
    found: Tensor = model.generate(ids, attention_mask=mask, **settings)
    return found


def one_reading(memory: Tensor, steps: int) -> None:
    for _ in range(steps):
        memory.sum()


def bytes_read(model: Any) -> int:
    """Bytes that a step must read: all weights; of wpe it takes a row."""
    places = getattr(getattr(model, "transformer", None), "wpe", None)
    spared = 0 if places is None else places.weight.nbytes
    return sum(p.nbytes for p in model.parameters()) - spared


def rows(quick: bool) -> Iterator[_measure.Row]:
    if not (torch.cuda.is_available() or quick):
        raise SystemExit("this machine has no GPU: --quick tries everything on the CPU")
    for name in MODELS:
        for batch in (1, 32):
            yield from races(name, batch, quick=quick)


def races(name: str, batch: int, *, quick: bool) -> Iterator[_measure.Row]:
    """All choices of one model and batch."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # what was compiled for another batch would grow general
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MODELS[name](quick).eval().to(torch.bfloat16)
    choices = CHOICES if batch == 1 else ("greedy", "sampled")
    for choice in choices:
        yield race(name, model, batch, choice, quick=quick)
    if batch == 1 and not quick:  # compiling takes a minute, and a compiler
        yield race(name, model, batch, "greedy", compiled=True, quick=quick)


def race(
    name: str,
    model: Any,
    batch: int,
    choice: str,
    *,
    quick: bool,
    compiled: bool = False,
) -> _measure.Row:
    """One row; with ``compiled`` ours is compiled, and theirs only so."""
    new = 4 if quick else 128
    ids = torch.randint(1, 500, (batch, PROMPT), device=model.device)
    mine = model
    if compiled:
        mine = copy.deepcopy(model)  # theirs would call what is compiled for ours
        mine.compile(**COMPILED)
    begin = {"ids": ids, **CHOICES[choice]}
    call = {**begin, "new": new}
    memory = torch.ones(bytes_read(model) // 4, device=model.device)
    contestants: dict[str, Callable[[], object]] = {"lib": partial(ours, mine, **call)}
    if not compiled:
        contestants["transformers"] = partial(theirs, model, **call)
    if not quick and choice in ("greedy", "sampled"):
        static = {**call, "cache_implementation": "static"}
        contestants["compiled"] = partial(theirs, model, **static)
    contestants["prompt"] = partial(ours, model, new=1, **begin)
    contestants["one reading"] = partial(one_reading, memory, new)
    return _measure.compare(
        name,
        {key: waiting(run) for key, run in contestants.items()},
        quick=quick,
        units=batch * new,
        batch=batch,
        choice=choice,
        compiled=compiled,
        new_tokens=new,
    )


def per_second(row: _measure.Row) -> str:
    return f"{float(format(1 / row['seconds']['lib'], '.3g')):,g}"


def of_the_limit(row: _measure.Row) -> str:
    """What a reading takes of a step's time; the prompt's is left out."""
    seconds, new = row["seconds"], row["new_tokens"]
    steps = (seconds["lib"] - seconds["prompt"]) * new / (new - 1)
    return f"{seconds['one reading'] / steps:.0%}"


def than(name: str) -> _measure.Column:
    return lambda row: (
        _measure.faster_than(name)(row) if name in row["times_faster"] else ""
    )


COLUMNS: dict[str, _measure.Column] = {
    "model": _measure.fact("case"),
    "batch": _measure.fact("batch"),
    "choice": lambda row: row["choice"] + (", compiled" if row["compiled"] else ""),
    "lib, tokens/s": per_second,
    "times faster than transformers": than("transformers"),
    "than transformers compiled": than("compiled"),
    "of the bandwidth": of_the_limit,
}


def main(arguments: list[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
