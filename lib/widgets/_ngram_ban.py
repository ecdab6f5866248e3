"""The live figure of chapter 5."""

from __future__ import annotations

from typing import Any

import torch
import traitlets
from torch import Tensor

from lib import _validate
from lib.widgets._base import Figure, bundle, words_of

LONGEST = 6  # the order at the end of the slider


class NGramBan(Figure):
    """Chapter 5: the ban walks through a text and says what it takes at each position.

    The page carries the logits of the tokens that can matter, those of the text and the
    best other one of each step; all others travel as one, of their joint weight. So its
    probabilities are those of the whole vocabulary.

    Args:
        logits: float tensor ``(length, vocab)``, row ``i`` for the token after
            ``text[: i + 1]``.
        words: a tokenizer, or the text of each token id.
        text: integer tensor ``(length,)``, the tokens of the text.
        no_repeat_ngram_size: the order n at first, 1 <= n <= 6.
        position: the position t that is filled at first, 1 <= t <= length; None: the
            last.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("ngram_ban.js")
    text = traitlets.List(traitlets.Int()).tag(sync=True)  # rows of the columns sent
    no_repeat_ngram_size = traitlets.Int().tag(sync=True)
    position = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        text: Tensor,
        no_repeat_ngram_size: int = 3,
        position: int | None = None,
    ) -> None:
        _validate.logits(logits, stage=type(self).__name__)
        vocab = logits.shape[-1]
        ids = torch.tensor(ids_of("text", text, vocab), dtype=torch.long)
        if not len(ids):
            raise ValueError("text holds no token; its length must be >= 1")
        if logits.shape != (len(ids), vocab):
            raise ValueError(
                f"logits has shape {tuple(logits.shape)}; it must be ({len(ids)}, "
                "vocab), one row for each token of text"
            )
        table, columns = _columns(logits.detach().float().cpu(), ids)
        texts = words_of(words, vocab)
        place = {token: column for column, token in enumerate(columns)}
        super().__init__(
            table,
            [*(texts[token] for token in columns), "all others"],
            text=[place[token] for token in ids.tolist()],
            no_repeat_ngram_size=_validate.integer(
                "no_repeat_ngram_size", no_repeat_ngram_size, low=1, high=LONGEST
            ),
            position=_validate.integer(
                "position",
                len(ids) if position is None else position,
                low=1,
                high=len(ids),
            ),
        )


def _columns(logits: Tensor, ids: Tensor) -> tuple[Tensor, list[int]]:
    """The columns that can matter, one for all others behind them; and their ids."""
    inside = torch.tensor(sorted(set(ids.tolist())))
    outside = logits.index_fill(-1, inside, -torch.inf)
    some = outside.amax(dim=-1) > -torch.inf
    best = outside[some].argmax(dim=-1)
    columns = sorted({*inside.tolist(), *best.tolist()})
    chosen = torch.tensor(columns)
    rest = logits.double().index_fill(-1, chosen, -torch.inf).logsumexp(dim=-1)
    return torch.cat([logits[:, chosen], rest.float()[:, None]], dim=-1), columns


def ids_of(name: str, value: Any, vocab: int) -> list[int]:
    """The ids of an integer tensor ``(length,)``."""
    if not isinstance(value, Tensor) or value.ndim != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{name} must have shape (length,), got {got}")
    ids = _validate.token_ids(name, value[None], vocab_size=vocab)
    return [int(token) for token in ids[0]]
