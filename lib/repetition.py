"""Repetition: the n-gram ban, from scratch and incremental."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

import torch
from torch import Tensor

from lib import _validate


def apply_no_repeat_ngram(
    input_ids: Tensor,
    logits: Tensor,
    no_repeat_ngram_size: int,
    attention_mask: Tensor | None = None,
) -> Tensor:
    r"""Ban each token that would complete an n-gram already in the history.

    With history :math:`x_1 \dots x_L`, token v is removed iff
    :math:`(x_{L-n+2}, \dots, x_L, v)` equals some :math:`(x_i, \dots, x_{i+n-1})`.

    Args:
        input_ids: history, integer tensor ``(batch, length)``; in a generation the
            prompt is part of it.
        logits: float tensor ``(batch, vocab)``; -inf marks a removed token.
        no_repeat_ngram_size: n >= 1; 0 means off.
        attention_mask: ``(batch, length)``, 0 at padding. An n-gram that touches a
            masked position is no history (``transformers`` counts it).

    Returns:
        Logits ``(batch, vocab)`` in the dtype of ``logits``. A row may lose every
        token; a pipeline raises then.

    Raises:
        TypeError: wrong types.
        ValueError: n < 0; shapes that do not fit; NaN or +inf, or a row of -inf only.

    Source: Klein et al. (2017); Paulus, Xiong and Socher (2018). Defined in chapter 5.
    """
    n = check_ngram_size(no_repeat_ngram_size)
    _validate.token_ids("input_ids", input_ids)
    _validate.logits(logits, stage="no_repeat_ngram")
    if logits.ndim != 2 or logits.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"no_repeat_ngram: logits have shape {tuple(logits.shape)}; allowed is "
            f"(batch, vocab) with batch {input_ids.shape[0]}, that of input_ids"
        )
    _validate.same_device("input_ids", input_ids, "logits", logits.device)
    if attention_mask is not None:
        attention_mask = _validate.attention_mask(attention_mask, input_ids)
    return no_repeat_ngram_stage(input_ids, logits, n, attention_mask)


def check_ngram_size(no_repeat_ngram_size: int) -> int:
    """Return a legal n-gram size, or raise with advice."""
    return _validate.integer(
        "no_repeat_ngram_size",
        no_repeat_ngram_size,
        low=0,
        hint="use no_repeat_ngram_size=0 to switch the ban off",
    )


def no_repeat_ngram_stage(
    input_ids: Tensor, logits: Tensor, n: int, attention_mask: Tensor | None = None
) -> Tensor:
    """``apply_no_repeat_ngram`` without its checks: all windows compared at once."""
    length = input_ids.shape[1]
    if n == 0 or length < n:
        return logits.clone()
    windows = input_ids.unfold(1, n, 1)  # (batch, length - n + 1, n)
    suffix = input_ids[:, length - n + 1 :].unsqueeze(1)
    repeats = (windows[..., :-1] == suffix).all(dim=-1)
    if attention_mask is not None:
        real = attention_mask.bool()
        repeats &= real.unfold(1, n, 1).all(dim=-1)
        repeats &= real[:, length - n + 1 :].all(dim=-1, keepdim=True)
    # Windows that ban nothing point at a spare column, cut off again below.
    vocab = logits.shape[-1]
    targets = windows[..., -1].long().masked_fill(~repeats, vocab).clamp(max=vocab)
    banned = logits.new_zeros((logits.shape[0], vocab + 1), dtype=torch.bool)
    banned.scatter_(1, targets, True)
    return logits.masked_fill(banned[:, :vocab], -torch.inf)


class NGramIndex:
    """The n-gram ban of one growing sequence, in constant time a token.

    A dictionary sends each (n-1)-gram seen so far to the set of tokens that followed
    it. ``append`` adds a token to the set of the current suffix and looks up that of
    the next; ``banned`` is a copy of it. Equal to ``apply_no_repeat_ngram`` on the same
    history.

    Args:
        no_repeat_ngram_size: n >= 1.
        tokens: history to begin with, without padding.

    Attributes:
        followers: the set behind ``banned``, to be read only: ``append`` changes it.

    Defined in chapter 5.
    """

    def __init__(self, no_repeat_ngram_size: int, tokens: Iterable[int] = ()) -> None:
        n = _validate.integer("no_repeat_ngram_size", no_repeat_ngram_size, low=1)
        self._followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        self._suffix: deque[int] = deque(maxlen=n - 1)
        self.followers = self._followers[()]
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add one token to the history."""
        self.followers.add(token)
        self._suffix.append(token)
        # While it is shorter than n - 1, the suffix is a new key, which bans nothing.
        self.followers = self._followers[tuple(self._suffix)]

    def banned(self) -> frozenset[int]:
        """The tokens that would complete an n-gram of the history."""
        return frozenset(self.followers)
