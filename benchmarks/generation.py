"""Whole generations, tokens per second, against ``model.generate`` and CTranslate2.

    python benchmarks/generation.py           measure, write generation.json: 15 minutes
    python benchmarks/generation.py --quick   try everything once, write nothing
    python benchmarks/generation.py --table   print the table of generation.json

The embedded model on one thread, a GPT-2 of 124M parameters with random weights on
two. All contestants continue the same prompts by the same number of tokens, with the
same settings. Greedy texts are first compared: they must be equal token for token.

No step is faster than one reading of the weights. The contestant "one reading" reads
as many bytes as a step must, once a step, by summing floats, in the same rounds.

CTranslate2 takes part where it is installed (benchmarks/requirements.txt); its
converter runs here, on the same weights, in a process of its own.
"""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _measure
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

import lib

PROMPT = 16  # tokens
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 50}
SAMPLED["top_p"] = 0.95
CHOICES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": SAMPLED,
}

Contestants = dict[str, Callable[[], object]]


def ours(model: Any, ids: Tensor, new: int, **settings: Any) -> Tensor:
    settings = {"eos_token_id": -1, "seed": 1, **settings}
    return lib.generate(model, ids, max_new_tokens=new, **settings)


def theirs(model: Any, ids: Tensor, new: int, **settings: Any) -> Tensor:
    torch.manual_seed(1)
    mask = torch.ones_like(ids)
    lengths = {"max_new_tokens": new, "min_new_tokens": new}
    settings = {"pad_token_id": 0, **lengths, **settings}
    found: Tensor = model.generate(ids, attention_mask=mask, **settings)
    return found


@torch.no_grad()
def without_cache(model: Any, ids: Tensor, new: int) -> Tensor:
    """The loop in which each step reads the whole text again."""
    for _ in range(new):
        best = model(ids).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


def ctranslate2_of(model: Any) -> Any:
    """The model in CTranslate2, float32, on as many threads as torch has."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    end = model.config.vocab_size - 1

    class Vocabulary:
        """Names for tokens: the model has no text."""

        unk_token = bos_token = eos_token = str(end)

        def get_vocab(self) -> dict[str, int]:
            return {str(token): token for token in range(end + 1)}

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_tokenizer(self, *_: Any, **__: Any) -> Vocabulary:
            return Vocabulary()

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        converted = str(Path(folder) / "converted")
        Converter(folder).convert(converted)
        return ctranslate2.Generator(
            converted,
            device="cpu",
            compute_type="float32",
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )


def with_ctranslate2(
    engine: Any, prompts: list[list[int]], new: int, **settings: Any
) -> list[list[int]]:
    """The new tokens."""
    sampling = {"sampling_topk": 1}
    if settings.get("do_sample"):
        names = {"temperature": "sampling_temperature", "top_p": "sampling_topp"}
        names["top_k"] = "sampling_topk"
        sampling = {name: settings[key] for key, name in names.items()}
    results = engine.generate_batch(
        [[str(token) for token in row] for row in prompts],
        max_length=new,
        min_length=new,
        end_token=[],
        include_prompt_in_result=False,
        **sampling,
    )
    return [[int(t) for t in r.sequences[0]] for r in results]


def serve(connection: Connection, quick: bool) -> None:
    """CTranslate2 in a process of its own, a request at a time.

    In the same process its threads and PyTorch's slow each other down by a quarter,
    also in turn.
    """
    disable_progress_bar()
    engine = ctranslate2_of(gpt2_model(quick))
    with suppress(EOFError):  # nobody asks any more
        while True:
            prompts, new, settings = connection.recv()
            connection.send(with_ctranslate2(engine, prompts, new, **settings))


def elsewhere(quick: bool) -> Callable[..., Tensor]:
    """CTranslate2 as a contestant."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=serve, args=(there, quick), daemon=True).start()

    def call(ids: Tensor, new: int, **settings: Any) -> Tensor:
        here.send((ids.tolist(), new, settings))
        return torch.cat([ids, torch.tensor(here.recv())], dim=1)

    return call


def one_reading(memory: Tensor, steps: int) -> None:
    for _ in range(steps):
        memory.sum()


def weights_read(model: Any) -> int:
    """Bytes that a step must read: all but the embeddings, of which it takes a row."""
    embeddings = {model.transformer.wpe.weight.data_ptr()}
    if model.lm_head.weight is not model.transformer.wte.weight:
        embeddings.add(model.transformer.wte.weight.data_ptr())
    return sum(p.nbytes for p in model.parameters() if p.data_ptr() not in embeddings)


