"""Figures of chapter 6."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lib import distribution
from lib.plots._drawing import REST, drawing
from lib.worlds import World

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tree(world: World, words: Sequence[str], *, ax: Axes | None = None) -> None:
    """A tree: all texts of a small world, the greedy one and the best one marked.

    Args:
        world: a toy world; texts of probability 0 are left out.
        words: the vocabulary.
        ax: where to draw; None makes a figure and shows it.
    """
    law = world.sequence_law()
    texts = [tuple(text) for text in world.sequences()[law > 0].tolist()]
    mass: dict[tuple[int, ...], float] = {}
    height: dict[tuple[int, ...], float] = {}
    for depth in range(world.length + 1):
        for prefix in {text[:depth] for text in texts}:
            under = [i for i, text in enumerate(texts) if text[:depth] == prefix]
            height[prefix] = sum(under) / len(under)
            mass[prefix] = float(law[law > 0][under].sum())
    greedy = tuple(world.greedy_sequence().tolist())
    best = tuple(world.map_sequence().tolist())
    with drawing(ax, rows=round(1.4 * len(texts))) as axes:
        for node in sorted(mass, key=lambda node: (len(node), node))[1:]:
            x, parent = len(node), node[:-1]
            on_greedy, on_best = node == greedy[:x], node == best[:x]
            colour = "C1" if on_greedy else "C0" if on_best else REST
            axes.plot(
                [x - 1 + 0.27 * (x > 1), x - 0.03],
                [height[parent], height[node]],
                color=colour,
                linestyle="--" if on_greedy else "-",
                linewidth=0.8 + 7 * mass[node],
                solid_capstyle="round",
            )
            axes.annotate(words[node[-1]], (x, height[node]), va="center")
            axes.annotate(
                f"{mass[node] / mass[parent]:.3g}",
                (x - 0.42, height[parent] + 0.55 * (height[node] - height[parent])),
                ha="center",
                va="center",
                fontsize="small",
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"},
            )
        for i, text in enumerate(texts):
            axes.annotate(
                f"{float(law[law > 0][i]):.3f}",
                (world.length + 0.75, i),
                ha="right",
                va="center",
                color="C1" if text == greedy else "C0" if text == best else "black",
                fontweight="bold" if text in (greedy, best) else "normal",
            )
        axes.set_xlim(-0.05, world.length + 0.8)
        axes.set_ylim(len(texts) - 0.4, -0.6)
        axes.axis("off")


def typical(
    laws: Mapping[int, Sequence[float] | Tensor],
    *,
    entropy: float,
    best: float,
    unit: float = math.log(2),
    ax: Axes | None = None,
) -> None:
    """Curves: how the surprisal per token of a random text is distributed.

    Args:
        laws: length L -> the probabilities that a text costs 0, 1, 2, ... units.
        entropy: of one token, in nats.
        best: surprisal per token of the most probable text, in nats.
        unit: the unit of surprisal, in nats.
        ax: where to draw; None makes a figure and shows it.
    """
    with drawing(ax) as axes:
        styles = (":", "--", "-", "-.")
        for (length, law), style in zip(laws.items(), styles, strict=False):
            density = torch.as_tensor(law, dtype=torch.float64) * length / unit
            x = torch.arange(len(density)) * unit / length
            seen = density > 1e-4 * density.max()
            axes.plot(x[seen], density[seen], style, label=f"$L$ = {length:,}")
        axes.axvline(entropy, color="#555555", linewidth=0.8)
        axes.plot([best], [0], "s", color="C1", clip_on=False, zorder=3)
        axes.set_xlabel("surprisal per token (nats)")
        axes.set_ylabel("density")
        axes.set_xlim(max(0.0, best - 0.1), entropy + 2.2 * (entropy - best))
        axes.set_ylim(0, None)
        axes.legend(loc="upper right")


def luck(
    rows: Tensor,
    words: Sequence[str],
    names: Sequence[str],
    u: Sequence[float],
    *,
    ax: Axes | None = None,
) -> None:
    """Strips: which token each uniform gives, one strip for each setting.

    Args:
        rows: logits ``(settings, vocab)``.
        words: the vocabulary.
        names: of the settings.
        u: uniforms to mark, from 0 to 1.
        ax: where to draw; None makes a figure and shows it.
    """
    probs = distribution.softmax(rows.detach().double().cpu())
    with drawing(ax, rows=2 * len(names) + 1) as axes:
        for place, row in enumerate(probs.tolist()):
            edges = [0.0]
            for p in row:
                edges.append(edges[-1] + p)
            for v, (left, right) in enumerate(pairwise(edges)):
                axes.barh(
                    place,
                    right - left,
                    left=left,
                    height=0.72,
                    color=f"C{v % 8}",
                    alpha=0.45,
                    edgecolor="white",
                )
                if right - left > 0.026 * len(words[v]):
                    middle = (left + right) / 2
                    axes.annotate(
                        words[v],
                        (middle, place),
                        ha="center",
                        va="center",
                        fontsize="small",
                    )
        for x in u:
            axes.axvline(x, color="black", linewidth=1.2, linestyle="--")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("$u$")
        axes.tick_params(axis="y", length=0)
        axes.grid(False)
        axes.spines["left"].set_visible(False)


def recurrence(
    below: Sequence[int] | Tensor,
    above: Sequence[int] | Tensor,
    *,
    n: int = 3,
    ax: Axes | None = None,
) -> None:
    """Dots: where two texts of one length repeat themselves.

    A dot at (i, j) says that the n-grams at i and j are equal; the first text is
    shown below the diagonal, the second above it.

    Args:
        below: token ids of the first text.
        above: token ids of the second text.
        n: n-gram order, >= 1.
        ax: where to draw; None makes a figure and shows it.
    """
    first, second = (_equal_grams(torch.as_tensor(x), n) for x in (below, above))
    if first.shape != second.shape:
        raise ValueError(
            f"the texts have {len(below)} and {len(above)} tokens; they must have "
            "the same number"
        )
    size = len(first)
    with drawing(ax, rows=12) as axes:
        for equal, colour in ((first.tril(-1), "C1"), (second.triu(1), "C0")):
            rows, columns = equal.nonzero(as_tuple=True)
            axes.plot(columns, rows, "s", color=colour, markersize=1.6, mew=0)
        axes.plot([0, size - 1], [0, size - 1], color=REST, linewidth=0.8)
        axes.set_aspect("equal")
        axes.set_xlim(-1, size)
        axes.set_ylim(size, -1)
        axes.set_xlabel("position")
        axes.set_ylabel("position")


def _equal_grams(ids: Tensor, n: int) -> Tensor:
    """Which pairs of n-grams of a text are equal, bool ``(grams, grams)``."""
    grams = ids.flatten().unfold(0, n, 1)
    return (grams[:, None] == grams[None]).all(dim=-1)


def tradeoff(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> None:
    """Points with error bars in both directions, one for each setting.

    Args:
        points: name -> ((low, middle, high) of x, the same of y).
        xlabel: what x is; its axis is logarithmic.
        ylabel: what y is.
        ax: where to draw; None makes a figure and shows it.
    """
    with drawing(ax) as axes:
        for number, (name, (x, y)) in enumerate(points.items()):
            axes.errorbar(
                [x[1]],
                [y[1]],
                xerr=[[x[1] - x[0]], [x[2] - x[1]]],
                yerr=[[y[1] - y[0]], [y[2] - y[1]]],
                fmt="osD^v<>p"[number % 8],
                color=f"C{number % 8}",
                label=name,
                elinewidth=1,
            )
        axes.set_xscale("log")
        axes.minorticks_off()
        low, high = axes.get_xlim()
        ticks = [t for t in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200) if low < t < high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(fontsize="small", loc="best")
