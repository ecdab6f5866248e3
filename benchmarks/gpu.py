"""Whole generations on a GPU, tokens per second, against ``model.generate``.

    python benchmarks/gpu.py           measure, and write gpu.json: minutes
    python benchmarks/gpu.py --quick   try everything once, small, on any machine
    python benchmarks/gpu.py --table   print the table of gpu.json

GPT-2 of 124M parameters and a Llama of 1.2 billion, random weights, bfloat16. Theirs
is measured as it comes, and with a static cache, for which ``transformers`` compiles
the step. "One reading" reads as many bytes as a step must, once a step: the share of
it that a generation reaches is its part of the memory bandwidth.

The loop of ours waits for the device every 16 steps, to look for the end and for
faults in the logits. A ban of n-grams reads each token on the host: its rows show what
that costs; a stop string costs the same.
"""

from __future__ import annotations

from collections.abc import Callable
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


def ours(model: Any, ids: Tensor, new: int, **settings: Any) -> Tensor:
    settings = {"eos_token_id": -1, "seed": 1, **settings}
    return lib.generate(model, ids, max_new_tokens=new, **settings)


def theirs(model: Any, ids: Tensor, new: int, **settings: Any) -> Tensor:
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


def rows(quick: bool) -> list[_measure.Row]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        raise SystemExit("this machine has no GPU: --quick tries everything on the CPU")
    found = []
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build(quick).eval().to(device, torch.bfloat16)
        memory = torch.ones(bytes_read(model) // 4, device=device)
        for batch in (1, 32):
            for choice in CHOICES:
                found.append(race(name, model, memory, batch, choice, quick=quick))
    return found


def race(
    name: str, model: Any, memory: Tensor, batch: int, choice: str, *, quick: bool
) -> _measure.Row:
    new = 4 if quick else 128
    ids = torch.randint(1, 500, (batch, PROMPT), device=model.device)
    call = {"model": model, "ids": ids, "new": new, **CHOICES[choice]}
    calls = {"lib": partial(ours, **call), "transformers": partial(theirs, **call)}
    if not quick:  # compiling takes a minute, and a compiler on the CPU
        calls["compiled"] = partial(theirs, **call, cache_implementation="static")
    readings = {"one reading": partial(one_reading, memory, new)}
    contestants = {key: waiting(run) for key, run in {**calls, **readings}.items()}
    facts = {"batch": batch, "choice": choice, "new_tokens": new}
    return _measure.compare(name, contestants, quick=quick, units=batch * new, **facts)


def per_second(row: _measure.Row) -> str:
    return f"{1 / row['seconds']['lib']:.4g}"


def of_the_limit(row: _measure.Row) -> str:
    return f"{row['times_faster']['one reading'][1]:.0%}"


def than_compiled(row: _measure.Row) -> str:
    compiled = "compiled" in row["times_faster"]
    return _measure.faster_than("compiled")(row) if compiled else ""


COLUMNS: dict[str, _measure.Column] = {
    "model": _measure.fact("case"),
    "batch": _measure.fact("batch"),
    "choice": _measure.fact("choice"),
    "lib, tokens/s": per_second,
    "times faster than transformers": _measure.faster_than("transformers"),
    "than compiled": than_compiled,
    "of the bandwidth": of_the_limit,
}


def main(arguments: list[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
