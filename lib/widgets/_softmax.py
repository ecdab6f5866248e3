"""The live figure of chapter 1."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle

MOST_WORDS, LARGEST = 12, 20.0


class Softmax(Figure):
    """Chapter 1: a slider a word for its logit, its probability, and the odds of two.

    Args:
        logits: float tensor ``(vocab,)`` with 2 to 12 logits from -20 to 20.
        words: the text of each token id.
        pair: the two words whose odds stand there at first; the best two if empty.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("softmax.js")
    _steps = 1
    pair = traitlets.List(traitlets.Int()).tag(sync=True)  # ids

    def __init__(
        self, logits: Tensor, words: Sequence[str], pair: Sequence[str] = ()
    ) -> None:
        _validate.logits(logits, stage="Softmax")
        vocab = logits.shape[-1]
        if not 2 <= vocab <= MOST_WORDS:
            raise ValueError(
                f"logits has {vocab} columns; Softmax shows 2 to {MOST_WORDS} words"
            )
        if bool((logits.abs() > LARGEST).any()):
            raise ValueError(
                f"logits={logits.tolist()} must lie from {-LARGEST:g} to {LARGEST:g}, "
                "where the sliders can show them"
            )
        super().__init__(logits, words, pair=_ids(pair, logits, words))


def _ids(pair: Sequence[str], logits: Tensor, words: Sequence[str]) -> list[int]:
    """The ids of two words."""
    if not pair:
        best: list[int] = (
            logits.flatten().argsort(descending=True, stable=True).tolist()
        )
        return best[:2]
    texts = _validate.strings("pair", pair)
    if len(set(texts)) != 2 or len(texts) != 2 or not set(texts) <= set(words):
        raise ValueError(f"pair={pair!r} must be two different texts of words")
    return [list(words).index(text) for text in texts]
