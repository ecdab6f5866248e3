"""Truncation: keep the head of the distribution, remove its tail."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib import _validate
from lib.selection import masses, on_host


def apply_top_k(logits: Tensor, top_k: int) -> Tensor:
    r"""Keep the k largest logits: :math:`-\infty` wherever :math:`z_v < z_{(k)}`.

    :math:`z_{(k)}` is the k-th largest logit. All tokens tied with it stay, so that
    more than k can remain.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.
        top_k: k >= 1; k >= vocab changes nothing. 0 means off, as in
            ``transformers.GenerationConfig``.

    Returns:
        Logits ``(..., vocab)`` in the dtype of ``logits``.

    Raises:
        TypeError: wrong types.
        ValueError: k < 0; NaN, +inf, or a row of -inf only.

    Source: Fan, Lewis and Dauphin (2018). Defined in chapter 3, equation (3.1).
    """
    top_k = check_top_k(top_k)
    _validate.logits(logits, stage="top_k")
    return top_k_stage(logits, top_k)


def apply_top_p(logits: Tensor, top_p: float) -> Tensor:
    r"""Keep the nucleus: the smallest set of top tokens with mass :math:`\rho`.

    A token stays iff the tokens with strictly larger logits hold less than
    :math:`\rho` of the mass. The crossing token stays, and so do all tokens tied
    with it; the most probable token always does.

    Args:
        logits: float tensor ``(..., vocab)``; -inf marks a removed token.
        top_p: 0 < :math:`\rho` <= 1; 1.0 changes nothing.

    Returns:
        Logits ``(..., vocab)`` in the dtype of ``logits``. Masses are summed in
        float64.

    Raises:
        TypeError: wrong types.
        ValueError: :math:`\rho` outside (0, 1]; NaN, +inf, or a row of -inf only.

    Source: Holtzman et al. (2020). Defined in chapter 4, equation (4.5).
    """
    top_p = check_top_p(top_p)
    _validate.logits(logits, stage="top_p")
    return top_p_stage(logits, top_p)


def check_top_k(top_k: int) -> int:
    """Return a legal top_k, or raise with advice."""
    return _validate.integer(
        "top_k", top_k, low=0, hint="use top_k=0 to switch top-k off"
    )


def check_top_p(top_p: float) -> float:
    """Return a legal top_p as float, or raise with advice."""
    hint = ""
    if top_p == 0:
        hint = (
            "use top_p=1.0 to switch top-p off, or do_sample=False to keep "
            "the most probable token alone"
        )
    return _validate.real("top_p", top_p, low=0.0, high=1.0, hint=hint)


def top_k_stage(logits: Tensor, top_k: int) -> Tensor:
    """``apply_top_k`` without its checks."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits.clone()
    threshold = kth_largest(logits, top_k)
    return logits.masked_fill(logits < threshold, -torch.inf)


def top_p_stage(logits: Tensor, top_p: float) -> Tensor:
    """``apply_top_p`` without its checks."""
    if top_p == 1.0:  # a float sum of the whole mass may fall on either side of 1
        return logits.clone()
    ranked = descending(logits)
    mass = masses(ranked).cumsum(dim=-1)
    rank = (mass < mass_to_reach(top_p) * mass[..., -1:]).sum(dim=-1, keepdim=True)
    rank = rank.clamp_max(logits.shape[-1] - 1).to(logits.device)
    return logits.masked_fill(logits < ranked.gather(-1, rank), -torch.inf)


def mass_to_reach(top_p: float) -> float:
    """The share at which ``top_p`` counts as reached: sums round.

    Sums of the same numbers in another order, which differ by less than 1e-12, reach
    it at the same token.
    """
    return top_p - 1e-12


def kth_largest(logits: Tensor, k: int) -> Tensor:
    """The k-th largest logit of each row, ``(..., 1)``."""
    if not on_host(logits):
        return logits.topk(k, dim=-1).values[..., -1:]
    rank = logits.shape[-1] - k
    parts = np.partition(logits.detach().numpy(), rank, axis=-1)
    return torch.from_numpy(parts[..., rank, None])


def descending(logits: Tensor) -> Tensor:
    """The logits of each row in descending order, ``(..., count)``."""
    if not on_host(logits):
        return logits.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(logits.detach().numpy(), axis=-1)).flip(-1)
