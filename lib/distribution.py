"""From logits to the next-token distribution: softmax, entropy, temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from lib import _validate


def softmax(logits: Tensor) -> Tensor:
    r"""Turn logits into probabilities: :math:`p_v = e^{z_v} / \sum_w e^{z_w}`.

    The row maximum is subtracted first, which changes nothing in exact
    arithmetic and keeps :math:`e^{z}` from overflowing.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.

    Returns:
        Probabilities ``(..., vocab)`` in the dtype of ``logits``, computed in at
        least float32.

    Raises:
        TypeError: ``logits`` is no float tensor.
        ValueError: NaN, +inf, or a row of -inf only.

    Source: Bridle (1990). Defined in chapter 1, equation (1.4).
    """
    _validate.logits(logits, stage="softmax")
    return torch.softmax(_widened(logits), dim=-1).to(logits.dtype)


def log_softmax(logits: Tensor) -> Tensor:
    r"""Log-probabilities: :math:`\log p_v = z_v - \log \sum_w e^{z_w}`, in nats.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.

    Returns:
        Log-probabilities ``(..., vocab)`` in the dtype of ``logits``, computed in
        at least float32; -inf where ``logits`` is -inf.

    Raises:
        TypeError: ``logits`` is no float tensor.
        ValueError: NaN, +inf, or a row of -inf only.

    Defined in chapter 1, equation (1.9).
    """
    _validate.logits(logits, stage="log_softmax")
    return torch.log_softmax(_widened(logits), dim=-1).to(logits.dtype)


def entropy(logits: Tensor) -> Tensor:
    r"""Shannon entropy of softmax(logits), :math:`-\sum_v p_v \log p_v`, in nats.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.

    Returns:
        Entropy ``(...)`` in nats, in the dtype of ``logits``, computed in at least
        float32; 0 <= H <= log(vocab).

    Raises:
        TypeError: ``logits`` is no float tensor.
        ValueError: NaN, +inf, or a row of -inf only.

    Source: Shannon (1948). Defined in chapter 1, equation (1.13).
    """
    _validate.logits(logits, stage="entropy")
    log_p = torch.log_softmax(_widened(logits), dim=-1)
    # A removed token has p = 0 and log p = -inf; its term is 0, not 0 * -inf.
    terms = log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)
    return (0.0 - terms.sum(dim=-1)).to(logits.dtype)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    r"""Divide the logits by a temperature: :math:`z_v \mapsto (z_v - \max_w z_w) / T`.

    T < 1 sharpens, T > 1 flattens, T = 1 changes nothing. The maximum is subtracted
    before the division, so that a tiny T overflows for no dtype; the distribution
    is that of z / T, since softmax ignores a common shift.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.
        temperature: T > 0, finite; an int will do.

    Returns:
        Logits ``(..., vocab)`` in the dtype of ``logits``. A finite logit stays
        finite, a removed token stays removed.

    Raises:
        TypeError: wrong types.
        ValueError: T <= 0 or not finite; NaN, +inf, or a row of -inf only.

    Source: Ackley, Hinton and Sejnowski (1985). Defined in chapter 2, equation (2.1).
    """
    temperature = check_temperature(temperature)
    _validate.logits(logits, stage="temperature")
    return temperature_stage(logits, temperature)


def check_temperature(temperature: float) -> float:
    """Return a legal temperature as float, or raise with advice."""
    return _validate.real(
        "temperature",
        temperature,
        low=0.0,
        hint="use do_sample=False for greedy decoding" if temperature == 0 else "",
    )


def temperature_stage(logits: Tensor, temperature: float) -> Tensor:
    """``apply_temperature`` without its checks."""
    if temperature == 1.0:
        return logits.clone()
    scaled = depths(_widened(logits), temperature).to(logits.dtype)
    lowest = torch.finfo(logits.dtype).min
    # A removed token is the only one that may become -inf. Minus the lowest number a
    # finite logit is not negative, so that it does not count in the minimum, and a
    # removed one is still -inf. (A mask would take five times as long.)
    return torch.minimum(scaled.clamp_min_(lowest), logits - lowest)


def depths(logits: Tensor, temperature: float = 1.0) -> Tensor:
    r""":math:`(z_v - \max_w z_w) / T`; may overflow to -inf."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    if temperature == 1.0:
        return shifted
    # Float32 cannot hold a divisor below 1e-45 or above 3e38.
    limits = torch.finfo(logits.dtype)
    return shifted.div_(min(max(temperature, limits.tiny), limits.max))


def _widened(logits: Tensor) -> Tensor:
    """Half-precision tensors as float32, wider ones as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
