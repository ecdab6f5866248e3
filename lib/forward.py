"""One step of a model: tokens in, next-token logits out, with its KV cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class CachedForward:
    """A model's next-token logits along one generation.

    The keys and values of earlier tokens stay in the cache that the model hands out,
    so that after the prompt each step feeds one token a row. A model without a cache
    is fed the whole sequence.

    Args:
        model: a ``transformers`` causal or encoder-decoder language model.
        input_ids: prompts, ``(rows, length)``; for an encoder-decoder model, of its
            encoder.
        attention_mask: ``(rows, length)``, 0 at padding; None where there is none.

    ``cache`` is what the model has handed out, None before the first step.
    """

    def __init__(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor | None
    ) -> None:
        self._model = model
        self.cache: Any = None
        self._kwargs: dict[str, Any] = {"use_cache": True, "return_dict": True}
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        if "logits_to_keep" in self._accepts:
            self._kwargs["logits_to_keep"] = 1
        self._encodes = bool(model.config.is_encoder_decoder)
        if self._encodes:
            with evaluating(model):
                self._kwargs["encoder_outputs"] = model.get_encoder()(
                    input_ids=input_ids, attention_mask=attention_mask, return_dict=True
                )
            self._kwargs["attention_mask"] = attention_mask

    def logits(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits after the whole of ``ids``, ``(rows, length)`` -> ``(rows, vocab)``.

        Successive calls must extend the same sequences by one token.
        """
        fresh = ids if self.cache is None else ids[:, -1:]
        inputs = {"decoder_input_ids" if self._encodes else "input_ids": fresh}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            if "position_ids" in self._accepts:
                inputs["position_ids"] = positions(attention_mask)[:, -fresh.shape[1] :]
        # Between two steps the model is in whatever mode its owner left it.
        with evaluating(self._model):
            outputs = self._model(**self._kwargs, **inputs, past_key_values=self.cache)
        self.cache = getattr(outputs, "past_key_values", None)
        logits: Tensor = outputs.logits[:, -1]
        return logits


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode; the mode of each of its modules is put back after."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token in its own text, 0 at padding: ``(rows, length)``."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def context_length(config: Any) -> int | None:
    """The most tokens a model can see at once, None where it has no limit."""
    text = config.get_text_config(decoder=True)
    limit = getattr(text, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def device_of(model: Any) -> torch.device:
    """Where a model expects its input."""
    device: torch.device = model.get_input_embeddings().weight.device
    return device
