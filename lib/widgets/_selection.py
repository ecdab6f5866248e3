"""The live figure of chapter 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle
from lib.widgets._temperature import check_slider

LAST_SEED = 99  # at the end of the slider
MOST_DRAWS = 60


class CommonLuck(Figure):
    """Chapter 6: the same luck under two settings, and which draws it changes.

    Draw ``i`` at step ``s`` has the luck ``uniforms(seed, [i], [s])``. Setting A starts
    as the model's own distribution.

    Args:
        logits: float tensor ``(steps, vocab)``.
        words: a tokenizer, or the text of each token id.
        names: one text a step, for the reader to choose by.
        temperature: T of setting B at first, 0.05 <= T <= 10.
        top_k: k of setting B at first, >= 0; 0 is off.
        top_p: mass of setting B at first, 0.01 <= top_p <= 1; 1 is off.
        seed: of the luck at first, 0 to 99.
        draws: how many, 1 to 60.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("selection.js")
    temperature = traitlets.Float().tag(sync=True)
    top_k = traitlets.Int().tag(sync=True)
    top_p = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    draws = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        *,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        draws: int = 24,
    ) -> None:
        super().__init__(
            logits,
            words,
            names,
            temperature=check_slider(temperature),
            top_k=_validate.integer("top_k", top_k, low=0),
            top_p=check_mass(top_p),
            seed=_validate.integer("seed", seed, low=0, high=LAST_SEED),
            draws=_validate.integer("draws", draws, low=1, high=MOST_DRAWS),
        )


def check_mass(top_p: Any) -> float:
    """A mass that the slider of top-p can show, as a float."""
    return _validate.real("top_p", top_p, low=0.01, low_open=False, high=1)
