"""The live figure of chapter 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle

COLDEST, HOTTEST = 0.05, 10.0  # the ends of the slider


class Temperature(Figure):
    """Chapter 2: one step of the model under a temperature, and its entropy.

    Args:
        logits: float tensor ``(steps, vocab)``.
        words: a tokenizer, or the text of each token id.
        names: one text a step, for the reader to choose by.
        temperature: where the slider stands at first, 0.05 <= T <= 10.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("temperature.js")
    temperature = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        temperature: float = 1.0,
    ) -> None:
        super().__init__(logits, words, names, temperature=check_slider(temperature))


def check_slider(temperature: Any) -> float:
    """A temperature that the slider can show, as a float."""
    return _validate.real(
        "temperature", temperature, low=COLDEST, low_open=False, high=HOTTEST
    )
