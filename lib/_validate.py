"""Checks at the door: every message names parameter, value and allowed range."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

INF = float("inf")


class EmptySupportError(ValueError):
    """A stage left a row without any token to choose from."""


def integer(
    name: str, value: Any, *, low: int, high: int | None = None, hint: str = ""
) -> int:
    """Return ``value`` as an int in [low, high], or raise TypeError or ValueError."""
    allowed = f">= {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(_message(name, value, f"must be an integer {allowed}", hint))
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(_message(name, value, f"must be an integer {allowed}", hint))
    return number


def integers(name: str, value: Any, **allowed: Any) -> tuple[int, ...]:
    """Return one integer or several as a tuple; ``allowed`` as in ``integer``."""
    value = value.tolist() if isinstance(value, Tensor) else value
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    ids = tuple(
        integer(name, one, **allowed) for one in (value if several else [value])
    )
    if not ids:
        hint = allowed.get("hint", "")
        raise ValueError(_message(name, value, "must hold at least one integer", hint))
    return ids


def strings(name: str, value: Any) -> list[str]:
    """Return one str or several, at least one, as a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
        raise TypeError(_message(name, value, "must be a str or a list of str"))
    if not texts:
        raise ValueError(_message(name, value, "must hold at least one str"))
    return list(texts)


def real(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = INF,
    low_open: bool = True,
    hint: str = "",
) -> float:
    """Return ``value`` as a finite float in the interval, or raise."""
    left = f"> {low:g}" if low_open else f">= {low:g}"
    allowed = f"must be a number {left}" + ("" if high == INF else f" and <= {high:g}")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(_message(name, value, allowed, hint))
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        number = INF
    too_low = number <= low if low_open else number < low
    if not math.isfinite(number) or too_low or number > high:
        raise ValueError(_message(name, value, allowed, hint))
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is a bool, or raise TypeError."""
    if not isinstance(value, bool):
        raise TypeError(_message(name, value, "must be True or False"))
    return value


def logits(value: Any, *, stage: str) -> Tensor:
    """Return ``value`` if it is a legal logits tensor ``(..., vocab)``, or raise.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: no vocabulary axis, NaN or +inf inside.
        EmptySupportError: a row holds -inf only.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = (
            f"{value.dtype} tensor"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise TypeError(f"{stage}: logits must be a floating-point tensor, got {kind}")
    on_a_real_device("logits", value)
    if value.ndim == 0 or value.shape[-1] == 0:
        raise ValueError(
            f"{stage}: logits must have shape (..., vocab) with vocab >= 1, "
            f"got {tuple(value.shape)}"
        )
    if value.numel():
        # max() propagates NaN, so one pass over the tensor finds all three faults.
        top = value.amax(dim=-1)
        if not all_finite(top):
            _explain(value, top, stage)
    return value


def all_finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity; for a few values, read one by one."""
    return all(map(math.isfinite, values.flatten().tolist()))


def _explain(value: Tensor, top: Tensor, stage: str) -> None:
    if bool(top.isnan().any()):
        raise ValueError(
            f"{stage}: logits contain NaN in row {first_row(top.isnan())}; "
            "allowed are finite numbers and -inf. "
            "NaN usually comes from 0/0, inf - inf, or a model that overflowed in fp16"
        )
    if bool((top == INF).any()):
        raise ValueError(
            f"{stage}: logits contain +inf in row {first_row(top == INF)}; "
            "allowed are finite numbers and -inf "
            "(did a division by a tiny temperature overflow?)"
        )
    row = first_row(top == -INF)
    raise EmptySupportError(
        f"{stage}: row {row} has no token left, every logit is -inf; "
        "at least one must be finite"
    )


def first_row(mask: Tensor) -> str:
    """Name the first True place of ``mask`` as a row index, '0' for a single row."""
    index = mask.nonzero()[0].tolist()
    return ", ".join(map(str, index)) if index else "0"


def on_a_real_device(name: str, value: Tensor) -> None:
    """Refuse a tensor without numbers in it."""
    if value.device.type == "meta":
        raise ValueError(
            f"{name} is on the device meta, which holds no numbers; "
            "allowed is a device that does, such as cpu or cuda"
        )


def same_device(name: str, value: Tensor, other: str, device: torch.device) -> None:
    """Refuse a tensor that is not where it is needed."""
    if value.device != device:
        raise ValueError(
            f"{name} is on {value.device}, {other} on {device}; both must be on one "
            f"device: move it with {name}.to({str(device)!r})"
        )


def token_ids(
    name: str,
    value: Any,
    *,
    vocab_size: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return ``value`` if it is an integer tensor ``(batch, length)`` of legal ids."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be an integer tensor of shape (batch, length), "
            f"got {type(value).__name__}"
            + (f": pass its [{name!r}]" if hasattr(value, name) else "")
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold integer token ids, got dtype {value.dtype}")
    if value.ndim != 2:
        raise ValueError(
            f"{name} must have shape (batch, length), got {tuple(value.shape)}"
            + ("; add the batch axis with [None, :]" if value.ndim == 1 else "")
        )
    if value.shape[0] == 0:
        raise ValueError(
            f"{name} holds no prompt: its shape is {tuple(value.shape)}, "
            "and its batch must be >= 1"
        )
    if device is not None:
        same_device(name, value, "the model", device)
    on_a_real_device(name, value)
    if value.numel():
        low, high = int(value.min()), int(value.max())
        last = INF if vocab_size is None else vocab_size - 1
        if low < 0 or high > last:
            wrong = low if low < 0 else high
            allowed = ">= 0" if vocab_size is None else f"from 0 to {last}"
            raise ValueError(
                f"{name} holds the id {wrong}; ids must be {allowed} "
                "(do tokenizer and model belong together?)"
            )
    return value


def attention_mask(mask: Any, input_ids: Tensor) -> Tensor:
    """Return ``mask`` as int64 if it holds a 0 or 1 for each of ``input_ids``."""
    name = "attention_mask"
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        kind = (
            f"a {mask.dtype} tensor"
            if isinstance(mask, Tensor)
            else type(mask).__name__
        )
        raise TypeError(
            f"{name} must be an integer or bool tensor of 0 and 1, got {kind}"
        )
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; it must be that of input_ids, "
            f"{tuple(input_ids.shape)}"
        )
    same_device(name, mask, "input_ids", input_ids.device)
    bits: Tensor = mask.long()
    if not bool(((bits == 0) | (bits == 1)).all()):
        wrong = bits[(bits != 0) & (bits != 1)][0].item()
        raise ValueError(f"{name} holds {wrong}; it must be 0 (padding) or 1 (token)")
    return bits


def tokenizer(value: Any) -> Any:
    """Return ``value`` if it is a tokenizer, or raise TypeError."""
    if not callable(value) or not hasattr(value, "decode"):
        raise TypeError(
            f"tokenizer must be the model's tokenizer, got {type(value).__name__}; "
            "lib.load() returns (model, tokenizer)"
        )
    return value


def _message(name: str, value: Any, allowed: str, hint: str = "") -> str:
    return f"{name}={value!r} {allowed}" + (f": {hint}" if hint else "")
