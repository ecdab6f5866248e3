"""What all figures share: the style, axes to draw on, bars with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = Path(__file__).parents[1] / "book.mplstyle"
REST = "#a0a0a0"  # what a figure mentions but does not speak about


def visible(token: str) -> str:
    """A token's text with its spaces and line breaks made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎")


@contextmanager
def drawing(ax: Axes | None, *, rows: int | None = None) -> Iterator[Axes]:
    """Axes to draw on in the book's style; a figure of our own is shown at the end.

    ``rows`` makes room for so many horizontal bars.
    """
    import matplotlib.pyplot as plt

    with plt.style.context(STYLE):
        if ax is not None:
            yield ax
            return
        width, height = plt.rcParams["figure.figsize"]
        _, axes = plt.subplots(
            figsize=(width, height if rows is None else 0.6 + 0.27 * rows)
        )
        yield axes
        plt.show()


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    *,
    below: int = 0,
    digits: int = 3,
    color: str = "C0",
) -> None:
    """Horizontal bars from top to bottom, each with its number, after ``below``."""
    places = range(below, below + len(names))
    drawn = axes.barh(places, values, height=0.72, color=color)
    axes.bar_label(drawn, [f"{value:.{digits}f}" for value in values], padding=3)
    labels = [label.get_text() for label in axes.get_yticklabels()][:below]
    axes.set_yticks(range(below + len(names)), [*labels, *names])
    axes.set_ylim(below + len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
