"""The live figure of chapter 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle
from lib.widgets._temperature import check_slider


class TopP(Figure):
    """Chapter 4: one mass on two steps, where each crosses it, and temperature before.

    Args:
        logits: float tensor ``(2, vocab)``, a peaked step and a flat one.
        words: a tokenizer, or the text of each token id.
        names: one text a step.
        top_p: where the slider stands at first, 0 < top_p <= 1.
        temperature: the same for the temperature, 0.05 <= T <= 10.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("top_p.js")
    _steps = 2
    top_p = traitlets.Float().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        top_p: float = 0.9,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            logits,
            words,
            names,
            top_p=_validate.real("top_p", top_p, low=0, high=1),
            temperature=check_slider(temperature),
        )
