"""The live figure of chapter 2."""

from __future__ import annotations

import traitlets

from lib.widgets._base import Figure, bundle


class Temperature(Figure):
    """Chapter 2: one step of the model under a temperature, and its entropy.

    Args:
        logits: float tensor ``(steps, vocab)``.
        words: a tokenizer, or the text of each token id.
        names: one text a step.
        temperature: where the slider stands at first, 0.05 <= T <= 10.
    """

    _esm = bundle("temperature.js")
    temperature = traitlets.Float(1.0).tag(sync=True)
