"""Figures of chapter 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lib import distribution, truncation
from lib.plots._drawing import REST, drawing, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def kept(
    logits: Tensor, words: Sequence[str], top_k: int, *, ax: Axes | None = None
) -> None:
    """Bars: every token's probability before and after top-k, best first.

    Args:
        logits: float tensor ``(vocab,)`` of a small vocabulary.
        words: the vocabulary.
        top_k: how many tokens are kept.
        ax: where to draw; None makes a figure and shows it.
    """
    order = logits.sort(descending=True, stable=True).indices
    before = distribution.softmax(logits)[order].tolist()
    cut = truncation.apply_top_k(logits, top_k)
    after = distribution.softmax(cut)[order].tolist()
    with drawing(ax, rows=len(before)) as axes:
        places = range(len(before))
        axes.barh(places, before, height=0.78, color=REST, alpha=0.6, label="before")
        bars = axes.barh(places, after, height=0.4, color="C0", label="after")
        axes.bar_label(bars, [f"{q:.3f}" if q else "" for q in after], padding=3)
        axes.set_yticks(places, [visible(words[v]) for v in order.tolist()])
        axes.set_ylim(len(before) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("probability")
        axes.set_xlim(0, 1.15 * max(after))
        axes.legend(loc="lower right")


def mass_by_rank(
    steps: Mapping[str, Tensor], top_k: int, *, ax: Axes | None = None
) -> None:
    """Curves: how much probability the best r tokens hold, for one step or several.

    Args:
        steps: name -> logits, float tensor ``(vocab,)``; at most five.
        top_k: where a line marks the cut.
        ax: where to draw; None makes a figure and shows it.
    """
    styles = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    with drawing(ax) as axes:
        for number, (name, logits) in enumerate(steps.items()):
            probs = distribution.softmax(logits.detach().double().cpu())
            mass = probs.sort(descending=True).values.cumsum(-1)
            ranks = torch.arange(1, len(mass) + 1)
            color = f"C{number}"
            style = styles[number % len(styles)]
            axes.plot(ranks, mass, color=color, linestyle=style, label=name)
            cut = min(top_k, len(mass))
            axes.plot([cut], [mass[cut - 1]], "o", color=color)
        axes.axvline(top_k, color="#555555", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(1, None)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("how many of the best tokens")
        axes.set_ylabel("their mass")
        if len(steps) > 1:
            axes.legend(loc="lower right")


def tokens_needed(
    entropy: Tensor, counts: Tensor, top_k: int, *, ax: Axes | None = None
) -> None:
    """Points: for each step, how many tokens it takes to hold the mass asked for.

    Args:
        entropy: nats, one number a step.
        counts: how many tokens were needed, one number a step.
        top_k: where a line marks a fixed number.
        ax: where to draw; None makes a figure and shows it.
    """
    x, y = entropy.detach().flatten().cpu(), counts.detach().flatten().cpu()
    if len(x) != len(y):
        raise ValueError(
            f"counts has {len(y)} numbers for {len(x)} steps; allowed is one a step"
        )
    above = y > top_k
    with drawing(ax) as axes:
        axes.plot(x[~above], y[~above], "o", color="C0", markersize=3, alpha=0.5)
        axes.plot(x[above], y[above], "^", color="C1", markersize=3.5, alpha=0.5)
        axes.axhline(top_k, color="#555555", linestyle="--", linewidth=1.2)
        axes.annotate(
            f"k = {top_k}",
            (0, top_k),
            xytext=(2, 4),
            textcoords="offset points",
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlim(-0.1, None)
        axes.set_xlabel("entropy of the step (nats)")
        axes.set_ylabel("tokens needed")
