"""The live figure of chapter 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle
from lib.widgets._ngram_ban import LONGEST, ids_of
from lib.widgets._selection import check_mass
from lib.widgets._temperature import check_slider


class Waterfall(Figure):
    """Chapter 7: one step through the stages, in an order that the reader chooses.

    Args:
        logits: float tensor ``(steps, vocab)``.
        words: a tokenizer, or the text of each token id.
        names: one text a step, for the reader to choose by.
        histories: for each step an integer tensor ``(length,)``, the tokens before it.
        no_repeat_ngram_size: the order n of the ban at first, 0 to 6; 0 is off.
        temperature: T at first, 0.05 <= T <= 10.
        top_k: k at first, >= 0; 0 is off.
        top_p: the mass at first, 0.01 <= top_p <= 1; 1 is off.
        u: the luck of the draw at first, 0 <= u <= 0.999.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("generator.js")
    histories = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)
    no_repeat_ngram_size = traitlets.Int().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    top_k = traitlets.Int().tag(sync=True)
    top_p = traitlets.Float().tag(sync=True)
    u = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        *,
        histories: Sequence[Tensor],
        no_repeat_ngram_size: int = 3,
        temperature: float = 2.0,
        top_k: int = 40,
        top_p: float = 0.8,
        u: float = 0.5,
    ) -> None:
        super().__init__(
            logits,
            words,
            names,
            no_repeat_ngram_size=_validate.integer(
                "no_repeat_ngram_size", no_repeat_ngram_size, low=0, high=LONGEST
            ),
            temperature=check_slider(temperature),
            top_k=_validate.integer("top_k", top_k, low=0),
            top_p=check_mass(top_p),
            u=_validate.real("u", u, low=0, low_open=False, high=0.999),
        )
        if len(histories) != len(self.names):
            raise ValueError(
                f"histories has {len(histories)} entries; it must have "
                f"{len(self.names)}, one for each row of logits"
            )
        self.histories = [
            ids_of(f"histories[{row}]", history, self.vocab)
            for row, history in enumerate(histories)
        ]
