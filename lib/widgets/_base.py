"""What every live figure shares: its script in one piece, and its data as traits."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import numpy as np
import traitlets
from torch import Tensor

from lib import _validate

FOLDER = Path(__file__).parent
_IMPORT = re.compile(
    r'^import \{[^}]*\} from "\./(?P<file>\w+\.js)";\n', flags=re.MULTILINE
)


def bundle(name: str) -> str:
    """One ES module out of a script of this folder and those it imports.

    A widget's module travels as text, from which nothing beside it can be imported.
    """
    pieces: dict[str, str] = {}

    def add(file: str) -> None:
        if file in pieces:
            return
        text = (FOLDER / file).read_text("utf-8")
        for needed in _IMPORT.finditer(text):
            add(needed["file"])
        pieces[file] = _IMPORT.sub("", text)

    add(name)
    *needed, last = pieces.values()
    parts = [re.sub(r"^export (?!default)", "", text, flags=re.M) for text in needed]
    return "\n".join([*parts, last])


class LiveFigure(anywidget.AnyWidget):
    """A live figure of any kind."""

    _css = (FOLDER / "figure.css").read_text("utf-8")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # For help() and the reference: traitlets shows *args and **kwargs.
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(parameters)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: a live figure, in Jupyter and in the book>"


class Figure(LiveFigure):
    """A live figure over the whole vocabulary's logits at a few steps.

    Args:
        logits: float tensor ``(vocab,)`` or ``(steps, vocab)``.
        words: what each token id stands for: a list of ``vocab`` texts or a tokenizer.
        names: one text a step, for the reader to choose by.
    """

    _steps: ClassVar[int | None] = None  # how many it shows; None: one or more

    logits = traitlets.Bytes().tag(sync=True)  # float32, row by row
    vocab = traitlets.Int().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)  # a JSON list: any text may occur
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        logits: Tensor,
        words: Any,
        names: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        _validate.logits(logits, stage=type(self).__name__)
        table = logits.detach().reshape(-1, logits.shape[-1]).float().cpu()
        steps, vocab = table.shape
        if steps != (self._steps or max(steps, 1)):
            raise ValueError(
                f"logits has {steps} rows; {type(self).__name__} shows "
                f"{self._steps or 'at least 1'}, one for each step"
            )
        if names and len(names) != steps:
            raise ValueError(
                f"names={list(names)!r} must be {steps} texts, one for each row of "
                "logits"
            )
        super().__init__(
            logits=np.ascontiguousarray(table.numpy(), dtype="<f4").tobytes(),
            vocab=vocab,
            words=json.dumps(words_of(words, vocab), ensure_ascii=False),
            names=list(names) or [f"step {step}" for step in range(steps)],
            **settings,
        )


def words_of(words: Any, vocab: int) -> list[str]:
    """The text of each token id."""
    if callable(getattr(words, "decode", None)):
        return [words.decode([token]) for token in range(vocab)]
    texts = list(_validate.strings("words", words))
    if len(texts) != vocab:
        raise ValueError(
            f"words has {len(texts)} texts; it must be a tokenizer or {vocab} texts, "
            "one for each token id"
        )
    return texts
