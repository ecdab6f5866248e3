"""Figures of chapter 5."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from torch import Tensor

from lib.plots._drawing import REST, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def repeats(
    tokens: Sequence[int] | Tensor,
    n: int,
    *,
    below: Sequence[int] | Tensor | None = None,
    ax: Axes | None = None,
) -> None:
    """Dots: at (later, earlier) wherever two n-grams of a text are equal.

    Args:
        tokens: the text, drawn above the diagonal.
        n: n-gram order.
        below: a second text, drawn below the diagonal.
        ax: where to draw; None makes a figure and shows it.
    """
    texts = [[int(token) for token in tokens]]
    if below is not None:
        texts.append([int(token) for token in below])
    longest = max(map(len, texts))
    with drawing(ax, rows=14) as axes:
        axes.plot([0, longest], [0, longest], color=REST, linewidth=1)
        for number, text in enumerate(texts):
            pairs = _equal_ngrams(text, n)
            first, second = [i for i, _ in pairs], [j for _, j in pairs]
            if number:
                first, second = second, first
            marker = "os"[number]
            axes.plot(first, second, marker, color=f"C{number}", markersize=1.6)
        axes.set_aspect("equal")
        axes.set_xlim(0, longest)
        axes.set_ylim(0, longest)
        axes.set_xlabel("position $i$")
        axes.set_ylabel("position $j$")


def _equal_ngrams(text: Sequence[int], n: int) -> list[tuple[int, int]]:
    """The pairs i < j of positions at which the same n-gram begins."""
    places = defaultdict(list)
    for i in range(len(text) - n + 1):
        places[tuple(text[i : i + n])].append(i)
    return [pair for same in places.values() for pair in combinations(same, 2)]


def ban_cost(
    lengths: Sequence[int],
    counts: Mapping[str, Sequence[int]],
    *,
    ax: Axes | None = None,
) -> None:
    """Lines: how much algorithms do in all, against the length, both logarithmic.

    Args:
        lengths: numbers of tokens.
        counts: for each algorithm by name, its count at each length.
        ax: where to draw; None makes a figure and shows it.
    """
    with drawing(ax) as axes:
        for number, (name, values) in enumerate(counts.items()):
            axes.loglog(
                lengths,
                values,
                linestyle=("-", "--", ":")[number % 3],
                marker="os^"[number % 3],
                markersize=4,
                color=f"C{number}",
            )
            axes.annotate(
                name,
                (lengths[-1], values[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlabel("length of the text, tokens")
        axes.set_ylabel("n-grams touched")
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.minorticks_off()
        axes.margins(x=0.04)


def banned_mass(
    masses: Sequence[float], moved: Sequence[bool], *, ax: Axes | None = None
) -> None:
    """Bars: the probability a ban removed at each step of a generation.

    Args:
        masses: one a step, from 0 to 1.
        moved: for each step, whether the model's best token was among the banned;
            its bar is marked.
        ax: where to draw; None makes a figure and shows it.
    """
    steps = range(len(masses))
    with drawing(ax) as axes:
        for flag, color in ((False, "C0"), (True, "C1")):
            chosen = [t for t in steps if bool(moved[t]) is flag]
            axes.bar(chosen, [masses[t] for t in chosen], width=1.0, color=color)
        marked = [t for t in steps if moved[t]]
        axes.plot(marked, [masses[t] for t in marked], "v", color="C1", markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel("banned probability")
        axes.set_xlim(-1, len(masses))
        axes.set_ylim(0, 1.04)
