"""How a text looks to a model, and how much it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lib import _validate
from lib.forward import context_length, device_of, evaluating
from lib.request import check_model


def log_probs(model: Any, input_ids: Tensor) -> Tensor:
    r"""The log-probability of each token given those before it, in nats.

    Args:
        model: a ``transformers`` causal language model.
        input_ids: integer tensor ``(batch, length)``, length >= 2, without padding.

    Returns:
        float32 ``(batch, length - 1)``: entry (b, t) is :math:`\log p(x_{t+1} \mid
        x_{\le t})`; the first token has no prediction.

    Raises:
        TypeError: ``model`` is no language model, ``input_ids`` no integer tensor.
        ValueError: fewer than two tokens, more than the model's context, ids out of
            range, or an encoder-decoder model.

    Defined in chapter 1.
    """
    check_model(model)
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"model must be a causal language model, got {type(model).__name__}, an "
            "encoder-decoder, whose texts have no probability without a source"
        )
    vocab_size = model.get_input_embeddings().num_embeddings
    _validate.token_ids(
        "input_ids", input_ids, vocab_size=vocab_size, device=device_of(model)
    )
    length, limit = input_ids.shape[1], context_length(model.config)
    if length < 2 or (limit is not None and length > limit):
        most = "" if limit is None else f" and at most {limit}, the model's context"
        raise ValueError(f"input_ids has length {length}; it must be at least 2{most}")
    with torch.no_grad(), evaluating(model):
        logits = model(input_ids).logits[:, :-1].float()
    if not bool(logits.isfinite().all()):
        raise ValueError("the model's logits contain NaN or inf; they must be finite")
    chosen = input_ids[:, 1:, None].long()
    return torch.log_softmax(logits, dim=-1).gather(-1, chosen).squeeze(-1)


def perplexity(model: Any, input_ids: Tensor) -> Tensor:
    r"""Perplexity: :math:`\exp(-\frac{1}{L-1} \sum_t \log p(x_t \mid x_{<t}))`.

    Args:
        model: a ``transformers`` causal language model.
        input_ids: integer tensor ``(batch, length)``, length >= 2, without padding.

    Returns:
        float32 ``(batch,)``, each >= 1.

    Raises:
        TypeError: as ``log_probs``.
        ValueError: as ``log_probs``.

    Source: Jelinek et al. (1977). Defined in chapter 1, equation (1.14).
    """
    return (-log_probs(model, input_ids).mean(dim=-1)).exp()


def distinct_n(tokens: Sequence[int] | Tensor, n: int) -> float:
    """The share of distinct ones among the n-grams of a sequence, from 0 to 1.

    Args:
        tokens: token ids, a flat sequence or 1-D tensor of at least n.
        n: n-gram order, >= 1.

    Returns:
        Number of distinct n-grams over number of n-grams; 1.0 means none repeats.

    Raises:
        TypeError: n or a token is no integer.
        ValueError: n < 1, or fewer than n tokens.

    Source: Li et al. (2016). Defined in chapter 5.
    """
    n = _validate.integer("n", n, low=1)
    if isinstance(tokens, Tensor):
        if tokens.ndim != 1:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; it must have one axis: pass "
                "one row at a time"
            )
        tokens = tokens.tolist()
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        raise TypeError(f"tokens={tokens!r} must be a sequence of token ids")
    ids = _validate.integers("tokens", tokens, low=0) if tokens else ()
    if len(ids) < n:
        raise ValueError(f"tokens has length {len(ids)}; it must be at least n={n}")
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams)


def rep_n(tokens: Sequence[int] | Tensor, n: int) -> float:
    """The share of repeated ones among the n-grams of a sequence, 1 - distinct_n.

    Args:
        tokens: token ids, a flat sequence or 1-D tensor of at least n.
        n: n-gram order, >= 1.

    Returns:
        From 0 (no n-gram occurs twice) towards 1 (a loop).

    Raises:
        TypeError: n or a token is no integer.
        ValueError: n < 1, or fewer than n tokens.

    Source: Welleck et al. (2020). Defined in chapter 5.
    """
    return 1.0 - distinct_n(tokens, n)