def race(
    name: str,
    contestants: Mapping[str, Callable[..., Tensor]],
    ids: Tensor,
    new: int,
    choice: str,
    *,
    quick: bool,
    memory: Tensor | None = None,
) -> _measure.Row:
    """One row of the table; ``memory`` is as large as what a step must read."""
    settings = CHOICES[choice]
    calls: Contestants = {
        key: partial(call, ids, new, **settings) for key, call in contestants.items()
    }
    if choice == "greedy":
        wanted, *others = (call() for call in calls.values())
        assert all(torch.equal(wanted, other) for other in others), "texts differ"
        assert len(wanted[:, PROMPT:].unique()) > new // 8, "the texts are in a loop"
    if memory is not None:
        calls["one reading"] = partial(one_reading, memory, new)
    rows = len(ids)
    facts = {"batch": rows, "choice": choice, "new_tokens": new}
    return _measure.compare(name, calls, quick=quick, units=rows * new, **facts)


def prompts(rows: int, vocab: int) -> Tensor:
    source = torch.Generator().manual_seed(rows)
    return torch.randint(1, vocab - 1, (rows, PROMPT), generator=source)


def embedded(quick: bool) -> Iterator[_measure.Row]:
    """The embedded model, its vocabulary's random words for a prompt, one thread."""
    torch.set_num_threads(1)
    model, _ = lib.load("tiny", device="cpu")
    contestants = {"lib": partial(ours, model), "transformers": partial(theirs, model)}
    for rows in (1, 8):
        ids = prompts(rows, model.config.vocab_size)
        for choice in CHOICES:
            new = 4 if quick else 128
            yield race("tiny", contestants, ids, new, choice, quick=quick)
    naive = {
        "lib": partial(ours, model, ids[:1], new, do_sample=False),
        "without a cache": partial(without_cache, model, ids[:1], new),
    }
    facts = {"batch": 1, "choice": "greedy", "new_tokens": new}
    yield _measure.compare("tiny", naive, quick=quick, units=new, **facts)


def gpt2_model(quick: bool) -> Any:
    """The configuration of GPT-2, the same random weights each time, two threads."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    small = {"n_layer": 2, "n_embd": 64, "n_head": 2} if quick else {}
    # With the usual initializer_range of 0.02 a greedy text repeats one token.
    return GPT2LMHeadModel(GPT2Config(initializer_range=0.1, **small)).eval()


def gpt2(quick: bool) -> Iterator[_measure.Row]:
    model = gpt2_model(quick)
    contestants = {"lib": partial(ours, model), "transformers": partial(theirs, model)}
    if find_spec("ctranslate2"):
        contestants["CTranslate2"] = elsewhere(quick)
    new, memory = (4 if quick else 64), torch.ones(weights_read(model) // 4)
    for rows in (1, 8):
        ids = prompts(rows, model.config.vocab_size)
        for choice in CHOICES:
            facts = {"quick": quick, "memory": memory}
            yield race("GPT-2 124M", contestants, ids, new, choice, **facts)
    yield bfloat16(model, new, quick)


def bfloat16(model: Any, new: int, quick: bool) -> _measure.Row:
    """Half the bytes, against ours in float32."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    ids = prompts(1, model.config.vocab_size)
    calls: Contestants = {
        "lib, bfloat16": partial(ours, half, ids, new, do_sample=False),
        "lib": partial(ours, model, ids, new, do_sample=False),
    }
    facts = {"batch": 1, "choice": "greedy", "new_tokens": new}
    return _measure.compare("GPT-2 124M", calls, quick=quick, units=new, **facts)


def rows(quick: bool) -> Iterator[_measure.Row]:
    disable_progress_bar()
    yield from embedded(quick)
    yield from gpt2(quick)


def per_second(name: str) -> _measure.Column:
    def cell(row: _measure.Row) -> str:
        seconds = row["seconds"].get(name)
        return f"{float(f'{1 / seconds:.3g}'):,g}" if seconds else ""

    return cell


def faster_than(name: str) -> _measure.Column:
    def cell(row: _measure.Row) -> str:
        return _measure.faster_than(name)(row) if name in row["times_faster"] else ""

    return cell


def of_the_limit(row: _measure.Row) -> str:
    share = row["times_faster"].get("one reading")
    return f"{share[1]:.0%}" if share else ""


COLUMNS = {
    "model": _measure.fact("case"),
    "batch": _measure.fact("batch"),
    "choice": _measure.fact("choice"),
    "lib, tokens/s": lambda row: per_second(next(iter(row["seconds"])))(row),
    "transformers, tokens/s": per_second("transformers"),
    "times faster": faster_than("transformers"),
    "CTranslate2, tokens/s": per_second("CTranslate2"),
    "times faster than it": faster_than("CTranslate2"),
    "of the bandwidth": of_the_limit,
    "times faster than without a cache": faster_than("without a cache"),
    "bfloat16 than float32": lambda row: (
        faster_than("lib")(row) if "lib, bfloat16" in row["seconds"] else ""
    ),
}


def main(arguments: list[str] | None = None) -> None:
    _measure.main(__file__, rows, COLUMNS, arguments)


if __name__ == "__main__":
    main()
