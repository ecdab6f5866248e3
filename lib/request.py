"""One checked generation request: what was asked for, with nothing left open."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from lib import _validate
from lib.forward import context_length, device_of
from lib.luck import MAX_SEED, check_seed
from lib.pipeline import Pipeline, SamplingSettings, build_pipeline


class TextArguments(TypedDict, total=False):
    """The keyword arguments of ``complete`` and ``stream_text``."""

    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    no_repeat_ngram_size: int
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    num_return_sequences: int
    stop_strings: str | Sequence[str] | None
    seed: int | Sequence[int] | None
    pipeline: Pipeline | None


class Arguments(TextArguments, total=False):
    """The keyword arguments of ``generate``, ``stream`` and ``trace``."""

    attention_mask: Tensor | None
    tokenizer: Any


@dataclass(frozen=True)
class Request:
    """Everything the loop needs; rows are batch x num_return_sequences.

    Args:
        model: the language model.
        input_ids: prompts, ``(rows, length)``.
        attention_mask: 0 at padding; None where there is none.
        decoder_input_ids: what the output begins with, ``(rows, length)``; the prompts
            themselves unless the model has an encoder.
        decoder_attention_mask: the mask of ``decoder_input_ids``.
        max_new_tokens: the most steps to take.
        eos_token_id: ids that end a row; empty for never.
        pad_token_id: what finished rows are filled with.
        seeds: one a prompt.
        samples: num_return_sequences.
        pipeline: stages and selection.
        stop: tells which rows end in a stop string; None without stop strings.
    """

    model: Any
    input_ids: Tensor
    attention_mask: Tensor | None
    decoder_input_ids: Tensor
    decoder_attention_mask: Tensor | None
    max_new_tokens: int
    eos_token_id: tuple[int, ...]
    pad_token_id: int
    seeds: tuple[int, ...]
    samples: int
    pipeline: Pipeline
    stop: Callable[[Tensor], Tensor] | None


def prepare(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    min_new_tokens: int = 0,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    no_repeat_ngram_size: int = 0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    num_return_sequences: int = 1,
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    seed: int | Sequence[int] | None = None,
    pipeline: Pipeline | None = None,
) -> Request:
    """Check every argument of ``generate`` and fill in what the model decides."""
    check_model(model)
    embedding = model.get_input_embeddings()
    _validate.token_ids(
        "input_ids",
        input_ids,
        vocab_size=embedding.num_embeddings,
        device=device_of(model),
    )
    if input_ids.shape[1] == 0:
        raise ValueError(
            "input_ids has length 0; it must hold at least one token: begin with the "
            "tokenizer's bos_token_id where there is no text"
        )
    encodes = bool(model.config.is_encoder_decoder)
    mask = _attention_mask(attention_mask, input_ids, left_only=not encodes)
    if encodes:
        _check_encoder_length(model, input_ids.shape[1])
    eos = _eos_token_ids(eos_token_id, model)
    settings = SamplingSettings(
        do_sample=do_sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        no_repeat_ngram_size=no_repeat_ngram_size,
        min_new_tokens=min_new_tokens,
        eos_token_id=eos,
    )
    chosen = _pipeline(pipeline, settings)
    samples = _validate.integer("num_return_sequences", num_return_sequences, low=1)
    if samples > 1 and not chosen.do_sample:
        raise ValueError(
            f"num_return_sequences={samples} must be 1 without sampling: greedy "
            "decoding gives the same text each time; pass do_sample=True"
        )
    seeds = _seeds(seed, input_ids.shape[0])
    rows = input_ids.repeat_interleave(samples, dim=0).long()
    row_mask = None if mask is None else mask.repeat_interleave(samples, dim=0)
    begun, begun_mask = (
        (_decoder_start(model, rows), None) if encodes else (rows, row_mask)
    )
    steps = _steps(model, begun.shape[1], max_new_tokens, max_length)
    if min_new_tokens > steps:
        raise ValueError(
            f"min_new_tokens={min_new_tokens} must be an integer from 0 to {steps}, "
            "the most new tokens that this call allows"
        )
    stop = _stop_strings(stop_strings, tokenizer)
    pad = _pad_token_id(
        pad_token_id, tokenizer, model, eos, needed=stop is not None and len(rows) > 1
    )
    return Request(
        model=model,
        input_ids=rows,
        attention_mask=row_mask,
        decoder_input_ids=begun,
        decoder_attention_mask=begun_mask,
        max_new_tokens=steps,
        eos_token_id=eos,
        pad_token_id=pad,
        seeds=seeds,
        samples=samples,
        pipeline=chosen,
        stop=stop,
    )


def check_names(function: str, names: Iterable[str], arguments: type) -> None:
    """Refuse keyword arguments that a function of these arguments does not have."""
    known = list(arguments.__annotations__)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function}() has no argument {name!r}{advice}")


def check_model(model: Any) -> None:
    """Refuse what is no language model."""
    if not isinstance(model, torch.nn.Module) or not hasattr(
        model, "get_input_embeddings"
    ):
        raise TypeError(
            f"model must be a transformers language model, got {type(model).__name__}; "
            "lib.load() returns (model, tokenizer)"
        )
    can_generate = getattr(model, "can_generate", None)
    if can_generate is not None and not can_generate():
        raise TypeError(
            f"model must be a causal or encoder-decoder language model, got "
            f"{type(model).__name__}, which has no head that predicts a next token: "
            "load it through AutoModelForCausalLM or AutoModelForSeq2SeqLM"
        )


def _attention_mask(mask: Any, input_ids: Tensor, *, left_only: bool) -> Tensor | None:
    """A checked int64 mask, or None where nothing is masked."""
    if mask is None:
        return None
    mask = _validate.attention_mask(mask, input_ids)
    name = "attention_mask"
    empty = mask.sum(dim=1) == 0
    if bool(empty.any()):
        row = _validate.first_row(empty)
        raise ValueError(
            f"{name} masks the whole of row {row}; in each row at least one token "
            "must be 1"
        )
    if left_only and bool((mask[:, 1:] < mask[:, :-1]).any()):
        row = _validate.first_row((mask[:, 1:] < mask[:, :-1]).any(dim=1))
        raise ValueError(
            f"{name} of row {row} has a 0 after a 1; padding must be on the left: "
            "set tokenizer.padding_side = 'left'"
        )
    return None if bool(mask.all()) else mask


def _eos_token_ids(eos: int | Sequence[int] | None, model: Any) -> tuple[int, ...]:
    if eos is None:
        eos = _model_default(model, "eos_token_id")
        if eos is None:
            return ()
    last = model.get_input_embeddings().num_embeddings - 1
    hint = "use eos_token_id=-1 alone for never stopping"
    ids = _validate.integers("eos_token_id", eos, low=-1, high=last, hint=hint)
    if ids == (-1,):
        return ()
    return _validate.integers("eos_token_id", ids, low=0, high=last, hint=hint)


def _pad_token_id(
    pad: int | None, tokenizer: Any, model: Any, eos: tuple[int, ...], *, needed: bool
) -> int:
    last = model.get_input_embeddings().num_embeddings - 1
    if pad is not None:
        return _validate.integer("pad_token_id", pad, low=0, high=last)
    for candidate in (
        getattr(tokenizer, "pad_token_id", None),
        _model_default(model, "pad_token_id"),
        eos[0] if eos else None,
    ):
        # The model reads the pad tokens of finished rows: it must know them.
        if candidate is not None and 0 <= candidate <= last:
            return int(candidate)
    if needed:
        raise ValueError(
            "pad_token_id=None: rows that end early are filled with it, and neither "
            "tokenizer nor model nor eos_token_id names one; pass pad_token_id"
        )
    return 0  # never written: without eos and stop strings all rows end together


def _model_default(model: Any, name: str) -> Any:
    """A token id as the model's generation_config has it, then its config."""
    for config in (getattr(model, "generation_config", None), model.config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None


def _pipeline(pipeline: Pipeline | None, settings: SamplingSettings) -> Pipeline:
    if pipeline is None:
        if not settings.eos_token_id:  # what never ends is long enough
            settings = replace(settings, min_new_tokens=0)
        return build_pipeline(settings)
    if not isinstance(pipeline, Pipeline):
        raise TypeError(
            f"pipeline must be a lib.Pipeline, got {type(pipeline).__name__}; "
            "wrap stages in Pipeline([...], do_sample=...)"
        )
    for field in fields(SamplingSettings):
        value = getattr(settings, field.name)
        if field.name != "eos_token_id" and value != field.default:
            raise ValueError(
                f"{field.name}={value!r} must be left out where pipeline is given: "
                "the pipeline alone decides"
            )
    return pipeline


def _seeds(seed: int | Sequence[int] | None, prompts: int) -> tuple[int, ...]:
    if seed is None:
        return tuple(secrets.randbelow(MAX_SEED) for _ in range(prompts))
    if not isinstance(seed, Sequence) or isinstance(seed, str | bytes):
        one: Any = seed
        return (check_seed(one),) * prompts
    if len(seed) != prompts:
        raise ValueError(
            f"seed={seed!r} must be one integer, or one for each of the {prompts} "
            f"prompts: {len(seed)} were given"
        )
    return tuple(check_seed(s) for s in seed)


def _decoder_start(model: Any, rows: Tensor) -> Tensor:
    start = _model_default(model, "decoder_start_token_id")
    if start is None:
        start = _model_default(model, "bos_token_id")
    if start is None:
        raise ValueError(
            "decoder_start_token_id=None: the model's configuration must name the "
            "token that its decoder begins with"
        )
    return rows.new_full((rows.shape[0], 1), int(start))


def _steps(
    model: Any, length: int, max_new_tokens: int | None, max_length: int | None
) -> int:
    """How many tokens may be added to ``length``."""
    limit = context_length(model.config)
    if max_new_tokens is not None and max_length is not None:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} and max_length={max_length}: only one of "
            "the two may be given (max_length counts the prompt)"
        )
    if max_new_tokens is not None:
        total = length + _validate.integer("max_new_tokens", max_new_tokens, low=1)
    elif max_length is not None:
        total = _validate.integer("max_length", max_length, low=1)
        if total <= length:
            raise ValueError(
                f"max_length={total} must be an integer > {length}, the length of the "
                "prompt, which it counts; max_new_tokens does not"
            )
    elif limit is None:
        raise ValueError(
            "max_new_tokens=None: this model has no context limit, so that one of "
            "max_new_tokens and max_length must be given"
        )
    else:
        total = limit
    if limit is not None and length >= limit:
        raise ValueError(
            f"the prompt has {length} tokens and the model a context of {limit}: "
            f"allowed are at most {limit - 1}, so that one can be added"
        )
    if limit is not None and total > limit:
        name = "max_length" if max_length is not None else "max_new_tokens"
        value = max_length if max_length is not None else max_new_tokens
        most = limit if max_length is not None else limit - length
        raise ValueError(
            f"{name}={value} must be an integer from 1 to {most}: the prompt has "
            f"{length} tokens and the model a context of {limit}"
        )
    return total - length


def _check_encoder_length(model: Any, length: int) -> None:
    """Refuse a prompt with more places than an encoder has learned."""
    places = getattr(model.get_encoder(), "embed_positions", None)
    fixed = isinstance(places, nn.Embedding) and not hasattr(places, "make_weight")
    limit = context_length(model.config, encoder=True)
    if fixed and limit is not None and length > limit:
        raise ValueError(
            f"the prompt has {length} tokens; allowed are at most {limit}, the context "
            "of the model's encoder"
        )


def _stop_strings(
    stop_strings: str | Sequence[str] | None, tokenizer: Any
) -> Callable[[Tensor], Tensor] | None:
    if stop_strings is None:
        return None
    strings = _validate.strings("stop_strings", stop_strings)
    if not all(strings):
        raise ValueError(f"stop_strings={stop_strings!r} must hold no empty str")
    if tokenizer is None:
        raise ValueError(
            "tokenizer=None must be the model's tokenizer where stop_strings is given"
        )
    _validate.tokenizer(tokenizer)
    from transformers.generation.stopping_criteria import StopStringCriteria

    criterion = StopStringCriteria(tokenizer, strings)

    def ended(ids: Tensor) -> Tensor:
        done: Tensor = criterion(ids, None)
        return done

    return ended
