"""The live figure of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import traitlets

from lib import _validate
from lib.widgets._base import LiveFigure, bundle

MOST_TEXTS, MOST_TOKENS = 256, 1000  # the ends of the sliders
SIZES = (4, 2, 1)  # bytes a number
MACHINES = {
    "a laptop": (100e9, 25e9),
    "a server": (5e12, 250e9),
    "a GPU": (400e12, 2e12),
}


class Roofline(LiveFigure):
    """Chapter 8: the roof of a machine, and a GPT-2 at its best under it.

    Args:
        config: the shape of the model, as ``transformers.GPT2Config``; None: GPT-2 with
            124 million weights.
        machines: for each its name, the operations and the bytes a second that it can
            do and read at most; None: a laptop, a server and a GPU in round numbers.
        batch: how many texts go side by side at first, 1 <= m <= 256.
        tokens: how long each text is at first, in tokens, 1 <= t <= 1000.
        bytes_per_number: of weights and caches at first, 4, 2 or 1.

    Raises:
        TypeError, ValueError: an argument outside of the above.
    """

    _esm = bundle("roofline.js")
    weights = traitlets.Int().tag(sync=True)  # numbers in the matrices
    layers = traitlets.Int().tag(sync=True)
    width = traitlets.Int().tag(sync=True)
    machines = traitlets.List(traitlets.Any()).tag(sync=True)  # as _limits has them
    batch = traitlets.Int().tag(sync=True)
    tokens = traitlets.Int().tag(sync=True)
    bytes_per_number = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        config: Any = None,
        machines: Mapping[str, tuple[float, float]] | None = None,
        batch: int = 1,
        tokens: int = 500,
        bytes_per_number: int = SIZES[0],
    ) -> None:
        size = _validate.integer("bytes_per_number", bytes_per_number, low=1)
        if size not in SIZES:
            raise ValueError(f"bytes_per_number={size} must be 4, 2 or 1")
        super().__init__(
            **_shape(config),
            machines=_limits(MACHINES if machines is None else machines),
            batch=_validate.integer("batch", batch, low=1, high=MOST_TEXTS),
            tokens=_validate.integer("tokens", tokens, low=1, high=MOST_TOKENS),
            bytes_per_number=size,
        )


def _shape(config: Any) -> dict[str, int]:
    """What (8.1) and (8.2) ask of a GPT-2."""
    if config is None:
        from transformers import GPT2Config

        config = GPT2Config()
    names = ("n_layer", "n_embd", "vocab_size")
    if not all(hasattr(config, name) for name in names):
        raise TypeError(
            f"config must be a GPT2Config, with {', '.join(names)}, "
            f"got {type(config).__name__}"
        )
    layers, width, vocab = (
        _validate.integer(f"config.{name}", getattr(config, name), low=1)
        for name in names
    )
    inner = getattr(config, "n_inner", None) or 4 * width
    return {
        "weights": layers * (4 * width + 2 * inner) * width + vocab * width,
        "layers": layers,
        "width": width,
    }


def _limits(machines: Mapping[str, tuple[float, float]]) -> list[list[Any]]:
    """Each machine as a list of its name, operations and bytes a second."""
    if not isinstance(machines, Mapping) or not machines:
        raise TypeError(
            f"machines={machines!r} must map at least one name to a pair: "
            "operations and bytes a second"
        )
    rows: list[list[Any]] = []
    for name, limits in machines.items():
        if not isinstance(limits, tuple | list) or len(limits) != 2:
            raise ValueError(
                f"machines[{name!r}]={limits!r} must be a pair: operations and bytes "
                "a second"
            )
        asked = zip(("operations", "bytes"), limits, strict=True)
        checked = [
            _validate.real(f"{what} a second of {name}", limit, low=0)
            for what, limit in asked
        ]
        rows.append([str(name), *checked])
    return rows
