"""The live figure of chapter 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle


class TopK(Figure):
    """Chapter 3: one k on two steps, with what it keeps and what it loses.

    Args:
        logits: float tensor ``(2, vocab)``, a peaked step and a flat one.
        words: a tokenizer, or the text of each token id.
        names: one text a step.
        top_k: where the slider stands at first, 1 <= k <= vocab.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("top_k.js")
    _steps = 2
    top_k = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        top_k: int = 40,
    ) -> None:
        _validate.logits(logits, stage="TopK")
        k = _validate.integer("top_k", top_k, low=1, high=logits.shape[-1])
        super().__init__(logits, words, names, top_k=k)
