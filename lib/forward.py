"""One step of a model: tokens in, next-token logits out, with its KV cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

# Attention of `transformers` that is the plain formula, with any mask of numbers.
ATTENTIONS = ("sdpa", "eager")


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
        accepted = _parameters(model)
        if "logits_to_keep" in accepted:
            self._kwargs["logits_to_keep"] = 1
        self._encodes = bool(model.config.is_encoder_decoder)
        told = "position_ids" in accepted and not self._encodes
        self._first_place = _first_place(model) if told else None
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
        if self._first_place is not None:  # not all models count right by themselves
            mask = torch.ones_like(ids) if attention_mask is None else attention_mask
            places = positions(mask)[:, -fresh.shape[1] :]
            inputs["position_ids"] = places + self._first_place
        # Between two steps the model is in whatever mode its owner left it.
        with evaluating(self._model):
            outputs = self._model(**self._kwargs, **inputs, past_key_values=self.cache)
        self.cache = getattr(outputs, "past_key_values", None)
        logits: Tensor = outputs.logits[:, -1]
        return logits


def _parameters(model: Any) -> frozenset[str]:
    """What a model's forward accepts by name.

    Wrappers, such as those of ``torch.compile`` and of adapters, pass on what they are
    given, whether they name it or not.
    """
    outermost: frozenset[str] = frozenset()
    for module in model.modules():  # from the outside in
        names = frozenset(inspect.signature(module.forward).parameters)
        if "input_ids" in names:
            outermost = outermost or names
            if any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__):
                return names
    return outermost


def _first_place(model: Any) -> int:
    """The position of a text's first token: in RoBERTa and its kin not 0.

    (``generate`` of ``transformers`` 5.23 says 0 to them, too, and their logits are
    then not those of the plain model.)
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


_users: dict[Any, int] = {}  # of modules that are in train mode otherwise
_lock = Lock()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode; the mode of each of its modules is put back after.

    Several threads may be here with one model: the last to leave puts it back.
    """
    held: list[Any] = []
    try:
        with _lock:
            for module in model.modules():
                if module.training or module in _users:
                    _users[module] = _users.get(module, 0) + 1
                    held.append(module)
                    module.training = False
        yield
    finally:
        with _lock:
            for module in held:
                _users[module] -= 1
                if not _users[module]:
                    del _users[module]
                    module.training = True


def is_plain(model: Any) -> bool:
    """Whether modules do what their classes say: no hook, nothing replaced."""
    return not (
        all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks
    ) and not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    )


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token in its own text, 0 at padding: ``(rows, length)``."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)


def context_length(config: Any, *, encoder: bool = False) -> int | None:
    """The most tokens a model can see at once, None where it has no limit.

    Of an encoder-decoder model, those of its decoder, or those of its encoder.
    """
    side = {"encoder": True} if encoder else {"decoder": True}
    text = config.get_text_config(**side)
    limit = getattr(text, "max_position_embeddings", None)
    if encoder:
        limit = getattr(text, "max_encoder_position_embeddings", limit)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def device_of(model: Any) -> torch.device:
    """Where a model expects its input."""
    device: torch.device = model.get_input_embeddings().weight.device
    return device
